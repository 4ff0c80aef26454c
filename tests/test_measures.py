"""Arithmetic of features, classifiers, calibration and output derivatives against autograd and cases computed by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretune as ft
from foretune.analysis import calibration as calibrating
from foretune.analysis import classifier, features
from foretune.analysis.losses import HalfSquaredLoss, LogLoss
from foretune.analysis.output_derivative import chi, output_derivative
from foretune.analysis.singular_values import singular_values
from foretune.analysis.solvers.estimator import class_probabilities

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 5), c=st.integers(1, 4), squared=st.booleans())
def test_chi_is_the_derivative_of_the_loss(seed, n, c, squared) -> None:
    generator = np.random.default_rng(seed)
    values, y = generator.normal(size=(n, c)) * 3, generator.integers(0, max(c, 2), n)
    f = torch.tensor(values, requires_grad=True)
    labels = torch.tensor(y)
    if squared:
        wanted = (2.0 * labels - 1)[:, None] if c == 1 else torch.nn.functional.one_hot(labels, c)
        loss = ((f - wanted) ** 2).sum() / 2
    else:
        logits = torch.cat([torch.zeros_like(f), f], 1) if c == 1 else f
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, f)
    kind = HalfSquaredLoss() if squared else LogLoss()
    kept = values.copy()
    assert np.allclose(chi(values, y, kind), gradient.numpy(), atol=1e-12)
    assert np.array_equal(values, kept)
    size = output_derivative(values, y, kind)
    assert size.mean_absolute == pytest.approx(gradient.abs().mean().item())
    assert size.largest == pytest.approx(gradient.abs().max().item())


def test_the_difference_form_has_the_output_derivative_of_two_outputs() -> None:
    f, y = np.array([[0.3], [-1.2]]), np.array([1, 1])
    pair = np.concatenate([np.zeros_like(f), f], axis=1)
    assert dataclasses.astuple(output_derivative(f, y)) == pytest.approx(
        dataclasses.astuple(output_derivative(pair, y))
    )
    with pytest.raises(ft.ForetuneError, match="0 to 1"):
        output_derivative(f, np.array([1, 2]))
    with pytest.raises(ft.ForetuneError, match="one label"):
        output_derivative(f, np.array([1]))


def test_singular_values_of_a_kernel() -> None:
    kernel = np.diag([3.0, -1.0, 4.0, 0.0]).reshape(2, 2, 2, 2)
    found = singular_values(kernel)
    assert found.values == pytest.approx([4, 3, 1, 0])
    assert found.cumulative == pytest.approx([0.5, 0.875, 1, 1])
    assert list(found.ranks) == [1, 2, 3, 4]
    assert found.frobenius == pytest.approx(np.linalg.norm(kernel))
    with pytest.raises(ft.ForetuneError, match="undefined"):
        singular_values(np.full((1, 1, 1, 1), np.nan))


def test_features_change_as_computed_by_hand() -> None:
    before = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
    after = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 4.0], [0.0, 1.0]])
    found = features.feature_change(before, after, np.array([0, 1, 0, 1]))
    assert found.similarity[0] == pytest.approx(2 / 6)  # two parallel pairs of six
    assert found.difference == pytest.approx((0 + math.sqrt(8) + 5 + 0) / 4)
    assert found.relative == pytest.approx((math.sqrt(8) + 5) / 5)
    assert found.cosine == pytest.approx((1 + 0 + math.sqrt(0.5) + 1) / 4)
    still = features.feature_change(before, before, np.array([0, 1, 0, 1]))
    assert (still.difference, still.cosine) == (0, pytest.approx(1))
    with pytest.raises(ft.ForetuneError, match="direction"):
        features.pairwise_similarity(np.zeros((2, 2)))


def test_the_fisher_ratio_in_one_dimension() -> None:
    line = np.array([[0.0], [2.0], [10.0], [12.0]])
    y = np.array([0, 0, 1, 1])
    assert features.fisher_ratio(line, y) == pytest.approx(100 / 4, rel=1e-5)  # between 4 * 5^2, within 4 * 1^2
    assert features.fisher_ratio(7 * line, y) == pytest.approx(features.fisher_ratio(line, y))
    assert features.fisher_ratio(np.array([[0.0], [0.0], [1.0]]), np.array([0, 0, 1])) == math.inf
    with pytest.raises(ft.ForetuneError, match="at least two"):
        features.fisher_ratio(line, np.zeros(4, int))


def test_the_fisher_ratio_is_that_of_linear_discriminant_analysis() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    generator = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 20)
    x = generator.normal(size=(60, 4)) + np.eye(4)[y] * 2
    axes = LinearDiscriminantAnalysis().fit(x, y).transform(x)  # uncorrelated within and between the classes
    means = np.stack([axes[y == k].mean(0) for k in range(3)])[y]
    expected = ((means - axes.mean(0)) ** 2).sum(0) / ((axes - means) ** 2).sum(0)
    assert features.fisher_ratio(x, y, 1e-12) == pytest.approx(expected.sum(), rel=1e-6)


def test_rows_that_point_to_their_own_class_grow() -> None:
    x = np.array([[2.0, -1.0], [-1.0, 2.0]])
    slopes = classifier.norm_slopes(x, np.eye(2), np.zeros(2), np.array([0, 1]))
    assert (slopes < 0).all()
    with pytest.raises(ft.ForetuneError, match="none of zeros"):
        classifier.norm_slopes(x, np.zeros((2, 2)), np.zeros(2), np.array([0, 1]))


def logits_of(chances: list[float]) -> np.ndarray:
    """A difference output whose probability of class 1 is given."""
    p = np.array(chances)
    return np.log(p / (1 - p))[:, None]


def test_calibration_errors_as_computed_by_hand() -> None:
    f = logits_of([0.9, 0.91, 0.1, 0.75])  # confidences 0.9, 0.91, 0.9 in one bin and 0.75 in another
    y = np.array([1, 0, 0, 1])
    found = calibrating.calibration(f, y)
    high, low = abs(2 / 3 - (0.9 + 0.91 + 0.9) / 3), abs(1 - 0.75)
    assert found.ece == pytest.approx(3 / 4 * high + 1 / 4 * low, abs=1e-6)
    assert found.mce == pytest.approx(max(high, low), abs=1e-6)
    assert found.loss == pytest.approx(-np.log([0.9, 0.09, 0.9, 0.75]).mean())
    bins = found.reliability
    assert list(bins.count[bins.count > 0]) == [1, 3]
    assert bins.accuracy[bins.count > 0] == pytest.approx([1, 2 / 3])
    assert len(bins.edges) == 16


@pytest.mark.parametrize("bins", [1, 4, 5, 15])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(bins: int) -> None:
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    confidence = np.array([edge for edge in edges if edge > 0.5] + [0.97])
    found = calibrating._reliability(np.column_stack([1 - confidence, confidence]), np.ones(len(confidence), int), bins)
    for low, high, count in zip(found.edges, found.edges[1:], found.count, strict=False):  # tom4649/lp-ft_ntk
        assert count == ((confidence > low) & (confidence <= high)).sum()
    certain = calibrating.calibration(np.array([[50.0], [60.0]]), np.array([1, 0]), bins)
    assert certain.reliability.count[-1] == 2
    assert certain.ece == certain.mce == pytest.approx(0.5)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 40), c=st.integers(1, 4), bins=st.integers(1, 20), spread=st.floats(0.01, 200))
def test_the_reliability_diagram_adds_up_to_the_errors(seed, n, c, bins, spread) -> None:
    generator = np.random.default_rng(seed)
    f, y = generator.normal(size=(n, c)) * spread, generator.integers(0, max(c, 2), n)
    found = calibrating.calibration(f, y, bins)
    diagram = found.reliability
    used = diagram.count > 0
    errors = np.abs(diagram.accuracy - diagram.confidence)[used]
    assert diagram.count.sum() == n
    assert found.ece == pytest.approx((errors * diagram.count[used]).sum() / n, abs=1e-5)
    assert found.mce == pytest.approx(errors.max(), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 40), c=st.integers(1, 4), spread=st.floats(0.1, 30))
def test_temperature_scaling_improves_validation_loss_and_keeps_predictions(seed, n, c, spread) -> None:
    generator = np.random.default_rng(seed)
    f, y = generator.normal(size=(n, c)) * spread, generator.integers(0, max(c, 2), n)
    found = calibrating.fitted_temperature(f, y)
    loss = calibrating.cross_entropy(f / found.value, y)
    for log_t in np.linspace(-4, 4, 17):
        assert loss <= calibrating.cross_entropy(f / math.exp(log_t), y) + 1e-6
    scaled = class_probabilities(f / found.value)
    assert np.array_equal(class_probabilities(f).argmax(1), scaled.argmax(1)) or found.value < 0.1


def test_temperature_scaling_undoes_a_longer_classifier() -> None:
    generator = np.random.default_rng(0)
    f = generator.normal(size=(4000, 3)) * 2
    y = np.array([generator.choice(3, p=p) for p in class_probabilities(f)])  # f is calibrated
    found = calibrating.temperature_scaling(5 * f[:2000], y[:2000], 5 * f[2000:], y[2000:])
    assert found.temperature.value == pytest.approx(5, rel=0.1)
    assert not found.temperature.at_limit
    assert found.scaled.ece < 0.05 < found.without.ece
    separated = calibrating.fitted_temperature(np.array([[3.0], [-2.0]]), np.array([1, 0]))
    assert separated.at_limit
    with pytest.raises(ft.ForetuneError, match="one label"):
        calibrating.calibration(f, y[:3])
