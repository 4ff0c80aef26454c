"""How many labels: the accuracy at parts of the rows, measured, and at multiples of them, continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foretune.analysis.example_kernel import Factors
from foretune.analysis.learning_curve import Continued, PartErrors, continued, part_errors
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
        can_tell: whether the interval is narrow enough to say anything.
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
        gain: accuracy of the kernel of gradients less that of features.
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
        kernel: what it is made of, `gradients` or `features`.
        adapting: gradients against features at these rows and at multiples; empty without gradients.
    """

    points: tuple[BudgetPoint, ...]
    kernel: str
    adapting: tuple[Adapting, ...]


def budget_of(found: RowsToAsk, kernel: RowKernel, seed: int) -> LabelBudget:
    """The learning curve.

    Args:
        found: rows and their labels.
        kernel: between them.
        seed: of the parts.
    """
    measured = _errors(found, kernel.factors, seed)
    beyond = continued(measured, MULTIPLES, seed)
    adapting: tuple[Adapting, ...] = ()
    if kernel.how == "gradients":
        probe = _errors(found, feature_kernel(kernel.features), seed)
        adapting = _compared(beyond, continued(probe, MULTIPLES, seed))
    return LabelBudget((*_measured_points(measured, seed), *_beyond(measured, beyond)), kernel.how, adapting)


def _errors(found: RowsToAsk, factors: Factors, seed: int) -> PartErrors:
    return part_errors(factors, found.y, len(found.labels), seed)


def _measured_points(measured: PartErrors, seed: int) -> tuple[BudgetPoint, ...]:
    """The sizes up to all rows, by halves."""
    generator = np.random.default_rng(seed)
    low, high = np.percentile([measured.resampled(generator) for _ in range(400)], [2.5, 97.5], axis=0)
    n, made = int(measured.sizes[-1]), []
    for place, size in enumerate(measured.sizes):
        if size == n or min(abs(size - n / part) for part in (2, 4, 8)) < 1:
            ends = (1 - float(high[place]), 1 - float(low[place]))
            made.append(_point(int(size), n, 1 - float(measured.mean[place]), ends, measured=True))
    return tuple(made)


def _beyond(measured: PartErrors, beyond: Continued) -> tuple[BudgetPoint, ...]:
    n, (low, high) = int(measured.sizes[-1]), beyond.interval
    return tuple(
        _point(
            round(n * times),
            n,
            1 - float(beyond.mean[place]),
            (1 - float(high[place]), 1 - float(low[place])),
            measured=False,
        )
        for place, times in enumerate(MULTIPLES)
        if times > 1
    )


def _point(rows: int, n: int, accuracy: float, ends: tuple[float, float], *, measured: bool) -> BudgetPoint:
    low, high = (min(max(end, 0.0), 1.0) for end in ends)
    return BudgetPoint(rows, rows / n, accuracy, low, high, measured, high - low <= WIDEST)


def _compared(gradients: Continued, features: Continued) -> tuple[Adapting, ...]:
    """Gradients against features on the same rows drawn."""
    gains = features.draws - gradients.draws
    low, high = np.percentile(gains, [2.5, 97.5], axis=0)
    made = []
    for place, times in enumerate(MULTIPLES):
        better: Comparison = "adapting" if low[place] > 0 else "probe" if high[place] < 0 else "cannot tell"
        gain = float(features.mean[place] - gradients.mean[place])
        made.append(Adapting(times, gain, float(low[place]), float(high[place]), better))
    return tuple(made)
