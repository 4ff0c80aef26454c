"""Block kernels are the inner products of Jacobians, entry by entry, on every architecture family."""

from __future__ import annotations

import warnings
from itertools import combinations_with_replacement

import numpy as np
import peft
import pytest
import torch
import transformers

import foretune as ft
from tests.cases import FALLBACKS, FAMILIES, ROWS, TASK, Family, language_model, outputs_of, tokenizer
from tests.conftest import family as family_of
from tests.oracles import jacobian_kernel


def assert_same_kernel(kernel: ft.BlockKernel, oracle: dict[str, np.ndarray], tolerance: float) -> None:
    """Every block agrees relative to its own largest entry, or is zero to rounding of the whole kernel."""
    assert list(kernel.names) == list(oracle)
    scale = max(np.abs(values).max() for values in oracle.values())
    for name, values in zip(kernel.names, kernel.array, strict=True):
        largest = np.abs(oracle[name]).max()
        if largest < 1e-14 * scale:  # zero in exact arithmetic: BERT's key biases
            assert np.abs(values).max() < 1e-13 * scale, name
        else:
            assert np.abs(values - oracle[name]).max() <= tolerance * largest, name


@pytest.mark.parametrize("difference", [True, False], ids=["c1", "c2"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_block_kernels_are_jacobian_products(family: Family, difference: bool) -> None:
    outputs = outputs_of(language_model(family), difference=difference)
    kernel = ft.block_kernels(outputs, ROWS[:4], ROWS[2:])
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS[:4], ROWS[2:]), family.tolerance)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.kind != "masked"], ids=str)
def test_head_kernels_are_jacobian_products(family: Family) -> None:
    outputs = outputs_of(language_model(family), head=True)
    kernel = ft.block_kernels(outputs, ROWS)
    assert kernel.array.shape[2] == 3
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS), family.tolerance)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_padding_never_changes_an_entry(family: Family) -> None:
    outputs, rows = outputs_of(language_model(family)), ROWS[:4]  # four lengths
    together = ft.block_kernels(outputs, rows).array
    alone = np.zeros_like(together)
    for i, j in combinations_with_replacement(range(len(rows)), 2):
        alone[:, i, :, j] = ft.block_kernels(outputs, rows[i : i + 1], rows[j : j + 1]).array[:, 0, :, 0]
        alone[:, j, :, i] = alone[:, i, :, j].transpose(0, 2, 1)
    np.testing.assert_allclose(together, alone, rtol=0, atol=family.tolerance * np.abs(alone).max())


@pytest.mark.parametrize("family", FALLBACKS, ids=str)
def test_families_beyond_the_rules_fall_back_exactly_and_say_so_once(family: Family) -> None:
    outputs = outputs_of(language_model(family), difference=False)
    with pytest.warns(UserWarning, match="No factor rule covers") as caught:
        kernel = ft.block_kernels(outputs, ROWS[:4])
    assert len(caught) == 1
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS[:4]), family.tolerance)


@pytest.mark.parametrize("texts", [["the plot was good ."] * 5 + ["it is very slow ,"], ["", "", ""]], ids=["6x6", "1"])
def test_tables_that_examples_share_are_never_taken_for_one_row_each(texts: list[str]) -> None:
    outputs = outputs_of(language_model(family_of("t5-encoder")), difference=False)
    assert {len(outputs.encode(ft.Example(text)).ids) for text in texts} <= {1, len(texts)}
    kernel = ft.block_kernels(outputs, texts)
    assert_same_kernel(kernel, jacobian_kernel(outputs, texts), 1e-7)


class _TakenApart(torch.nn.Module):
    """Uses a weight in pieces and a bias in a list."""

    def __init__(self, inner: torch.nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top, bottom = self.inner.weight.chunk(2)
        y = torch.nn.functional.linear(x, torch.cat([bottom, top])) + self.inner(x)
        return torch.stack([y, self.inner.bias.expand_as(y)]).sum(0)


class _ChangedView(torch.nn.Module):
    """Changes a view of a layer's result in place."""

    def __init__(self, inner: torch.nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        y.view(*y.shape[:-1], 4, -1).transpose(1, 2).mul_(0.5).tanh_()
        return y


@pytest.mark.parametrize("odd", [_TakenApart, _ChangedView])
def test_no_way_to_use_a_parameter_is_missed(odd: type[torch.nn.Module]) -> None:
    lm = language_model(family_of("bert-encoder"))
    layer = lm.module.encoder.layer[0].output
    layer.dense = odd(layer.dense)
    outputs = outputs_of(lm, difference=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = ft.block_kernels(outputs, ROWS[:4])
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS[:4]), 1e-10)


def trained_adapter(name: str) -> ft.LanguageModel:
    """A tiny model with a LoRA adapter that has been trained (B is not zero)."""
    base = language_model(family_of(name)).module
    targets = ["c_attn", "c_fc"] if name.startswith("gpt2") else ["q_proj", "down_proj"]
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, lora_dropout=0.3))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1)
    return ft.LanguageModel(adapted.double(), tokenizer(), "adapted", None, "causal")


