"""Laws of block kernels: sums, symmetry, tiles, memory, fallback, adapters, folders."""

from __future__ import annotations

import json
import warnings

import numpy as np
import peft
import pytest
import torch

import foretune as ft
from foretune.errors import UsageError
from foretune.gradients.source import GradientSource
from foretune.kernels import inner_product, tile
from foretune.kernels.job import Job
from foretune.kernels.memory_plan import Footprint, TilePlan, machine_memory, memory_bytes, refuse_too_large, tile_plan
from foretune.progress import peak_memory
from tests.cases import FAMILIES, ROWS, TASK, language_model, outputs_of, tokenizer
from tests.conftest import assert_refused, family, run_cli, write_jsonl
from tests.oracles import jacobian_kernel
from tests.test_exactness import assert_same_kernel

LLAMA = family("llama-tied-causal")
BERT = family("bert-encoder")


def test_block_kernels_sum_to_the_full_kernel() -> None:
    kernel = ft.block_kernels(outputs_of(language_model(LLAMA), difference=False), ROWS[:3], ROWS[3:])
    layers = [kernel.select(f"*layers.{layer}.*") for layer in range(2)]
    rest = kernel.select(lambda name: "layers." not in name)
    np.testing.assert_allclose(sum(part.total() for part in [*layers, rest]), kernel.total(), rtol=1e-12)
    assert kernel.matrix().shape == (6, 6)
    assert kernel.matrix()[2 * 1 + 1, 2 * 2 + 0] == pytest.approx(kernel.total()[1, 1, 2, 0])
    assert kernel.select(["*q_proj*", "*v_proj*"]).names == tuple(
        n for n in kernel.names if "q_proj" in n or "v_proj" in n
    )
    with pytest.raises(ft.ForetuneError, match=r"No parameter block matches '\*q_porj\*'"):
        kernel.select("*q_porj*")


def test_a_training_kernel_is_symmetric_and_positive_semidefinite() -> None:
    matrix = ft.block_kernels(outputs_of(language_model(LLAMA), difference=False), ROWS).matrix()
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() >= -1e-10 * np.abs(matrix).max()


def test_the_difference_form_is_the_contrast_of_both_outputs() -> None:
    lm = language_model(family("gpt2-causal"))
    both = ft.block_kernels(outputs_of(lm, difference=False), ROWS).array
    one = ft.block_kernels(outputs_of(lm, difference=True), ROWS).array
    contrast = both[:, :, 1, :, 1] - both[:, :, 1, :, 0] - both[:, :, 0, :, 1] + both[:, :, 0, :, 0]
    np.testing.assert_allclose(one[:, :, 0, :, 0], contrast, rtol=0, atol=1e-9 * np.abs(both).max())


def test_both_contractions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(LLAMA), difference=False)
    kernels = []
    for gram in (True, False):
        monkeypatch.setattr(
            inner_product, "contraction_flops", lambda *_, gram=gram, **__: (0.0, 1.0) if gram else (1.0, 0.0)
        )
        for chunk in (2**9, 2**22):
            monkeypatch.setattr(tile, "CHUNK_BYTES", chunk)
            kernels.append(ft.block_kernels(outputs, ROWS).array)
            kernels[-1][:, :3, :, 3:] = ft.block_kernels(outputs, ROWS[:3], ROWS[3:]).array
    for kernel in kernels[1:]:
        np.testing.assert_allclose(kernel, kernels[0], rtol=0, atol=1e-12 * np.abs(kernels[0]).max())


