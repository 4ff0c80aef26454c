"""Training simulated in function space against the same training in parameter space."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretune as ft
from foretune.analysis.dynamics import (
    Descent,
    FunctionSpace,
    GradientDescent,
    HalfSquaredLoss,
    LogLoss,
    SignDescent,
    best_run,
    closed_form_curves,
    curves,
    drawn_batches,
    stability_edge,
    typical_learning_rate,
)
from foretune.analysis.spectrum import spectrum, stable_learning_rate

SEEDS = st.integers(0, 2**32 - 1)
LOSSES = st.sampled_from([HalfSquaredLoss(), LogLoss()])
OUTPUTS = st.sampled_from([1, 2, 3])


def linear_model(seed: int, n: int, m: int, c: int, p: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jacobian (n + m, c, p), pretrained outputs and labels of f = f0 + J theta."""
    generator = np.random.default_rng(seed)
    jacobian = generator.normal(size=(n + m, c, p)) / np.sqrt(p)
    return jacobian, generator.normal(size=(n + m, c)), generator.integers(max(c, 2), size=n + m)


def space_of(jacobian, f0, y, n: int, loss, signs: bool = False, **more: Any) -> FunctionSpace:
    columns = np.sign(jacobian[:n]) if signs else jacobian[:n]
    return FunctionSpace(np.einsum("rcp,ndp->rcnd", jacobian, columns), f0, y, loss, **more)


def example_losses(f: torch.Tensor, y: torch.Tensor, loss) -> torch.Tensor:
    """Losses by torch's own functions."""
    c = f.shape[1]
    if isinstance(loss, LogLoss):
        if c > 1:
            return torch.nn.functional.cross_entropy(f, y, reduction="none")
        return torch.nn.functional.binary_cross_entropy_with_logits(f[:, 0], y.double(), reduction="none")
    wanted = (2.0 * y - 1)[:, None] if c == 1 else torch.eye(c, dtype=torch.float64)[y]
    return ((f - wanted) ** 2).sum(1) / 2


