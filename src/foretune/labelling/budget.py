"""How many labels: the accuracy at parts of the rows, measured, and at multiples of them, continued.

With gradients, the accuracy is that of training (`analysis.learning_curve.of_training`). With features, it is that of a fit
to them. With two labels, training agreed with such a fit. With more, it was far above it in some tasks, so that the fit
says nothing of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foretune.analysis.example_kernel import Factors
from foretune.analysis.learning_curve import ErrorCurve, PartErrors, continued, of_training, part_errors
from foretune.labelling.kernel import RowKernel, feature_kernel
from foretune.labelling.rows import RowsToAsk

MULTIPLES = (1.0, 2.0, 4.0, 8.0)
WIDEST = 0.2
"""An interval of accuracy wider than this says nothing of use."""
Comparison = Literal["adapting", "probe", "cannot tell"]


@dataclass(frozen=True)
class BudgetPoint:
    """The accuracy at a number of labelled rows.

    Attributes:
        rows: number of labelled rows.
        times: number of rows over those there are.
        accuracy: 0 to 1.
        low: lower end of its 95% interval.
        high: upper end of its 95% interval.
        measured: whether there are as many rows; otherwise it is continued.
        can_tell: whether the curve tells what training would reach, in an interval that is narrow enough to say anything.
    """

    rows: int
    times: float
    accuracy: float
    low: float
    high: float
    measured: bool
    can_tell: bool


@dataclass(frozen=True)
class Adapting:
    """Whether training the weights beats a classifier on the features, at a number of rows.

    Attributes:
        times: number of rows over those there are.
        gain: accuracy of training, from gradients and features, less that of a fit to the features.
        low: lower end of its 95% interval.
        high: upper end of its 95% interval.
        better: `adapting`, `probe`, or `cannot tell` where the interval holds zero.
    """

    times: float
    gain: float
    low: float
    high: float
    better: Comparison


@dataclass(frozen=True)
class LabelBudget:
    """The learning curve of the rows.

    Attributes:
        points: parts of the rows, all of them, and multiples.
        kernel: what it is made of, `features`, or `gradients` beside features.
        tells: whether it tells what training would reach; a fit to features alone does not with more than two labels.
        adapting: training against a fit to the features at these rows and at multiples; empty without gradients.
    """

    points: tuple[BudgetPoint, ...]
    kernel: str
    tells: bool
    adapting: tuple[Adapting, ...]


def budget_of(found: RowsToAsk, kernel: RowKernel, seed: int) -> LabelBudget:
    """The learning curve.

    Args:
        found: rows and their labels.
        kernel: between them.
        seed: of the parts.
    """
    errors = _errors(found, kernel.factors, seed)
    measured, beyond = errors.curve(seed), continued(errors, MULTIPLES, seed)
    adapting: tuple[Adapting, ...] = ()
    tells = len(found.labels) == 2
    if kernel.how == "gradients":
        of_features = _errors(found, feature_kernel(kernel.features), seed)
        probe = continued(of_features, MULTIPLES, seed)
        measured = of_training(measured, of_features.curve(seed), seed)
        beyond = of_training(beyond, probe, seed)
        adapting, tells = _compared(beyond, probe), True
    n, points = len(found.y), []
    for place, size in enumerate(errors.sizes):
        if min(abs(size - n / part) for part in (2, 4, 8)) < 1:
            points.append(_point(int(size), n, measured, place, tells=tells, measured=True))
    for place, times in enumerate(MULTIPLES):  # all rows too: one fit to all is known less well than the curve
        points.append(_point(round(n * times), n, beyond, place, tells=tells, measured=times == 1))
    return LabelBudget(tuple(points), kernel.how, tells, adapting)


def _errors(found: RowsToAsk, factors: Factors, seed: int) -> PartErrors:
    return part_errors(factors, found.y, len(found.labels), seed)


def _point(rows: int, n: int, errors: ErrorCurve, place: int, *, tells: bool, measured: bool) -> BudgetPoint:
    low, high = (min(max(1 - float(end[place]), 0.0), 1.0) for end in reversed(errors.interval))
    return BudgetPoint(
        rows=rows,
        times=rows / n,
        accuracy=1 - float(errors.mean[place]),
        low=low,
        high=high,
        measured=measured,
        can_tell=tells and high - low <= WIDEST,
    )


def _compared(training: ErrorCurve, features: ErrorCurve) -> tuple[Adapting, ...]:
    """Training against a fit to the features on the same rows drawn."""
    gains = features.draws - training.draws
    low, high = np.percentile(gains, [2.5, 97.5], axis=0)
    made = []
    for place, times in enumerate(MULTIPLES):
        better: Comparison = "adapting" if low[place] > 0 else "probe" if high[place] < 0 else "cannot tell"
        gain = float(features.mean[place] - training.mean[place])
        made.append(Adapting(times, gain, float(low[place]), float(high[place]), better))
    return tuple(made)