@pytest.mark.parametrize("difference", [True, False])
@pytest.mark.parametrize("name", ["llama-causal", "gpt2-causal", "mixtral-causal"])
def test_adapters_beside_token_grams_have_the_kernels_that_they_have_by_themselves(
    name: str, difference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = outputs_of(language_model(family(name)), difference=difference)
    train, evaluation = [[ft.Example.of(row) for row in part] for part in (ROWS[:4], ROWS[4:])]
    target = {"llama-causal": "down_proj", "gpt2-causal": "c_fc", "mixtral-causal": "q_proj"}[name]
    adapters = [ft.LoRA(1), ft.LoRA(4), ft.LoRA(3, targets=(target,)), ft.LoRA(2, init="gaussian", seed=5)]
    alone = {each.label: ft.joint_kernels(outputs, train, evaluation, each) for each in adapters}
    job = ft.joint_job(outputs, train, evaluation)
    whole = ft.kernels_of(job, [ft.SGD()])["sgd"]
    for beside, apart in ((0.0, 1e30), (1e30, 0.0)):
        monkeypatch.setattr(inner_product, "adapter_flops", lambda *_, found=(beside, apart), **__: found)
        found = ft.kernels_of(job, [ft.SGD(), *adapters])
        np.testing.assert_allclose(found["sgd"].array, whole.array, rtol=0, atol=1e-12 * np.abs(whole.array).max())
        for label, kernel in alone.items():
            assert found[label].names == kernel.names
            np.testing.assert_allclose(
                found[label].array, kernel.array, rtol=0, atol=1e-12 * np.abs(kernel.array).max(), err_msg=label
            )


@pytest.mark.parametrize("plan", [TilePlan(2, 2, 2, 0, 0), TilePlan(1, 4, 3, 0, 0), TilePlan(3, 5, 9, 0, 0)], ids=str)
def test_tiles_do_not_change_the_kernel(plan: TilePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(LLAMA), difference=False)
    train, evaluation = [[ft.Example.of(row) for row in part] for part in (ROWS[:4], ROWS[4:])]
    whole = ft.joint_kernels(outputs, train, evaluation).array
    monkeypatch.setattr(Job, "plan", lambda *_, **__: plan)
    tiled = ft.joint_kernels(outputs, train, evaluation).array
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-12 * np.abs(whole).max())
    oblong = ft.block_kernels(outputs, train, evaluation).array
    np.testing.assert_allclose(oblong, whole[:, :, :, 4:], rtol=0, atol=1e-12 * np.abs(whole).max())


def test_examples_keep_their_order() -> None:
    outputs = outputs_of(language_model(BERT))
    order = [4, 0, 5, 2, 1, 3]
    kernel = ft.block_kernels(outputs, ROWS).array
    shuffled = ft.block_kernels(outputs, [ROWS[place] for place in order]).array
    np.testing.assert_allclose(shuffled, kernel[:, order][:, :, :, order], rtol=0, atol=1e-12 * np.abs(kernel).max())


def test_frozen_parameters_are_not_in_the_kernel() -> None:
    lm = language_model(LLAMA)
    lm.module.requires_grad_(False)
    lm.module.model.layers[1].self_attn.q_proj.requires_grad_(True)
    kernel = ft.block_kernels(outputs_of(lm), ROWS)
    assert kernel.names == ("model.layers.1.self_attn.q_proj.weight",)
    lm.module.requires_grad_(True)
    full = ft.block_kernels(outputs_of(lm), ROWS).select(kernel.names[0])
    np.testing.assert_allclose(kernel.array, full.array, rtol=1e-9)
    lm.module.requires_grad_(False)
    with pytest.raises(ft.ForetuneError, match="frozen"):
        ft.block_kernels(outputs_of(lm), ROWS)


@pytest.mark.parametrize("name", ["llama-causal", "gpt2-causal"])
def test_peft_models_give_the_kernel_of_their_adapters(name: str) -> None:
    base = language_model(family(name))
    targets = ["q_proj", "v_proj"] if "llama" in name else ["c_attn"]
    adapted = peft.get_peft_model(base.module, peft.LoraConfig(r=2, target_modules=targets, lora_dropout=0.3))
    torch.manual_seed(3)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    lm = ft.LanguageModel(adapted.double(), tokenizer(), "adapted", None, "causal")
    outputs = ft.AnswerLogits(lm, TASK)
    kernel = ft.block_kernels(outputs, ROWS)
    assert kernel.names
    assert all("lora_" in block for block in kernel.names)
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS), 1e-7)