def trained_outputs(jacobian, f0, y, loss, descent: Descent, batches) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and parameters after real steps on theta, by autograd."""
    model, start, labels = (torch.from_numpy(array) for array in (jacobian, f0, y))
    theta = torch.zeros(jacobian.shape[2], dtype=torch.float64, requires_grad=True)
    for batch in batches:
        mean = example_losses(start[batch] + model[batch] @ theta, labels[batch], loss).mean()
        (gradient,) = torch.autograd.grad(mean, theta)
        step = gradient.sign() if isinstance(descent, SignDescent) else gradient
        with torch.no_grad():
            theta.mul_(1 - descent.learning_rate * descent.proximal).sub_(descent.learning_rate * step)
    return (start + model @ theta).detach().numpy(), theta.detach().numpy()


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-9) -> None:
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    n=st.integers(1, 9),
    m=st.integers(0, 5),
    c=OUTPUTS,
    p=st.integers(1, 30),
    batch=st.sampled_from([None, 1, 2, 4, 7]),
    proximal=st.sampled_from([0.0, 0.3]),
    loss=LOSSES,
)
def test_gradient_descent_in_function_space_is_training_of_the_parameters(seed, n, m, c, p, batch, proximal, loss):
    jacobian, f0, y = linear_model(seed, n, m, c, p)
    stable = 0.5 / ((jacobian[:n] ** 2).sum((1, 2)).max() + proximal)  # for every batch
    descent = GradientDescent(stable, batch, proximal, seed % 100)
    (run,) = curves(space_of(jacobian, f0, y, n, loss), descent, 60)
    outputs, theta = trained_outputs(jacobian, f0, y, loss, descent, islice(drawn_batches(n, descent), 60))
    assert_close(run.outputs, outputs)
    np.testing.assert_allclose(np.einsum("ncp,nc->p", jacobian[:n], run.coefficients), theta, rtol=1e-8, atol=1e-9)
    wanted = example_losses(torch.from_numpy(outputs), torch.from_numpy(y), loss).numpy()
    assert run.train_loss[-1] == pytest.approx(wanted[:n].mean(), rel=1e-9)
    assert run.validation_loss[-1] == pytest.approx(wanted[n:].mean() if m else np.nan, rel=1e-9, nan_ok=True)
    assert np.isnan(run.test_loss).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 8), p=st.integers(1, 30), proximal=st.sampled_from([0.0, 0.3]), loss=LOSSES)
def test_sign_steps_over_single_examples_and_outputs_are_sign_descent_of_the_parameters(seed, n, p, proximal, loss):
    jacobian, f0, y = linear_model(seed, n, 3, 1, p)
    descent = SignDescent(0.01, proximal=proximal, seed=seed % 100)
    (run,) = curves(space_of(jacobian, f0, y, n, loss, signs=True), descent, 60)
    outputs, _ = trained_outputs(jacobian, f0, y, loss, descent, islice(drawn_batches(n, descent), 60))
    assert_close(run.outputs, outputs)


@pytest.mark.parametrize(("c", "batch"), [(1, 4), (3, 1), (3, 4)])
def test_other_sign_steps_are_means_of_the_steps_of_every_example_and_output(c: int, batch: int) -> None:
    jacobian, f0, y = linear_model(0, 4, 3, c, 20)
    space = space_of(jacobian, f0, y, 4, LogLoss(), signs=True)
    descent = SignDescent(0.01, batch)
    (run,) = curves(space, descent, 1)
    picked = next(drawn_batches(4, descent))
    chi = space.loss.derivative(f0[picked], space.targets[picked])
    single = -0.01 * np.einsum("nc,ncp->np", np.sign(chi), np.sign(jacobian[picked]))
    assert_close(run.outputs, f0 + jacobian @ single.mean(0))
    assert np.abs(single.mean(0)).max() <= 0.01 * c
    outputs, _ = trained_outputs(jacobian, f0, y, LogLoss(), descent, [picked])
    assert np.linalg.norm(run.outputs - outputs) > 1e-3  # SignGD itself goes elsewhere


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    n=st.integers(1, 8),
    c=OUTPUTS,
    p=st.integers(1, 30),
    proximal=st.sampled_from([0.0, 1e-6, 0.3]),
    rate=st.floats(0.01, 1.9),
)
def test_the_closed_form_is_the_simulation(seed, n, c, p, proximal, rate) -> None:
    jacobian, f0, y = linear_model(seed, n, 4, c, p)
    space = space_of(jacobian, f0, y, n, HalfSquaredLoss())
    bound = stable_learning_rate(spectrum(space.train_matrix).largest, n, c, proximal).squared
    descent = GradientDescent(rate / 2 * bound, proximal=proximal)
    (run,) = curves(space, descent, 100, 20)
    solved = closed_form_curves(space, descent, [0, 20, 40, 60, 80, 100])
    assert list(solved.steps) == list(run.steps)
    assert_close(solved.outputs, run.outputs, 1e-7)
    for name in ("train_loss", "validation_loss", "validation_score"):
        np.testing.assert_allclose(getattr(solved, name), getattr(run, name), rtol=1e-6, atol=1e-12)
    assert not run.diverged


def test_the_proximal_limit_is_kernel_ridge_regression() -> None:
    jacobian, f0, y = linear_model(0, 6, 4, 2, 40)
    space = space_of(jacobian, f0, y, 6, HalfSquaredLoss())
    solved = closed_form_curves(space, GradientDescent(0.5, proximal=0.1), [100_000])
    alpha = np.linalg.solve(space.train_matrix + 6 * 0.1 * np.eye(12), (space.targets - f0)[:6].reshape(-1))
    assert_close(solved.coefficients.reshape(-1), alpha)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, c=OUTPUTS, loss=LOSSES, signs=st.booleans(), batch=st.sampled_from([None, 1, 3]))
def test_a_grid_of_learning_rates_is_one_run_after_another(seed, c, loss, signs, batch) -> None:
    jacobian, f0, y = linear_model(seed, 6, 5, c, 20)
    space = space_of(jacobian, f0, y, 6, loss, signs)
    descent = (SignDescent if signs else GradientDescent)(0.1, batch, seed=seed % 100)
    rates = [0.002, 0.02, 0.2]
    for rate, run in zip(rates, curves(space, descent, 30, 10, rates), strict=True):
        (alone,) = curves(space, replace(descent, learning_rate=rate), 30)
        assert run.learning_rate == rate
        assert_close(run.outputs, alone.outputs, 1e-6)
        np.testing.assert_allclose(run.train_loss, alone.train_loss, rtol=1e-6)


def test_given_batches_are_followed() -> None:
    jacobian, f0, y = linear_model(2, 6, 2, 1, 20)
    batches = [np.array([0, 3]), np.array([5]), np.array([1, 2, 4])]
    descent = GradientDescent(0.1, 2)
    (run,) = curves(space_of(jacobian, f0, y, 6, LogLoss()), descent, 3, batches=batches)
    assert_close(run.outputs, trained_outputs(jacobian, f0, y, LogLoss(), descent, batches)[0])


def test_an_epoch_sees_every_example_once() -> None:
    drawn = list(islice(drawn_batches(7, GradientDescent(0.1, batch=3)), 6))
    assert [len(batch) for batch in drawn] == [3, 3, 1, 3, 3, 1]
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(7))


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("every", [1, 1000])
@pytest.mark.filterwarnings("error")
def test_divergence_is_an_infinite_loss_and_stops_no_other_run(batch, every: int) -> None:
    jacobian, f0, y = linear_model(0, 6, 5, 2, 40)
    space = space_of(jacobian, f0, y, 6, HalfSquaredLoss(), validation=3)
    good, bad = curves(space, GradientDescent(0.1, batch), 2000, every, [0.1, 1e4])
    (alone,) = curves(space, GradientDescent(0.1, batch), 2000, every)
    assert (good.diverged, bad.diverged) == (False, True)
    np.testing.assert_allclose(good.train_loss, alone.train_loss, rtol=1e-6, atol=1e-20)
    assert np.isfinite(bad.train_loss[0])
    assert np.isinf([bad.train_loss[-1], bad.validation_loss[-1], bad.test_loss[-1]]).all()
    assert np.isnan(bad.outputs).all()
    assert np.isnan(bad.validation_score[-1])
    solved = closed_form_curves(space, GradientDescent(1e4), [0, 2000])
    assert solved.diverged
    assert np.isinf(solved.train_loss[-1])


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, c=OUTPUTS, proximal=st.sampled_from([0.0, 0.1]))
def test_the_simulated_edge_of_stability_is_two_over_the_curvature(seed, c, proximal) -> None:
    jacobian, f0, y = linear_model(seed, 6, 2, c, 30)
    space = space_of(jacobian, f0, y, 6, HalfSquaredLoss())
    edge = stability_edge(space, GradientDescent(1.0, proximal=proximal), steps=2000)
    assert edge.stable < edge.unstable < 1.003 * edge.stable
    assert edge.formula == pytest.approx(2 / (spectrum(space.train_matrix).largest / 6 + proximal))
    assert edge.stable == pytest.approx(edge.formula, rel=0.01)


def test_cross_entropy_is_stable_up_to_its_bound_at_least() -> None:
    jacobian, f0, y = linear_model(1, 8, 2, 3, 10)
    space = space_of(jacobian, f0, y, 8, LogLoss())
    edge = stability_edge(space, GradientDescent(1.0))
    assert edge.stable >= edge.formula
    signs = stability_edge(space_of(jacobian, f0, y, 8, LogLoss(), signs=True), SignDescent(1.0))
    assert np.isnan(signs.formula)
    assert signs.stable > 0


@settings(max_examples=20, deadline=None)
@given(SEEDS, LOSSES, OUTPUTS)
def test_an_example_that_counts_twice_is_two_examples(seed: int, loss, c: int) -> None:
    jacobian, f0, y = linear_model(seed, 5, 4, c, 12)
    counts = np.random.default_rng(seed).integers(1, 4, 5)
    again = np.concatenate([np.repeat(np.arange(5), counts), np.arange(5, 9)])
    repeated = space_of(jacobian[again], f0[again], y[again], int(counts.sum()), loss)
    counted = space_of(jacobian, f0, y, 5, loss, counts=counts)
    (many,), (few,) = (curves(space, GradientDescent(0.3), 25, 5) for space in (repeated, counted))
    assert_close(few.train_loss, many.train_loss)
    assert_close(few.validation_loss, many.validation_loss)
    assert_close(few.outputs, many.outputs[np.unique(again, return_index=True)[1]])


def test_validation_chooses_rate_and_steps_and_the_test_has_no_say() -> None:
    jacobian, f0, y = linear_model(3, 12, 20, 2, 30)
    truth = np.random.default_rng(4).normal(size=30)
    y = ((jacobian[:, 1] - jacobian[:, 0]) @ truth > 0).astype(int)
    space = space_of(jacobian, f0, y, 12, LogLoss(), validation=8)
    best = best_run(space, GradientDescent(1.0, 4), 200)
    scores = np.array([run.validation_score for run in best.curves])
    assert best.validation_score == scores.max()
    losses = np.array([run.validation_loss for run in best.curves])
    assert best.validation_loss == losses[scores == scores.max()].min()
    chosen = next(run for run in best.curves if run.learning_rate == best.learning_rate)
    assert best.test_score == chosen.test_score[list(chosen.steps).index(best.steps)]
    (again,) = curves(space, GradientDescent(best.learning_rate, 4), best.steps)
    assert again.validation_loss[-1] == pytest.approx(best.validation_loss)
    told = best_run(space, GradientDescent(1.0, 4), 200, typical=typical_learning_rate(space, GradientDescent(1.0, 4)))
    assert (told.learning_rate, told.steps, told.test_loss) == (best.learning_rate, best.steps, best.test_loss)
    flipped = replace(space, y=np.concatenate([y[:20], 1 - y[20:]]))
    other = best_run(flipped, GradientDescent(1.0, 4), 200)
    assert (other.learning_rate, other.steps) == (best.learning_rate, best.steps)
    assert other.test_score == pytest.approx(1 - best.test_score)


def test_f1_scores_like_scikit_learn() -> None:
    jacobian, f0, y = linear_model(3, 6, 10, 1, 30)
    (run,) = curves(space_of(jacobian, f0, y, 6, LogLoss(), metric="f1"), GradientDescent(0.5), 20)
    predicted = (run.outputs[6:, 0] > 0).astype(int)
    true = int((predicted * y[6:]).sum())
    assert run.validation_score[-1] == pytest.approx(2 * true / (predicted.sum() + y[6:].sum()))


def test_what_does_not_fit_is_refused() -> None:
    jacobian, f0, y = linear_model(0, 4, 2, 2, 10)
    space = space_of(jacobian, f0, y, 4, LogLoss())
    descent = GradientDescent(0.1)
    cases = [
        (lambda: replace(space, f0=f0[:5]), r"\(n \+ m, c, n, c\)"),
        (lambda: replace(space, y=y + 2), "class numbers below 2"),
        (lambda: replace(space, f0=f0 * np.nan), "undefined or infinite"),
        (lambda: replace(space, validation=3), "2 evaluation rows"),
        (lambda: GradientDescent(0.0), "learning_rate > 0"),
        (lambda: GradientDescent(0.1, batch=0), "batch >= 1"),
        (lambda: curves(space, descent, -1), "steps >= 0"),
        (lambda: curves(space, descent, 3, batches=[np.array([0])]), "1 batches for 3 steps"),
        (lambda: curves(space, descent, 1, batches=[np.array([0, 0])]), "Batch 0"),
        (lambda: closed_form_curves(space, descent, [1]), r"SquaredLoss\(\)"),
        (
            lambda: closed_form_curves(replace(space, loss=HalfSquaredLoss()), GradientDescent(0.1, 2), [1]),
            "batches of 2",
        ),
        (lambda: closed_form_curves(replace(space, loss=HalfSquaredLoss()), descent, [2, 1]), "ascending"),
        (
            lambda: closed_form_curves(replace(space, loss=HalfSquaredLoss(), counts=np.ones(4, int)), descent, [1]),
            "counts=None",
        ),
        (lambda: replace(space, counts=np.zeros(4, int)), "1 or more"),
        (lambda: best_run(replace(space, validation=0), descent, 5), "validation >= 1"),
        (lambda: stability_edge(space, descent, rise=1.0), "above one"),
        (lambda: typical_learning_rate(replace(space, kernel=0 * space.kernel), descent), "only zeros"),
    ]
    for refused, message in cases:
        with pytest.raises(ft.ForetuneError, match=message):
            refused()
