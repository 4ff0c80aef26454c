"""Directions that are held beside a sketch: orthonormal, exact inner products with every kind of gradient."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import pytest
import torch

from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, RowFactor
from foretune.kernels.directions import WIDTH, Directions, directions_of, examples_of, with_one_output
from foretune.kernels.sgd import SGD
from foretune.kernels.sides import Sides, derivatives, layer_inputs
from foretune.kernels.sketch import Sketch, Sketcher, Wanted

N, T, FEATURES, INPUTS = 6, 5, 70, 60
KINDS = ("linear", "table", "slices", "formed", "vector")


def factor_of(kind: str, outputs: int, n: int = N) -> tuple[Factor, int]:
    """A factor of a larger layer than the bases have vectors, and the entries of its parameter."""
    draw = torch.Generator().manual_seed(7)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    if kind == "table":
        return RowFactor(
            torch.randint(0, INPUTS, (n, T), generator=draw), normal(n, outputs, T, FEATURES)
        ), INPUTS * FEATURES
    if kind in ("linear", "slices"):
        group = torch.randint(0, 3, (n, T), generator=draw) if kind == "slices" else None
        g = tuple(normal(n, T, FEATURES) for _ in range(outputs))
        return Products(normal(n, T, INPUTS), g, group), FEATURES * INPUTS * (3 if kind == "slices" else 1)
    inputs = INPUTS if kind == "formed" else None
    return Dense.whole(normal(n, outputs, FEATURES * (inputs or 1)), inputs), FEATURES * (inputs or 1)


def formed(factor: Factor, entries: int) -> torch.Tensor:
    """The gradients (n, c, o, inputs of all slices or rows)."""
    x = layer_inputs(factor, entries, torch.float64).whole()
    return torch.stack([g.mT @ x for g in derivatives(factor, torch.float64)], dim=1)


def batch_of(factor: Factor, outputs: int, n: int = N) -> FactorBatch:
    return FactorBatch(tuple(range(n)), torch.zeros(n, outputs, dtype=torch.float64), {"w": factor})


def whole_of(directions: Directions) -> np.ndarray:
    """The directions written out (m, o * i)."""
    left, right = directions.left.numpy(), directions.right.numpy()
    weights = directions.weights.numpy().reshape(left.shape[1], right.shape[1], -1)
    return np.einsum("oa,ib,abm->moi", left, right, weights).reshape(weights.shape[2], -1)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_are_inner_products_with_orthonormal_directions(kind: str, outputs: int) -> None:
    factor, entries = factor_of(kind, outputs)
    batch, wanted = batch_of(factor, outputs), Wanted(SGD(), "w", entries, 16)
    sketcher, places = Sketcher(Sketch(16)), list(range(N))
    asked = []

    def batches() -> Iterable[FactorBatch]:
        asked.append(1)
        return [with_one_output(batch, 0)]

    found = directions_of(batches, places, partial(sketcher.sides, wanted=[wanted]), 0)[wanted]
    assert len(asked) == 2 and found.left.shape[1] <= WIDTH and found.right.shape[1] <= WIDTH
    whole, gradients = whole_of(found), formed(factor, entries).flatten(2).numpy()
    np.testing.assert_allclose(whole @ whole.T, np.eye(N), atol=1e-10)
    sides = Sides(derivatives(factor, torch.float64), layer_inputs(factor, entries, torch.float64))
    for output, g in enumerate(sides.g):
        np.testing.assert_allclose(
            found.coordinates(g, found.seen(sides)), gradients[:, output] @ whole.T, atol=1e-9 * np.abs(gradients).max()
        )
    sums = formed(with_one_output(batch, 0).factors["w"], entries).flatten(1).numpy()
    share = np.square(sums @ whole.T).sum() / np.square(sums).sum()
    # of noise a random subspace of this size would hold 48 * 48 / 4200; the gradients that it was made of are nearly in it
    assert share > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_features_keep_the_kernel_whatever_is_held(kind: str) -> None:
    """Over draws of the signs the mean of `psi psi'` is the kernel, with directions held beside the sketch."""
    factor, entries = factor_of(kind, 2, n=3)
    batch, wanted = batch_of(factor, 2, n=3), Wanted(SGD(), "w", entries, 4)
    first = FactorBatch(
        (0, 1), batch.outputs[:2], {"w": factor_of(kind, 2, n=2)[0]}
    )  # other gradients than the first two
    exact = formed(factor, entries).flatten(0, 1).flatten(1).numpy()
    kernels = []
    for seed in range(600):
        sketcher = Sketcher(Sketch(4, seed))
        sides = partial(sketcher.sides, wanted=[wanted])
        sketcher.hold(directions_of(lambda: [with_one_output(first, 0)], [0, 1], sides, seed), 2)
        psi = sketcher.features(batch, [wanted])[0].flatten(0, 1).numpy()
        kernels.append(psi @ psi.T)
    found, spread = np.mean(kernels, axis=0), np.std(kernels, axis=0) / np.sqrt(len(kernels))
    assert (np.abs(found - exact @ exact.T) <= 5 * spread + 1e-9 * np.abs(exact @ exact.T).max()).all()


@pytest.mark.parametrize(("size", "k"), [(3, 16), (64, 16), (65, 16), (200, 16), (70, 128), (100, 24)])
def test_vectors_are_multiplied_with_signs_whose_products_are_one_on_average(size: int, k: int) -> None:
    """u_j has entries of 1 and -1, and the mean of u_j u_j' is the unit matrix, on which the sketch rests."""
    total = np.zeros((size, size))
    for seed in range(300):
        signs = Sketcher(Sketch(k, seed))._projected(torch.eye(size, dtype=torch.float64), "inputs", "w").numpy()
        assert signs.shape == (size, k) and (np.abs(signs) == 1).all()
        total += signs @ signs.T / k
    mean = total / 300
    assert (np.diag(mean) == 1).all()
    assert np.abs(mean - np.eye(size)).max() < 6 / np.sqrt(300)


