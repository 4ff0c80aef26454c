"""Closed-form leave-one-out and the share of wrong labels, against fits that really leave rows out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.analysis.batch_choice import chosen_batch
from foretune.analysis.example_kernel import (
    INTERCEPT,
    cosine_sum,
    cosines,
    feature_factors,
    gaussian,
    kernel_factors,
)
from foretune.analysis.influence import row_influences
from foretune.analysis.label_noise import label_noise
from foretune.analysis.leave_one_out import left_out, logistic_left_out, ridge_left_out
from foretune.analysis.solvers import KernelLogistic, sample_major
from foretune.errors import UsageError
from foretune.labelling.next_rows import rows_to_label
from foretune.labelling.rows import Row
from tests.oracles import left_out_one_by_one

SEEDS = st.integers(0, 2**32 - 1)


def features(seed: int, n: int = 12, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([2, 4]), st.sampled_from([1e-3, 0.1, 10.0]))
def test_ridge_without_each_row_is_the_closed_form(seed: int, c: int, ridge: float) -> None:
    phi = features(seed)
    factors = kernel_factors(phi @ phi.T)
    wanted = np.eye(c)[np.random.default_rng(seed).integers(0, c, len(phi))]

    def fit(kept: np.ndarray, row: int) -> np.ndarray:
        kernel = factors.matrix
        alpha = np.linalg.solve(kernel[np.ix_(kept, kept)] + ridge * np.eye(len(kept)), wanted[kept])
        return kernel[row, kept] @ alpha

    slow = left_out_one_by_one(len(phi), fit)
    assert left_out(factors, wanted, ridge) == pytest.approx(slow, rel=1e-7, abs=1e-8)
    assert left_out(feature_factors(phi), wanted, ridge) == pytest.approx(slow, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("c", [1, 3])
def test_logistic_regression_without_each_row_is_one_newton_step_away(c: int) -> None:
    phi = features(3, n=24)
    kernel = kernel_factors(phi @ phi.T).matrix
    y = np.random.default_rng(5).integers(0, max(c, 2), len(phi))
    strength, n = 0.02, len(phi)
    largest = np.linalg.eigvalsh(kernel)[-1]
    joint = np.einsum("ij,ab->iajb", kernel, np.eye(c))

    def outputs(kept: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
        part = joint[kept][:, :, kept]
        relative = penalty / len(kept) / np.linalg.eigvalsh(kernel[np.ix_(kept, kept)])[-1]
        fit = KernelLogistic(relative, tolerance=1e-8).fit(sample_major(part), y[kept])
        return np.einsum("iajb,jb->ia", joint[rows][:, :, kept], fit.dual_coef_)

    penalty = n * strength * largest
    everything = np.arange(n)
    full = outputs(everything, everything, penalty)
    slow = left_out_one_by_one(n, lambda kept, row: outputs(kept, np.array([row]), penalty)[0])
    fast = logistic_left_out(kernel, full, y, penalty)
    assert np.abs(fast - slow).max() < 0.02 * np.abs(full - slow).max()


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_the_kernels_of_examples_are_positive_and_of_one_scale(seed: int) -> None:
    phi = features(seed)
    for kernel in (gaussian(phi), cosines(phi @ phi.T), phi @ phi.T):
        found = kernel_factors(kernel)
        assert found.values.min() > 0
        assert np.trace(found.matrix) / len(phi) == pytest.approx(1 + INTERCEPT)
        assert kernel_factors(7 * kernel).matrix == pytest.approx(found.matrix)
    assert np.diag(cosines(phi @ phi.T)) == pytest.approx(np.ones(len(phi)))


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_sum_of_cosines_is_the_kernel_of_unit_gradients_of_every_block(seed: int) -> None:
    blocks = [features(seed, width=width) + 3.0 for width in (2, 5, 9)]
    centred = [block - block.mean(0) for block in blocks]
    units = np.concatenate([block / np.linalg.norm(block, axis=1, keepdims=True) for block in centred], axis=1)
    found = cosine_sum(block @ block.T for block in blocks)
    assert found == pytest.approx(units @ units.T, abs=1e-9)
    scaled = cosine_sum(size * block @ block.T for size, block in zip((1e-4, 1.0, 1e4), blocks, strict=True))
    assert scaled == pytest.approx(found, abs=1e-9)
    same = np.ones((12, 4)) / 3
    assert cosine_sum([same @ same.T, *(block @ block.T for block in blocks)]) == pytest.approx(found, abs=1e-9)


def test_rows_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(UsageError, match="All 4 examples are the same"):
        kernel_factors(np.ones((4, 4)))
    with pytest.raises(UsageError, match="more than zero"):
        left_out(kernel_factors(np.eye(3)), np.eye(3), 0.0)


def planted(seed: int, share: float, n: int = 300, c: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of features, their labels, and the labels with a share of them changed."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, c, n)
    phi = np.eye(8)[y] * 2.4 + generator.normal(size=(n, 8)) * 0.8
    given_labels = y.copy()
    changed = generator.choice(n, round(share * n), replace=False)
    given_labels[changed] = (y[changed] + generator.integers(1, c, len(changed))) % c
    return phi, y, given_labels


@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_the_interval_holds_the_share_of_wrong_labels(share: float, c: int) -> None:
    held = 0
    for seed in range(10):
        phi, _, y = planted(seed, share, c=c)
        noise = label_noise(ridge_left_out(kernel_factors(phi @ phi.T), y, c).outputs, y)
        assert 0 <= noise.low <= noise.share <= noise.high
        held += noise.low <= share <= noise.high
    assert held >= 8


def test_wrong_labels_come_first_and_their_right_ones_are_named() -> None:
    phi, right, y = planted(1, 0.1, c=4)
    fit = ridge_left_out(kernel_factors(gaussian(phi)), y, 4)
    found = label_noise(fit.outputs, y).right_labels(fit.outputs, y)
    assert found.sum(1) == pytest.approx(np.ones(len(y)))
    doubt = 1 - found[np.arange(len(y)), y]
    first = np.argsort(-doubt)[:20]
    assert (right[first] != y[first]).mean() >= 0.9
    assert (found[first].argmax(1) == right[first]).mean() >= 0.9


def test_labels_by_chance_cannot_be_told() -> None:
    phi, generator = features(0, n=120, width=20), np.random.default_rng(1)
    y = generator.integers(0, 2, len(phi))
    assert not label_noise(ridge_left_out(kernel_factors(phi @ phi.T), y, 2).outputs, y).can_tell


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([2, 3]))
def test_an_influence_is_what_a_fit_without_the_row_lacks(seed: int, c: int) -> None:
    phi, ridge = features(seed, n=10), 0.3
    kernel = kernel_factors(phi @ phi.T).matrix
    train, asked = kernel[:8, :8], kernel[8:, :8]
    wanted = np.eye(c)[np.random.default_rng(seed).integers(0, c, 8)]
    found = row_influences(train, asked, wanted, ridge)

    def fit(kept: np.ndarray, _row: int) -> np.ndarray:
        alpha = np.linalg.solve(train[np.ix_(kept, kept)] + ridge * np.eye(len(kept)), wanted[kept])
        return asked[:, kept] @ alpha

    assert found.outputs == pytest.approx(fit(np.arange(8), 0), abs=1e-8)
    assert found.shares.sum(1) == pytest.approx(found.outputs, abs=1e-8)
    without = left_out_one_by_one(8, fit).transpose(1, 0, 2)
    assert found.removals == pytest.approx(found.outputs[:, None] - without, abs=1e-7)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_each_row_of_a_batch_takes_away_the_most_weighted_variance_that_is_left(seed: int) -> None:
    phi, ridge, labelled = features(seed, n=11), 0.2, 4
    kernel = kernel_factors(phi @ phi.T).matrix
    weights = np.random.default_rng(seed).uniform(0.05, 1, 7)

    def left(known: list[int]) -> float:
        system = kernel[np.ix_(known, known)] + ridge * np.eye(len(known))
        across = kernel[np.ix_(known, range(labelled, 11))]
        return float(weights @ np.diag(kernel[labelled:, labelled:] - across.T @ np.linalg.solve(system, across)))

    known = list(range(labelled))
    first = left(known)
    found = chosen_batch(kernel, labelled, ridge, weights, 3)
    for place, gain in zip(found.places, found.gains, strict=True):
        before = left(known)
        others = {other: left([*known, labelled + other]) for other in range(7) if labelled + other not in known}
        assert others[int(place)] == pytest.approx(min(others.values()), rel=1e-6)
        known.append(labelled + int(place))
        assert (before - left(known)) / first == pytest.approx(gain, rel=1e-5)


def test_rows_that_are_all_clear_are_chosen_apart() -> None:
    """Two tight groups, a label each: no row is in doubt, and they are chosen by their variance alone, from both groups."""
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(2) * 50, 20, axis=0)
    phi = centres + 1e-3 * generator.standard_normal((40, 2))
    known, others = [*range(5), *range(20, 25)], [*range(5, 20), *range(25, 40)]
    phi[others] *= 3  # beyond what was labelled: the sharpened outputs leave no doubt at all
    factors = feature_factors(phi[[*known, *others]])
    rows = [Row("made up", i, str(i), None, None) for i in others]
    y = np.repeat([0, 1], 5)
    found = rows_to_label(factors, y, 2, rows, 2)
    assert {row.row < 20 for row in found.rows} == {True, False}
    ridge = ridge_left_out(kernel_factors(factors.matrix[:10, :10]), y, 2).strength
    alone = chosen_batch(factors.matrix, 10, ridge, np.ones(30), 2)
    assert [row.gain for row in found.rows] == pytest.approx(alone.gains, rel=1e-9)
