"""The kernel by products with the Jacobian: the block kernel's own numbers, and its spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.analysis.lanczos import iterative_spectrum
from foretune.errors import UsageError
from foretune.regime.operator import kernel_operator, kernel_spectrum
from tests.cases import ROWS, language_model, outputs_of
from tests.conftest import family

TEXTS = [{**row, "text": f"{row['text']} {word}"} for word in ("film", "slow", "plot") for row in ROWS]
CASES = {
    "bert-masked": ({}, 1e-8),
    "bert-encoder": ({"head": True}, 1e-8),
    "llama-causal": ({"difference": False}, 1e-7),  # its norm computes in float32 even inside a float64 model
    "mixtral-causal": ({}, 1e-7),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("blocks", [None, "*layer*.0.*"])
def test_a_product_is_the_block_kernels(name: str, blocks: str | None) -> None:
    options, tolerance = CASES[name]
    outputs = outputs_of(language_model(family(name)), **options)
    rows = [ft.Example.of(row) for row in ROWS]
    matrix = ft.block_kernels(outputs, rows, blocks=blocks).matrix()
    operator = kernel_operator(outputs, rows, blocks, batch=4)
    assert operator.shape == matrix.shape
    v = np.random.default_rng(0).normal(size=(len(matrix), 2))
    scale = np.abs(matrix @ v).max()
    np.testing.assert_allclose(operator @ v / scale, matrix @ v / scale, atol=tolerance)
    np.testing.assert_allclose(operator.T @ v[:, 0] / scale, matrix.T @ v[:, 0] / scale, atol=tolerance)


@pytest.mark.parametrize(("name", "tolerance"), [("bert-masked", 1e-8), ("llama-causal", 1e-7)])
def test_lanczos_finds_the_extreme_eigenvalues_without_the_matrix(name: str, tolerance: float) -> None:
    outputs = outputs_of(language_model(family(name)))
    values = np.linalg.eigvalsh(ft.block_kernels(outputs, TEXTS).matrix())
    found = kernel_spectrum(outputs, TEXTS, smallest=True, probes=8, tolerance=1e-10)
    assert found.size == len(TEXTS) > found.probes  # so that iterations ran
    assert found.largest.value == pytest.approx(values[-1], rel=tolerance)
    assert found.smallest is not None
    assert found.smallest.value == pytest.approx(values[0], abs=tolerance * values[-1])
    assert abs(found.trace - values.sum()) <= 4 * found.trace_error + tolerance * values[-1]


def test_float32_reaches_the_default_tolerance_and_the_model_stays_as_it_is() -> None:
    outputs = outputs_of(language_model(family("llama-causal"), torch.float32))
    before = {name: tensor.clone() for name, tensor in outputs.parameters().items()}
    found = kernel_spectrum(outputs, TEXTS, probes=4)
    exact = np.linalg.eigvalsh(ft.block_kernels(outputs, TEXTS).matrix())[-1]
    assert found.largest.value == pytest.approx(exact, rel=1e-4)
    assert found.largest.residual <= 1e-3 * exact
    for name, tensor in outputs.parameters().items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None


def test_what_cannot_be_multiplied_is_refused() -> None:
    lm = language_model(family("bert-masked"))
    outputs = outputs_of(lm)
    with pytest.raises(UsageError, match="No parameter block matches 'nowhere'"):
        kernel_operator(outputs, ROWS, "nowhere")
    with pytest.raises(UsageError, match="0 examples"):
        kernel_operator(outputs, [])
    lm.module.requires_grad_(False)
    with pytest.raises(UsageError, match="Every parameter of the model is frozen"):
        kernel_operator(outputs_of(lm), ROWS)


def test_a_small_operator_is_multiplied_out() -> None:
    outputs = outputs_of(language_model(family("bert-masked")))
    found = iterative_spectrum(kernel_operator(outputs, ROWS), smallest=True)
    values = np.linalg.eigvalsh(ft.block_kernels(outputs, ROWS).matrix())
    assert (found.products, found.trace_error) == (len(values), 0.0)
    assert found.trace == pytest.approx(values.sum())
