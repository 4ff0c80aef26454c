"""What a rule, a formula or the recorder drops is never a kernel of zeros: it is seen, or the run stops and says where."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

import foretune as ft
from foretune.errors import KernelLawError, ModelError, NonFiniteError
from foretune.experiment.function import probed
from foretune.gradients import rules
from foretune.gradients.factors import Products
from foretune.gradients.plain import visit_gradients
from foretune.gradients.source import GradientSource
from foretune.kernels import formula_laws, inner_product, law, token_gram
from foretune.kernels.signs import SignFormula
from tests.cases import ROWS, TASK, language_model, outputs_of, tokenizer
from tests.conftest import family
from tests.families import saved
from tests.oracles import jacobian_kernel
from tests.test_exactness import assert_same_kernel

TEXTS = [row["text"] for row in ROWS]
FORMULAS = [
    ft.SGD(),
    ft.LoRA(3),
    ft.SignGD(),
    ft.SignGD(eps=0.1, threshold=0.0),
    ft.AsymmetricSignGD(),
    ft.IntrinsicDimension(8),
    ft.Rademacher(8),
    ft.Kronecker(8),
]


class _Layer(torch.nn.Module):
    """A linear layer that uses its parameters in a way of its own."""

    def __init__(self, inner: torch.nn.Linear, use) -> None:
        super().__init__()
        self.inner, self.use = inner, use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.use(x, self.inner.weight, self.inner.bias)


def with_layer(use, name: str = "bert-encoder", dtype: torch.dtype = torch.float64):
    """Outputs of a small BERT whose first output layer is another one."""
    lm = language_model(family(name), dtype)
    owner = lm.module.encoder.layer[0].output
    owner.dense = _Layer(owner.dense, use)
    return outputs_of(lm, difference=False)


def written_by_index(x, weight, bias):
    buffer = x.new_zeros(weight.shape)
    buffer[:] = weight
    shift = x.new_zeros(len(bias))
    shift[: len(bias)] = bias
    return x @ buffer.T + shift


def written_in_place(x, weight, bias):
    shift = x.new_zeros(len(bias)).copy_(bias)
    return (x @ x.new_zeros(weight.shape).add_(weight).T).add_(shift)


def written_out(x, weight, bias):
    shift = torch.add(bias, 0.0, out=torch.zeros_like(bias))
    return torch.einsum("nti,oi->nto", x, weight) + shift


def in_a_dictionary(x, weight, bias):
    pieces = {"weights": [[weight, bias]]}
    joined = torch.cat([pieces["weights"][0][0], pieces["weights"][0][1][:, None]], 1)
    return torch.nn.functional.linear(torch.cat([x, torch.ones_like(x[..., :1])], -1), joined)


def tokens_first(x, weight, bias):
    return (x.transpose(0, 1).flatten(0, 1) @ weight.T + bias).unflatten(0, x.shape[1::-1]).transpose(0, 1)


def tokens_first_unflattened(x, weight, bias):
    return torch.nn.functional.linear(x.transpose(0, 1), weight, bias).transpose(0, 1)


LINEAR = {
    "matmul": lambda x, w, b: x @ w.T + b,
    "matmul-t": lambda x, w, b: torch.matmul(x, w.t()) + b,
    "einsum": lambda x, w, b: torch.einsum("...i,oi->...o", x, w) + b,
    "einsum-first": lambda x, w, b: torch.einsum("io,nti->nto", w.transpose(0, 1), x) + b,
    "addmm": lambda x, w, b: torch.addmm(b, x.flatten(0, 1), w.permute(1, 0)).unflatten(0, x.shape[:2]),
    "turned twice": lambda x, w, b: torch.nn.functional.linear(x, w.mT.mT, b),
    "both ways": lambda x, w, b: torch.nn.functional.linear(x, w, b) + (x @ w.T @ w) @ w.T,
}
WRITTEN = {f.__name__: f for f in (written_by_index, written_in_place, in_a_dictionary)}


@pytest.mark.parametrize("use", LINEAR.values(), ids=LINEAR)
def test_every_way_to_write_a_linear_layer_has_its_kernel(use) -> None:
    outputs = with_layer(use)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernels = ft.kernels_of(ft.separate_job(outputs, TEXTS[:3], None, None), [ft.SGD(), ft.LoRA(3)])
    assert_same_kernel(kernels["sgd"], jacobian_kernel(outputs, TEXTS[:3]), 1e-10)
    assert all(np.abs(block).max() > 0 for block in kernels["lora-r3"].array)


@pytest.mark.parametrize("name", ["matmul", "einsum", "addmm"])
def test_a_linear_layer_written_out_needs_no_gradient_from_autograd(name: str) -> None:
    outputs = with_layer(LINEAR[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ft.block_kernels(outputs, TEXTS[:3])


@pytest.mark.parametrize("use", WRITTEN.values(), ids=WRITTEN)
def test_a_parameter_written_into_another_tensor_is_seen(use) -> None:
    outputs = with_layer(use)
    with pytest.warns(UserWarning, match="No factor rule covers"):
        kernel = ft.block_kernels(outputs, TEXTS[:3])
    assert_same_kernel(kernel, jacobian_kernel(outputs, TEXTS[:3]), 1e-10)


@pytest.mark.parametrize("use", [tokens_first, tokens_first_unflattened])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_that_lays_out_tokens_before_examples_takes_them_one_at_a_time(use, dtype) -> None:
    outputs, plain = (with_layer(each, dtype=dtype) for each in (use, LINEAR["matmul"]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = ft.block_kernels(outputs, TEXTS)
    if use is tokens_first:
        assert sum("mixes the examples of a batch" in str(each.message) for each in said) == 1
    if dtype == torch.float64:
        assert_same_kernel(found, jacobian_kernel(outputs, TEXTS), 1e-10)
    else:
        whole = ft.block_kernels(plain, TEXTS).array.sum(0)
        assert np.abs(found.array.sum(0) - whole).max() < 0.1 * np.abs(whole).max()


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_law_uses_the_first_batch_and_changes_no_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(family("llama-tied-causal"), torch.float32))
    seen = []
    plain = GradientSource._captured
    monkeypatch.setattr(GradientSource, "_captured", lambda self, run: seen.append(run.positions) or plain(self, run))
    found = ft.block_kernels(outputs, TEXTS[:count])
    assert sorted(place for positions in seen for place in positions) == list(range(count)), "no example is taken twice"
    monkeypatch.setattr(law, "CHECKED", False)
    assert np.array_equal(found.array, ft.block_kernels(outputs, TEXTS[:count]).array)


def test_a_parameter_written_where_autograd_cannot_follow_is_refused() -> None:
    with pytest.raises(ModelError, match="automatic differentiation"):
        ft.block_kernels(with_layer(written_out), TEXTS[:3])


def test_a_weight_that_no_rule_covers_keeps_its_adapter() -> None:
    plain, odd = (with_layer(use) for use in (LINEAR["matmul"], written_by_index))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = (ft.block_kernels(o, TEXTS[:3], formula=ft.LoRA(3)) for o in (plain, odd))
    assert expected.names == found.names
    np.testing.assert_allclose(found.array, expected.array, rtol=1e-9, atol=1e-12)


class _Twice(torch.autograd.Function):
    """A product with a backward pass of its own, which no torch call shows."""

    @staticmethod
    def forward(ctx, x, weight) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, g) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        return g @ weight, (g.mT @ x).sum(0)


def test_a_use_that_the_recorder_cannot_see_stops_the_run() -> None:
    outputs = with_layer(lambda x, w, b: _Twice.apply(x, w) + b)
    with pytest.raises(KernelLawError, match=r"kernel \(sgd\) of 'encoder.layer.0.output.dense.inner.weight'"):
        ft.block_kernels(outputs, TEXTS[:3])


@pytest.mark.parametrize("dropped", ["linear", "layer_norm", "embedding"])
def test_a_rule_that_drops_a_contribution_stops_the_run(dropped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, calls = rules.RULES[dropped], []

    def forgetful(recorder, func, args, kwargs) -> object:
        calls.append(1)
        before = len(recorder.uses)
        result = rule(recorder, func, args, kwargs)
        if (len(calls) % 5 == 2 or dropped == "embedding") and len(recorder.uses) > before:
            use = recorder.uses.pop()
            use.receive(torch.zeros_like(use.result))
        return result

    monkeypatch.setitem(rules.RULES, dropped, forgetful)
    outputs = outputs_of(language_model(family("llama-tied-causal" if dropped == "embedding" else "bert-encoder")))
    with pytest.raises(KernelLawError, match="is not that of its gradient"):
        ft.block_kernels(outputs, TEXTS[:4])


@pytest.mark.parametrize("formula", [f for f in FORMULAS if not isinstance(f, ft.SGD)], ids=lambda f: f.label)
def test_a_formula_that_drops_a_contribution_stops_the_run(formula, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    if isinstance(formula, ft.LoRA):
        monkeypatch.setattr(
            inner_product, "_adapted", lambda _name, tile, _a: [dataclasses.replace(b, factors={}) for b in tile]
        )
    elif isinstance(formula, SignFormula):
        whole = SignFormula.together.__func__
        monkeypatch.setattr(
            SignFormula, "together",
            classmethod(lambda cls, *args: ((f, n, k * (0.5 if "bias" in n else 1)) for f, n, k in whole(cls, *args))),
        )  # fmt: skip
    else:
        whole = type(formula).block_features
        monkeypatch.setattr(
            type(formula), "block_features",
            lambda self, name, tile, space: (
                part * (0 if "bias" in name and len(tile[0].factors) < 3 and tile[0].outputs.any() else 1)
                for part in whole(self, name, tile, space)
            ),
        )  # fmt: skip
    with pytest.raises(KernelLawError, match=formula.label):
        ft.block_kernels(outputs, TEXTS[:4], formula=formula)


def test_adapters_beside_a_token_gram_are_held_against_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    job = ft.separate_job(outputs, TEXTS[:4], None, None)
    ft.kernels_of(job, [ft.SGD(), ft.LoRA(3)])
    growing = token_gram._growing
    monkeypatch.setattr(token_gram, "_growing", lambda *args: (0.5 * part for part in growing(*args)))
    ft.kernels_of(job, [ft.LoRA(3)])
    with pytest.raises(KernelLawError, match="lora-r3"):
        ft.kernels_of(job, [ft.SGD(), ft.LoRA(3)])


def test_the_plain_pass_leaves_the_model_as_it_was_and_gives_what_autograd_gives() -> None:
    outputs = outputs_of(language_model(family("llama-tied-causal")), difference=False)
    parameters = outputs.parameters()
    encoded = [outputs.encode(ft.Example(text)) for text in TEXTS[:2]]
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    kept = torch.ones_like(parameters["model.norm.weight"])
    parameters["model.norm.weight"].grad = kept
    found: dict[str, torch.Tensor] = {}
    visit_gradients(
        outputs, parameters, list(zip(encoded, weights, strict=True)), lambda n, g: found.update({n: g.clone()})
    )
    assert parameters["model.norm.weight"].grad is kept
    assert not any(tensor.requires_grad for tensor in parameters.values())
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
    total = sum(
        (outputs.logits(leaves, outputs.collate([e]))[0] * w).sum() for e, w in zip(encoded, weights, strict=True)
    )
    for name, grad in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(found[name], grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name", ["bert-masked", "llama-tied-causal", "gpt2-causal", "mixtral-causal", "deberta-v2-masked"]
)
def test_the_law_has_no_false_alarm(name: str, dtype: torch.dtype) -> None:
    outputs = outputs_of(language_model(family(name), dtype), difference=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*mixes the examples")
        job = ft.separate_job(outputs, TEXTS[:4], None, None)
        law.check_law(job.source, {formula: formula.blocks(job.kinds) for formula in FORMULAS}, range(4), 4)


def test_every_formula_is_held_against_the_gradient_on_some_block() -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    job = ft.separate_job(outputs, TEXTS[:3], None, None)
    tile = job.source.capture(range(3), 3)
    blocks = {formula: formula.blocks(job.kinds) for formula in FORMULAS}
    names = formula_laws.sampled(dict.fromkeys(job.source.parameters, 1.0), tile, blocks)
    kinds = {type(factor) for name in names for batch in tile for factor in [batch.factors[name]]}
    assert Products in kinds
    assert len(kinds) == 3
    assert any(name in blocks[FORMULAS[1]] for name in names)


def test_threads_that_share_one_function_get_their_own_kernels() -> None:
    outputs = outputs_of(language_model(family("llama-tied-causal")))
    parts = [TEXTS[place : place + 2] for place in range(4)]
    alone = [ft.block_kernels(outputs, part).array for part in parts]
    for shared in (outputs, copy.deepcopy(outputs)):
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda part, o=shared: ft.block_kernels(o, part).array, parts * 2))
        assert all(np.array_equal(*pair) for pair in zip(together, alone * 2, strict=True))


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad], ids=["inference", "no-grad"])
def test_kernels_do_not_depend_on_the_callers_gradient_mode(around) -> None:
    expected = ft.block_kernels(outputs_of(language_model(family("bert-masked"))), TEXTS[:3]).array
    lm = language_model(family("bert-masked"))
    with around():
        assert np.array_equal(ft.block_kernels(outputs_of(lm), TEXTS[:3]).array, expected)
        ft.block_kernels(outputs_of(lm, head=True), TEXTS[:3])


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        lm = language_model(family("bert-masked"))
    with pytest.raises(ft.ForetuneError, match="Load the model outside"):
        ft.block_kernels(outputs_of(lm), TEXTS[:3])


@pytest.mark.parametrize("name", ["bert-masked", "llama-tied-causal"])
def test_kernels_under_autocast_are_near_those_without(name: str) -> None:
    outputs = outputs_of(language_model(family(name), torch.float32))
    expected = ft.block_kernels(outputs, TEXTS[:3]).total()
    for formula in (ft.SGD(), ft.LoRA(2), ft.SignGD(), ft.Kronecker(8)):
        with torch.autocast("cpu", torch.bfloat16):
            kernel = ft.block_kernels(outputs, TEXTS[:3], formula=formula)
        if isinstance(formula, ft.SGD):
            assert np.abs(kernel.total() - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_outputs_and_factors_of_two_precisions(name: str, dtype: str, tmp_path: Path) -> None:
    lm = dataclasses.replace(ft.load_model(saved(name, tmp_path), dtype=dtype), tokenizer=tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = ft.block_kernels(ft.AnswerLogits(lm, TASK), TEXTS[:3]).total()
    assert np.isfinite(kernel).all()
    assert kernel[0, 0, 0, 0] > 0


@pytest.mark.parametrize("name", ["fnet", "convbert", "funnel", "mobilebert"])
def test_a_model_that_reads_padding_takes_examples_one_at_a_time_and_says_so(name: str, tmp_path: Path) -> None:
    lm = dataclasses.replace(ft.load_model(saved(name, tmp_path), dtype="float64"), tokenizer=tokenizer())
    texts = TEXTS[:3]
    outputs = ft.HeadLogits(lm)
    with pytest.warns(UserWarning, match="Padding changes what"):
        together = ft.block_kernels(outputs, texts)
    alone = [ft.block_kernels(ft.HeadLogits(lm), [text]) for text in texts]
    for place, kernel in enumerate(alone):
        np.testing.assert_allclose(together.array[:, place, :, place], kernel.array[:, 0, :, 0], rtol=1e-9, atol=1e-12)
    values = torch.cat([outputs.forward(outputs.batch([text])) for text in texts])
    torch.testing.assert_close(outputs.forward(outputs.batch(texts)), values)


def test_models_that_hide_padding_are_not_slowed_down() -> None:
    for name in ("bert-masked", "llama-tied-causal", "modernbert-masked"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            outputs = outputs_of(language_model(family(name), dtype))
            ft.block_kernels(outputs, TEXTS[:4])
            assert outputs.alone is False, (name, dtype)


def test_orthogonal_fine_tuning_has_a_kernel(tmp_path: Path) -> None:
    base = language_model(family("llama-causal")).module
    adapted = peft.get_peft_model(base, peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"])).double().eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    outputs = ft.AnswerLogits(ft.LanguageModel(adapted, tokenizer(), "oft", None, "causal"), TASK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = ft.block_kernels(outputs, TEXTS[:3])
    assert all(np.abs(block).max() > 0 for block in kernel.array)
    assert_same_kernel(kernel, jacobian_kernel(outputs, TEXTS[:3]), 1e-7)


def test_features_that_are_not_finite_name_their_module() -> None:
    lm = language_model(family("bert-encoder"), torch.float32)
    with torch.no_grad():
        lm.module.encoder.layer[1].intermediate.dense.weight[0, 0] = torch.inf
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["negative", "positive"] * 3, strict=True)]
    split = TASK.few_shot(rows, k=1, seed=0, test=2)
    with pytest.raises(NonFiniteError, match=r"weight 'encoder\.layer\.1\.intermediate\.dense\.weight' holds"):
        probed(ft.HeadLogits(lm), TASK, split)


def test_a_tied_output_layer_stays_without_the_head_and_it_is_said() -> None:
    outputs = outputs_of(language_model(family("llama-tied-causal")))
    with pytest.warns(UserWarning, match="--exclude-embeddings"):
        names = outputs.chosen(ft.ParameterFilter(head=False))
    assert "model.embed_tokens.weight" in names
    untied = outputs_of(language_model(family("llama-causal")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "lm_head.weight" not in untied.chosen(ft.ParameterFilter(head=False))
        outputs.chosen(ft.ParameterFilter(head=False, embeddings=False))


def test_one_eps_for_each_block_is_matched_to_its_gradient() -> None:
    outputs = outputs_of(language_model(family("bert-encoder")), difference=False)
    sgd = ft.block_kernels(outputs, TEXTS[:3])
    sizes = {name: tensor.numel() for name, tensor in outputs.parameters().items()}
    eps = ft.BlockEps.matched(sgd, sizes, 0.5)
    smooth = ft.block_kernels(outputs, TEXTS[:3], formula=ft.SignGD(eps=eps, threshold=0.0))
    for name in (sgd.names[4], sgd.names[-2]):
        scale = np.sqrt(np.einsum("icic->", sgd.select(name).array[0]) / (3 * 2 * sizes[name]))
        assert eps.of(name) == pytest.approx(0.5 * scale)
        one = ft.block_kernels(outputs, TEXTS[:3], formula=ft.SignGD(eps=eps.of(name), threshold=0.0), blocks=name)
        np.testing.assert_allclose(smooth.select(name).array, one.array, rtol=1e-12)
    with pytest.raises(ft.ForetuneError, match="no eps for"):
        ft.block_kernels(outputs, TEXTS[:2], formula=ft.SignGD(eps=ft.BlockEps((("x", 1.0),))))
