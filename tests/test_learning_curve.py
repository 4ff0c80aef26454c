"""Learning curves: parts of the rows as direct fits give them, and power laws continued."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from foretune.analysis.example_kernel import kernel_factors
from foretune.analysis.learning_curve import (
    FURTHEST,
    SPREAD,
    ErrorCurve,
    PartErrors,
    continued,
    of_training,
    part_errors,
)
from tests.test_leave_one_out import planted


@pytest.mark.parametrize(("exponent", "floor"), [(0.5, 0.0), (0.3, 0.0), (0.5, 0.1)])
def test_a_power_law_is_continued_as_one(exponent: float, floor: float) -> None:
    sizes = np.array([25, 35, 50, 71, 100, 141, 200])
    errors = floor + 0.2 * (sizes / 200.0) ** -exponent
    generator = np.random.default_rng(0)
    drawn = (generator.random((400,)) < errors[:, None]).astype(float)
    drawn += (errors - drawn.mean(1))[:, None]  # the same mean, the noise of rows
    found = continued(PartErrors(sizes, drawn), (1, 2, 4, 8), 0)
    right = floor + 0.2 * np.array([1.0, 2, 4, 8]) ** -exponent
    low, high = found.interval
    assert found.mean == pytest.approx(right, abs=0.03)
    assert (low <= right).all() and (right <= high).all()
    assert (np.diff(high - low) > -0.02).all()


def test_errors_of_parts_fall_to_those_of_leaving_one_out() -> None:
    phi, _, y = planted(0, 0.05, n=160, c=3)
    found = part_errors(kernel_factors(phi @ phi.T), y, 3, seed=1)
    assert found.sizes[-1] == 160 and found.sizes[0] == 20 and (np.diff(found.sizes) > 0).all()
    assert np.isfinite(found.mean).all() and found.mean[0] > found.mean[-1]
    assert set(np.unique(found.errors[-1])) <= {0.0, 1.0}
    again = part_errors(kernel_factors(phi @ phi.T), y, 3, seed=1)
    assert np.array_equal(found.errors, again.errors, equal_nan=True)


def test_training_goes_on_from_where_gradients_are_ahead_of_features_and_nowhere_else() -> None:
    generator, shape = np.random.default_rng(0), (4000, 4)
    features = ErrorCurve(np.array([0.3, 0.2, 0.1, 0.0]), generator.uniform(0.1, 0.5, shape))
    ahead, share = np.array([True, True, False, False]), np.array([0.5, 0.5, 1.0, 1.5])
    gradients = ErrorCurve(np.array([0.15, 0.2, 0.2, 0.0]), features.draws * share)
    found = of_training(gradients, features, 0)
    assert found.mean == pytest.approx([0.15 * 0.15 / 0.3, 0.2, 0.2, 0.0])
    odds = logit(found.draws)
    off = (odds - logit(gradients.draws))[:, ~ahead]  # how far training is from the fits
    assert off.mean() == pytest.approx(0, abs=0.1 * SPREAD) and off.std() == pytest.approx(SPREAD, rel=0.1)
    gone = np.log(expit(odds - off[:, :1]) / gradients.draws)[:, ahead] / np.log(0.5)
    assert (gone >= -1e-9).all() and (gone <= FURTHEST + 1e-9).all()
    assert gone.min() < 0.01 * FURTHEST and gone.max() > 0.99 * FURTHEST  # from nothing to the furthest
    assert gone.mean() == pytest.approx(1, rel=0.05)  # as the mean curve


def test_errors_of_training_stay_between_none_and_all() -> None:
    ends = ErrorCurve(np.array([0.0, 1.0]), np.tile([0.0, 1.0], (50, 1)))
    found = of_training(ends, ends, 0)
    assert (found.draws == ends.draws).all() and (found.mean == ends.mean).all()


def test_two_kernels_are_asked_on_the_same_rows() -> None:
    phi, _, y = planted(0, 0.05, n=160, c=3)
    measured = part_errors(kernel_factors(phi @ phi.T), y, 3, seed=1)
    for curve in (measured.curve, lambda seed: continued(measured, (1, 2, 4), seed)):
        found = of_training(curve(2), curve(2), 5)  # one kernel: what is left is how far training is from the fits
        off = logit(found.draws) - logit(curve(2).draws)
        assert off == pytest.approx(np.broadcast_to(off[:, :1], off.shape))
        assert np.array_equal(found.mean, curve(2).mean)