@pytest.mark.parametrize("held", [("w",), ()], ids=["beside another block", "alone"])
def test_a_block_that_no_example_of_the_directions_moves_has_features_of_the_same_width(held: tuple[str, ...]) -> None:
    """An expert that only a later text visits: what is kept of it is its sketch, and zeros for the directions."""
    factor, entries = factor_of("linear", 1)
    wanted = [Wanted(SGD(), name, entries, 16) for name in ("w", "expert")]
    first = FactorBatch(
        (0, 1), torch.zeros(2, 1, dtype=torch.float64), dict.fromkeys(held, factor_of("linear", 1, 2)[0])
    )
    later = FactorBatch(tuple(range(N)), torch.zeros(N, 1, dtype=torch.float64), {"w": factor, "expert": factor})
    sketcher, plain = Sketcher(Sketch(16)), Sketcher(Sketch(16))
    sketcher.hold(directions_of(lambda: [first], [0, 1], partial(sketcher.sides, wanted=wanted), 0), 2)
    for batch in (first, later):
        assert {each.shape[-1] for each in sketcher.features(batch, wanted)} == {18}
    expert = sketcher.features(later, wanted)[1]
    torch.testing.assert_close(expert[..., :16], plain.features(later, wanted)[1])
    assert not expert[..., 16:].any()


def test_the_examples_of_directions_are_spread_over_the_training_rows() -> None:
    assert examples_of(10, 4) == [0, 2, 5, 7] and examples_of(3, 64) == [0, 1, 2] and examples_of(5, 0) == []


def test_a_block_of_zeros_has_no_direction() -> None:
    factor = Products(torch.zeros(2, 3, 50, dtype=torch.float64), (torch.zeros(2, 3, 60, dtype=torch.float64),))
    wanted, sketcher = Wanted(SGD(), "w", 3000, 8), Sketcher(Sketch(8))
    found = directions_of(lambda: [batch_of(factor, 1, 2)], [0, 1], partial(sketcher.sides, wanted=[wanted]), 0)
    assert not found[wanted].weights.any()
