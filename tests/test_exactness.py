"""Block kernels are the inner products of Jacobians, entry by entry, on every architecture family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import foretune as ft
from tests.cases import FAMILIES, ROWS, Family, language_model, outputs_of
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
    outputs = outputs_of(language_model(family))
    together = ft.block_kernels(outputs, ROWS).array
    alone = np.zeros_like(together)
    for i in range(len(ROWS)):
        for j in range(len(ROWS)):
            alone[:, i : i + 1, :, j : j + 1] = ft.block_kernels(outputs, ROWS[i : i + 1], ROWS[j : j + 1]).array
    np.testing.assert_allclose(together, alone, rtol=0, atol=family.tolerance * np.abs(alone).max())


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