class _Odd(torch.nn.Module):
    """A layer whose weight enters operations that no rule knows."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gain = torch.nn.Parameter(0.1 * torch.randn(16, 16, dtype=torch.float64))
        self.offset = torch.nn.Parameter(torch.randn(16, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + torch.tanh(x @ torch.linalg.matrix_exp(self.gain)) + self.offset.sin()


def test_parameters_without_a_rule_are_exact_and_announced() -> None:
    lm = language_model(family("llama-causal"))
    torch.manual_seed(0)
    layer = lm.module.model.layers[0].self_attn
    layer.o_proj = _Odd(layer.o_proj)
    outputs = ft.AnswerLogits(lm, TASK, difference=False)
    with pytest.warns(UserWarning, match=r"No factor rule covers .*gain.*offset") as caught:
        kernel = ft.block_kernels(outputs, ROWS[:4])
    assert len([w for w in caught if "factor rule" in str(w.message)]) == 1
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS[:4]), 1e-7)


class _InPlace(torch.nn.Module):
    """Changes a layer's result in place."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.inner(x).mul_(0.5).relu_()).add_(x)


def test_modules_called_twice_and_in_place_changes_are_exact() -> None:
    lm = language_model(family("llama-causal"))
    layer = lm.module.model.layers[1].self_attn
    layer.o_proj = _InPlace(layer.o_proj)
    outputs = ft.AnswerLogits(lm, TASK, difference=False)
    assert_same_kernel(ft.block_kernels(outputs, ROWS), jacobian_kernel(outputs, ROWS), 1e-7)


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_every_family_is_covered_by_factor_rules(case) -> None:
    outputs = outputs_of(language_model(case))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = GradientSource(outputs, [ft.Example.of(row) for row in ROWS], list(outputs.parameters()))
        source.capture(range(len(ROWS)), 8)
    assert not source.direct
    assert source.single == case.single  # experts see flattened tokens


@pytest.mark.parametrize("all_of_them", [True, False], ids=["all", "the first"])
def test_a_weight_that_requires_a_gradient_again_is_named_with_what_to_type(*, all_of_them: bool) -> None:
    outputs = outputs_of(language_model(BERT))
    before = ft.block_kernels(outputs, ROWS, blocks="*layer.0*").total()
    name, first = next(iter(outputs.module.named_parameters()))
    (outputs.module if all_of_them else first).requires_grad_(True)
    with pytest.raises(UsageError, match=rf"{name}' of outputs\.module requires a gradient.*requires_grad_\(False\)"):
        ft.block_kernels(outputs, ROWS, blocks="*layer.0*")
    outputs.module.requires_grad_(False)
    assert np.array_equal(ft.block_kernels(outputs, ROWS, blocks="*layer.0*").total(), before)


def test_non_finite_weights_are_reported_by_module() -> None:
    lm = language_model(LLAMA)
    with torch.no_grad():
        lm.module.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(ft.ForetuneError, match=r"module 'model\.layers\.1\.mlp\.up_proj'"):
        ft.block_kernels(outputs_of(lm), ROWS)


def test_non_finite_numbers_of_a_later_batch_are_reported_by_module() -> None:
    outputs = ft.HeadLogits(language_model(LLAMA))
    examples = [ft.Example.of(row) for row in ROWS]
    source = GradientSource(outputs, examples, list(outputs.parameters()))
    shortest = min(range(len(examples)), key=source.lengths.__getitem__)
    others = {token for place, item in enumerate(source.encoded) if place != shortest for token in item.ids}
    others.add(outputs.lm.tokenizer.pad_token_id)
    own = next(token for token in source.encoded[shortest].ids if token not in others)
    with torch.no_grad():
        outputs.module.get_parameter("model.model.embed_tokens.weight")[own] = float("nan")
    with pytest.raises(ft.ForetuneError, match=r"module 'model\.embed_tokens' is infinite or undefined"):
        source.capture(range(len(examples)), 2)
    finite = [place for place in range(len(examples)) if place != shortest]
    assert sum(len(batch.positions) for batch in source.capture(finite, 2)) == len(finite)