@pytest.mark.parametrize("name", ["llama-causal", "gpt2-causal"])
def test_adapters_have_the_kernel_of_what_peft_trains(name: str) -> None:
    lm = trained_adapter(name)
    outputs = ft.AnswerLogits(lm, TASK)
    trained = {n: p for n, p in lm.module.eval().named_parameters() if p.requires_grad}
    jacobians = []
    for row in ROWS:
        encoded = outputs.encode(ft.Example.of(row))
        logits = lm.module(input_ids=torch.tensor([encoded.ids])).logits[0, encoded.position]
        negative, positive = outputs.encode.answer_ids()
        jacobians.append(torch.autograd.grad(logits[positive] - logits[negative], list(trained.values())))
    flat = [torch.stack([gradient.flatten() for gradient in block]) for block in zip(*jacobians, strict=True)]
    oracle = {n: (rows @ rows.T)[:, None, :, None].numpy() for n, rows in zip(trained, flat, strict=True)}
    assert all(".lora_A.default.weight" in n or ".lora_B.default.weight" in n for n in trained)
    assert_same_kernel(ft.block_kernels(outputs, ROWS), oracle, 1e-7 if "llama" in name else 1e-10)


@pytest.mark.parametrize("name", ["llama-causal", "gpt2-causal"])
def test_adapters_under_a_head_have_the_kernel_of_what_peft_trains(name: str) -> None:
    lm = trained_adapter(name)
    outputs = ft.HeadLogits(lm, n_outputs=3)
    trained = [n for n, p in lm.module.named_parameters() if p.requires_grad]
    assert list(outputs.parameters()) == [*trained, "head.weight", "head.bias"]
    kernel = ft.block_kernels(outputs, ROWS)
    assert all(np.abs(values).max() > 0 for values in kernel.array)
    assert_same_kernel(kernel, jacobian_kernel(outputs, ROWS), 1e-7 if "llama" in name else 1e-10)


@pytest.mark.parametrize(
    ("model", "config", "loaded"),
    [
        ("T5ForConditionalGeneration", "T5Config", "T5EncoderModel"),
        ("ElectraForPreTraining", "ElectraConfig", "ElectraModel"),
    ],
)
def test_what_has_no_words_to_answer_with_is_loaded_as_an_encoder(model: str, config: str, loaded: str, tmp_path):
    small = {"vocab_size": 44, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
    if model.startswith("Electra"):
        small = {"vocab_size": 44, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
    made = getattr(transformers, model)(getattr(transformers, config)(**small))
    made.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm = ft.load_model(tmp_path)
    assert (type(lm.module).__name__, lm.kind) == (loaded, "encoder")
    weights = {key.removeprefix("electra."): value for key, value in made.state_dict().items()}
    assert all(torch.equal(value, weights[key]) for key, value in lm.module.state_dict().items())


def test_the_users_model_is_left_as_it_was() -> None:
    lm = language_model(FAMILIES[0])
    lm.module.train()
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in lm.module.named_parameters()}
    outputs = outputs_of(lm)
    first = ft.block_kernels(outputs, ROWS[:3]).array
    second = ft.block_kernels(outputs, ROWS[:3]).array
    assert np.array_equal(first, second)  # no dropout although the model is in train mode
    assert lm.module.training
    for name, parameter in lm.module.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_real_models_in_float32_agree_with_jacobians(name: str) -> None:
    lm, task = ft.load_model(name), ft.load_task("movies")
    rows = task.few_shot(ft.load_rows(task), k=2, seed=13, test=4).test[: 4 if name == "minilm" else 2]
    outputs = ft.HeadLogits(lm, difference=False) if name == "minilm" else ft.AnswerLogits(lm, task)
    kernel = ft.block_kernels(outputs, rows)
    oracle = jacobian_kernel(outputs, rows)
    scale = max(np.abs(values).max() for values in oracle.values())
    for block, values in zip(kernel.names, kernel.array, strict=True):
        largest = np.abs(oracle[block]).max()
        if largest < 1e-12 * scale:  # key biases: zero in exact arithmetic, rounding noise here
            assert np.abs(values).max() < 1e-10 * scale, block
        else:
            assert np.abs(values - oracle[block]).max() <= 1e-4 * largest, block


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["prompt", "head"])
def test_the_masked_model_in_float64_agrees_with_jacobians(asked: str) -> None:
    lm, task = ft.load_model("bert-tiny", dtype="float64"), ft.load_task("movies")
    assert lm.kind == "masked"
    rows = task.few_shot(ft.load_rows(task), k=2, seed=13, test=3).test
    outputs = ft.AnswerLogits(lm, task, difference=False) if asked == "prompt" else ft.HeadLogits(lm, difference=False)
    kernel = ft.block_kernels(outputs, rows)
    assert_same_kernel(kernel, jacobian_kernel(outputs, rows), 1e-10)
