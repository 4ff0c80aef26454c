"""Learning curves: parts of the rows as direct fits give them, and power laws continued."""

from __future__ import annotations

import numpy as np
import pytest

from foretune.analysis.example_kernel import kernel_factors
from foretune.analysis.learning_curve import PartErrors, continued, part_errors
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
