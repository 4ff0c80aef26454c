"""Bounds and matrix-free spectra against exact values, and the counterexamples that their premises rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import foretune as ft
from foretune.analysis.bounds import Bracket, candidate_bounds, relative_spectrum, risk_bounds
from foretune.analysis.lanczos import iterative_spectrum
from foretune.analysis.spectrum import Spectrum, spectrum

SEEDS = st.integers(0, 2**32 - 1)
SIGMAS = st.floats(1e-3, 1e3)


def random_kernel(seed: int, size: int, rank: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(size, rank))
    return factor @ factor.T


def vector(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def brackets(bracket: Bracket, slack: float = 1e-8) -> bool:
    return bracket.low * (1 - slack) <= bracket.exact <= bracket.high * (1 + slack)


def residual_bounds(eigen: Spectrum, y: np.ndarray, sigma: float) -> Bracket:
    """The squared residual sigma^2 y'(K + sigma I)^-2 y of ridge regression, and its bounds: eq. 6's factors squared."""
    shares = (eigen.vectors.T @ y) ** 2
    exact = float((shares * (sigma / (sigma + np.clip(eigen.values, 0, None))) ** 2).sum())
    low, high = (float(y @ y) * (sigma / (sigma + value)) ** 2 for value in (eigen.largest, eigen.smallest))
    return Bracket(low, exact, high)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 12), rank=st.integers(1, 14), sigma=SIGMAS)
def test_risk_and_residual_lie_within_their_bounds(seed, size, rank, sigma) -> None:
    matrix, y = random_kernel(seed, size, rank), vector(seed + 1, size)
    eigen = spectrum(matrix)
    risk, residual = risk_bounds(eigen, y, sigma), residual_bounds(eigen, y, sigma)
    assert brackets(risk)
    assert brackets(residual)
    alpha = np.linalg.solve(matrix + sigma * np.eye(size), y)
    left = y - matrix @ alpha
    assert residual.exact == pytest.approx(left @ left, rel=1e-7)
    assert risk.exact == pytest.approx(left @ left + sigma * alpha @ matrix @ alpha, rel=1e-7)


def test_the_empirical_risk_breaks_equation_6_as_printed() -> None:
    eigen = spectrum(np.eye(1))
    risk, residual = (bounds(eigen, np.ones(1), 1.0) for bounds in (risk_bounds, residual_bounds))
    assert risk == Bracket(0.5, 0.5, 0.5)
    assert residual == Bracket(0.25, 0.25, 0.25)
    assert residual.exact < risk.low


@settings(max_examples=150, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(1, 10),
    rank=st.integers(1, 14),
    added=st.integers(1, 12),
    weight=st.sampled_from([1e-3, 0.03, 0.3, 1.0, 30.0]),
    sigma=SIGMAS,
    slack=st.floats(1, 10),
)
def test_candidate_bounds_bracket_the_exact_values(seed, size, rank, added, weight, sigma, slack) -> None:
    kernel, candidate = random_kernel(seed, size, rank), weight * random_kernel(seed + 1, size, added)
    y = vector(seed + 2, size)
    c = slack * spectrum(kernel).condition_number(sigma)
    bounds = candidate_bounds(kernel, candidate, y, sigma, c)
    tolerance = 1e-9 * bounds.eigenvalues.high.max()
    assert (bounds.eigenvalues.low <= bounds.eigenvalues.exact + tolerance).all()
    assert (bounds.eigenvalues.exact <= bounds.eigenvalues.high + tolerance).all()
    assert brackets(bounds.risk_ratio)
    assert brackets(bounds.sharp_risk_ratio)
    assert bounds.sharp_risk_ratio.high <= 1 <= bounds.proxy * (1 + 1e-12)
    risks = [y @ np.linalg.solve(k + sigma * np.eye(size), y) for k in (kernel, kernel + candidate)]
    assert bounds.risk_ratio.exact == pytest.approx(risks[1] / risks[0], rel=1e-7)
    assert (bounds.base == "K") == (spectrum(kernel).rank == size)
    if bounds.eta < 1:
        assert bounds.risk_ratio.low == pytest.approx(bounds.proxy / bounds.a)
        printed_without_c = bounds.proxy * (1 - bounds.eta) ** 2
        assert printed_without_c <= bounds.risk_ratio.exact * (1 + 1e-8)  # the condition number plays no part
    else:
        assert (bounds.risk_ratio.low, bounds.risk_ratio.high) == (0, float("inf"))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 8), added=st.integers(1, 8))
def test_eta_is_the_norm_of_the_whitened_candidate(seed, size, added) -> None:
    kernel, candidate = random_kernel(seed, size, size + 4), random_kernel(seed + 1, size, added)
    values, vectors = np.linalg.eigh(kernel)
    assume(values[0] > 1e-4 * values[-1])
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    bounds = candidate_bounds(kernel, candidate, np.ones(size), 0.1)
    assert bounds.eta == pytest.approx(np.linalg.norm(root @ candidate @ root, 2), rel=1e-6)


def test_equation_8_needs_eta_below_one() -> None:
    bounds = candidate_bounds(np.eye(1), 2 * np.eye(1), np.ones(1), 1e-9)
    assert (bounds.eta, bounds.a) == (pytest.approx(2), pytest.approx(1))
    assert bounds.proxy / bounds.a == pytest.approx(3)  # the printed lower bound
    assert bounds.risk_ratio.exact == pytest.approx(1 / 3)
    assert brackets(bounds.sharp_risk_ratio)


def test_equation_8_fails_for_the_empirical_risk_with_eta_below_one() -> None:
    bounds = candidate_bounds(np.eye(1), 0.2 * np.eye(1), np.ones(1), 1e-9)
    residuals = [residual_bounds(spectrum(k * np.eye(1)), np.ones(1), 1e-9).exact for k in (1, 1.2)]
    assert bounds.risk_ratio.low == pytest.approx(0.768)
    assert residuals[1] / residuals[0] == pytest.approx(1 / 1.44)


def test_bounds_refuse_what_they_cannot_mean() -> None:
    with pytest.raises(ft.ForetuneError, match="not all zero"):
        candidate_bounds(np.eye(2), np.eye(2), np.zeros(2), 1.0)
    with pytest.raises(ft.ForetuneError, match="same rows"):
        candidate_bounds(np.eye(2), np.eye(3), np.ones(2), 1.0)
    with pytest.raises(ft.ForetuneError, match=r"c is 1, but kappa\(K \+ sigma I\) is 1.5"):
        candidate_bounds(np.diag([1.0, 2.0]), np.eye(2), np.ones(2), 1.0, c=1.0)
    with pytest.raises(ft.ForetuneError, match="sigma is 0"):
        risk_bounds(spectrum(np.eye(2)), np.ones(2), 0.0)
    with pytest.raises(ft.ForetuneError, match="singular: rank 1 of 2"):
        relative_spectrum(spectrum(np.diag([0.0, 1.0])), np.eye(2), 0.0)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 90), rank=st.integers(1, 100))
def test_lanczos_finds_the_ends_of_the_spectrum(seed, size, rank) -> None:
    matrix = random_kernel(seed, size, rank)
    exact = spectrum(matrix)
    found = iterative_spectrum(aslinearoperator(matrix), smallest=True, probes=8, seed=seed % 1000)
    assert found.largest.value == pytest.approx(exact.largest, rel=1e-6)
    assert found.smallest is not None
    assert found.smallest.value == pytest.approx(exact.smallest, abs=1e-5 * exact.largest)
    assert found.largest.residual <= 1e-5 * exact.largest
    assert abs(found.trace - exact.trace) <= 12 * found.trace_error + 1e-6 * exact.trace  # eight probes: heavy tails
    assert found.effective_rank * found.largest.value == pytest.approx(found.trace)
    sigma = 0.1 * exact.largest
    assert found.condition_number(sigma) == pytest.approx(exact.condition_number(sigma), rel=1e-3)


def test_the_error_bar_of_the_trace_holds_two_times_out_of_three() -> None:
    matrix = random_kernel(0, 80, 100) + 500 * np.outer(np.ones(80), np.ones(80))
    errors = [
        (found.trace - matrix.trace()) / found.trace_error
        for found in (iterative_spectrum(aslinearoperator(matrix), probes=32, seed=seed) for seed in range(100))
    ]
    assert 0.5 < (np.abs(errors) < 1).mean() < 0.85
    assert abs(np.mean(errors)) < 0.4


def test_products_are_counted_and_seeds_repeat() -> None:
    matrix = random_kernel(1, 60, 70)
    first, second = (iterative_spectrum(aslinearoperator(matrix), seed=3) for _ in range(2))
    assert first == second
    assert first.smallest is None
    assert 32 < first.products < 120
    small = iterative_spectrum(aslinearoperator(np.eye(5)))
    assert (small.products, small.trace, small.trace_error) == (5, 5, 0)


def test_a_zero_kernel_has_a_zero_spectrum() -> None:
    found = iterative_spectrum(aslinearoperator(np.zeros((50, 50))), smallest=True)
    assert (found.largest.value, found.trace, found.effective_rank) == (0, 0, 0)
    assert found.condition_number(1.0) == 1


def test_iterations_refuse_what_is_no_kernel() -> None:
    with pytest.raises(ft.ForetuneError, match=r"\(2, 3\)"):
        iterative_spectrum(aslinearoperator(np.zeros((2, 3))))
    with pytest.raises(ft.ForetuneError, match="symmetric"):
        iterative_spectrum(aslinearoperator(np.random.default_rng(0).normal(size=(50, 50))))
    undefined = LinearOperator((50, 50), matvec=lambda v: v * np.nan, dtype=np.float64)
    with pytest.raises(ft.ForetuneError, match="undefined"):
        iterative_spectrum(undefined)
    with pytest.raises(ft.ForetuneError, match="smallest=True"):
        iterative_spectrum(aslinearoperator(np.eye(5))).condition_number(1.0)