def test_a_gradient_that_is_not_finite_is_reported_by_module() -> None:
    outputs = outputs_of(language_model(LLAMA))
    layer = outputs.module.model.model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda _module, _args, out: out + (out - out.detach()).abs().sqrt())  # 0, its slope inf
    with pytest.raises(ft.ForetuneError, match=r"The gradient at module 'model\.layers\.0\.mlp\.down_proj'"):
        ft.block_kernels(outputs, ROWS)


def test_numbers_that_are_not_finite_by_chance_are_refused_too() -> None:
    outputs = outputs_of(language_model(LLAMA))
    next_time: list[float] = []
    outputs.module.model.model.layers[0].mlp.down_proj.register_forward_hook(
        lambda _module, _args, out: out * next_time.pop() if next_time else out
    )
    source = GradientSource(outputs, [ft.Example.of(row) for row in ROWS], list(outputs.parameters()))
    source.capture(range(len(ROWS)), 8)
    next_time.append(float("nan"))
    with pytest.raises(ft.ForetuneError, match=r"are not when they are computed again.*model\.eval\(\)"):
        source.capture(range(len(ROWS)), 8)


def test_float32_agrees_with_float64() -> None:
    for case in (LLAMA, BERT):
        exact = ft.block_kernels(outputs_of(language_model(case)), ROWS)
        single = ft.block_kernels(outputs_of(language_model(case, torch.float32)), ROWS)
        assert single.array.dtype == np.float64
        np.testing.assert_allclose(single.total(), exact.total(), rtol=0, atol=1e-4 * np.abs(exact.total()).max())


def test_saved_kernels_come_back_and_foreign_ones_are_refused(tmp_path) -> None:
    outputs = outputs_of(language_model(LLAMA))
    kernel = ft.block_kernels(outputs, ROWS)
    kernel.save(tmp_path / "k")
    opened = ft.BlockKernel.open(tmp_path / "k")
    assert opened.names == kernel.names
    assert np.array_equal(opened.array, kernel.array)
    with pytest.raises(ft.ForetuneError, match="holds another kernel"):
        ft.block_kernels(outputs, ROWS[:3]).save(tmp_path / "k")
    with pytest.raises(ft.ForetuneError, match="weights"):
        with torch.no_grad():
            outputs.lm.module.model.norm.weight += 1
        ft.block_kernels(outputs, ROWS, out=tmp_path / "k")
    description = json.loads((tmp_path / "k" / "kernel.json").read_text())
    description["identity"]["model"] = "another"
    (tmp_path / "k" / "kernel.json").write_text(json.dumps(description))
    with pytest.raises(ft.ForetuneError, match="changed after it was written"):
        ft.BlockKernel.open(tmp_path / "k")


def test_memory_budgets_are_read_and_plans_keep_them() -> None:
    assert memory_bytes("2GiB") == 2 * 2**30
    assert memory_bytes("1.5 MB") == 1_500_000
    assert memory_bytes(5) == 5
    lengths = [10 + i % 30 for i in range(200)]
    for budget in (2**28, 2**29, 2**31, 2**33):
        for overlap in (True, False):
            plan = tile_plan(
                Footprint(2**16, 2.0**20, 2.0**19), (lengths[:64], lengths), budget, overlap=overlap, single=False
            )
            assert plan.peak <= budget
            assert plan.passes >= 200
    with pytest.raises(ft.ForetuneError, match="too small"):
        tile_plan(Footprint(2**16, 2.0**20, 2.0**19), (lengths[:64], lengths), 2**27, overlap=True, single=False)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["520MiB", "640MiB"])  # without one it would be 700 MiB
