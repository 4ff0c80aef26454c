"""Regression of labels on tangent features, against direct solves and laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.analysis.label_regression import STRENGTHS, label_regression
from foretune.errors import UsageError

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed: int, c: int, n: int = 6, held: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A joint kernel of random features, and labels."""
    generator = np.random.default_rng(seed)
    phi = generator.normal(size=(n + held, c, 9))
    return np.einsum("iaf,jbf->iajb", phi[:n], phi), generator.integers(0, max(c, 2), n + held)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([1, 3]), st.sampled_from(STRENGTHS))
def test_the_fit_is_that_of_a_direct_solve(seed: int, c: int, strength: float) -> None:
    joint, y = problem(seed, c)
    n = len(joint)
    wanted = (2.0 * y - 1)[:, None] if c == 1 else np.eye(c)[y]
    mean = wanted[:n].mean(0)
    wanted = wanted - mean
    matrix = joint[:, :, :n].reshape(n * c, n * c)
    ridge = strength * np.linalg.eigvalsh(matrix)[-1]
    a = np.linalg.solve(matrix + ridge * np.eye(n * c), wanted[:n].reshape(-1))
    fitted = (joint[:, :, n:].reshape(n * c, -1).T @ a).reshape(-1, c)
    errors = ((fitted - wanted[n:]) ** 2).sum(1)
    found = label_regression(joint, y, [strength])
    assert found.errors == pytest.approx(errors / ((wanted[n:] ** 2).sum(1).mean() or 1), rel=1e-6, abs=1e-9)
    assert found.outputs == pytest.approx(fitted + mean, rel=1e-6, abs=1e-8)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(1e-6, 1e6))
def test_the_scale_of_a_kernel_does_not_matter(seed: int, scale: float) -> None:
    joint, y = problem(seed, 3)
    here, there = label_regression(joint, y), label_regression(scale * joint, y)
    assert there.errors == pytest.approx(here.errors, rel=1e-6)
    assert there.strength == here.strength


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([1, 3]))
def test_an_example_that_counts_twice_is_two_examples(seed: int, c: int) -> None:
    joint, y = problem(seed, c)
    n = len(joint)
    counts = np.random.default_rng(seed).integers(1, 4, n)
    rows = np.repeat(np.arange(n), counts)
    columns = np.concatenate([rows, np.arange(n, len(y))])
    many = label_regression(joint[rows][:, :, columns], y[columns])
    few = label_regression(joint, y, counts=counts)
    assert few.errors == pytest.approx(many.errors, rel=1e-6, abs=1e-9)
    assert few.outputs == pytest.approx(many.outputs, rel=1e-6, abs=1e-8)
    with pytest.raises(UsageError, match="1 or more"):
        label_regression(joint, y, counts=0 * counts)


def test_examples_without_labels_are_predicted_and_change_nothing() -> None:
    joint, y = problem(3, 3)
    every, some = label_regression(joint, y, [1e-2]), label_regression(joint, y[:8], [1e-2])
    assert some.outputs == pytest.approx(every.outputs)
    short = label_regression(joint[:, :, :8], y[:8], [1e-2])
    assert some.errors == pytest.approx(short.errors)


def test_a_kernel_of_the_labels_explains_them_and_a_kernel_of_zeros_nothing() -> None:
    y = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    sign = 2.0 * y - 1
    joint = np.outer(sign[:4], sign)[:, None, :, None]
    explained, nothing = label_regression(joint, y), label_regression(0 * joint, y)
    assert explained.error < 1e-6
    assert explained.outputs[:, 0] == pytest.approx(sign[4:], abs=1e-3)
    assert nothing.error == pytest.approx(1)
    assert nothing.outputs == pytest.approx(np.full((4, 1), sign[:4].mean()))


def test_what_cannot_be_judged_is_refused() -> None:
    joint, y = problem(0, 1)
    with pytest.raises(UsageError, match="held-out"):
        label_regression(joint[:, :, :6], y[:6])
    with pytest.raises(UsageError, match="strengths above zero"):
        label_regression(joint, y, [0.0])