def test_the_memory_budget_is_kept_on_a_real_model(budget: str) -> None:
    lm, task = ft.load_model("minilm"), ft.load_task("movies")
    split = task.few_shot(ft.load_rows(task), k=12, seed=13, test=60)
    outputs = ft.HeadLogits(lm, difference=False)
    ft.block_kernels(outputs, split.train[:4])  # libraries load, threads start
    with peak_memory() as peak:
        ft.joint_kernels(outputs, split.train, split.test, memory=budget)
    assert peak.peak - peak.before <= memory_bytes(budget)


def test_a_head_keeps_the_precision_of_its_weights() -> None:
    lm = language_model(BERT)
    weight = torch.rand(2, 16, dtype=torch.float64)
    outputs = ft.HeadLogits(lm, weight=weight, bias=torch.full((2,), 0.1, dtype=torch.float64))
    assert torch.equal(outputs.parameters()["head.weight"], weight)
    assert float(outputs.parameters()["head.bias"][0]) == 0.1


def test_a_kernel_that_overflows_names_its_block() -> None:
    lm = language_model(BERT, torch.float32)
    outputs = ft.HeadLogits(lm, weight=torch.tensor([[0.0] * 16, [1e30] * 16]), bias=torch.zeros(2))
    with pytest.raises(ft.ForetuneError, match=r"kernel of '.*' \(sgd\).*--dtype float64"):
        ft.block_kernels(outputs, ROWS[:2])


@pytest.mark.parametrize("token", [2.0**10, 2.0**20])
@pytest.mark.parametrize("arrays", [0, 2**20, 2**30])
@pytest.mark.parametrize("lengths", [[3], [40, 300, 7]], ids=str)
def test_the_budget_that_a_refusal_names_is_enough(token: float, arrays: int, lengths: list[int]) -> None:
    footprint = Footprint(2**16, token, token / 2)
    with pytest.raises(ft.ForetuneError, match="too small") as refused:
        tile_plan(footprint, (lengths, lengths), 1000, arrays, overlap=True, single=False)
    hint = str(refused.value).split("--memory ")[1].split(",")[0]
    tile_plan(footprint, (lengths, lengths), memory_bytes(hint), arrays, overlap=True, single=False)
    assert memory_bytes("4e9") == memory_bytes("4e9 bytes") == 4_000_000_000


@pytest.mark.parametrize("budget", ["2GiB", "100000GiB"])
@pytest.mark.parametrize(
    "command", ["forecast --features exact", "forecast --features exact --plan", "kernel", "kernel --plan"]
)
def test_kernels_that_no_machine_holds_are_refused_before_anything_is_computed(
    command, budget, bert_folder, tmp_path
) -> None:
    rows = [{"text": f"the film {n} was {WORD[n % 7]}", "label": f"class {n % 150}"} for n in range(900)]
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, rows)
    name, *plan = command.split()
    result = run_cli(
        name, bert_folder, file, "--max-labels", 150, "--k", 2, "--memory", budget, *plan, "--out", tmp_path / "o"
    )
    assert_refused(result, "too many for this machine's", "--labels a,b", "(--k, --test)", "--blocks")


WORD = ["good", "bad", "dull", "slow", "fast", "sad", "fine"]


@pytest.mark.parametrize("arrays", [2**40, machine_memory() + 1])
def test_no_budget_allows_kernels_larger_than_the_machine(arrays: int) -> None:
    with pytest.raises(ft.ForetuneError, match="too many for this machine's"):
        tile_plan(Footprint(1, 1.0, 1.0), ([3], [3]), 2**60, arrays, overlap=True, single=False)
    refuse_too_large(2**20, 2**10)  # a larger budget helps
