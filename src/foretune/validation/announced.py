r"""What a forecast announces for each candidate, against what really came: accuracy, its interval, and go or no-go.

A forecast reads `ANNOUNCED` test examples; the real score is that of all of them. Both sides tell two classes apart by the
sign of their difference output. A run was worth it if its test score lies above that before training.

Intervals are judged twice: as they are announced, and stretched by the factor that the other tasks needed
(`analysis.conformal`; with a single task the other seeds), which is how far a user may trust one on a task of his own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.conformal import LEVEL, conformal_factor, needed_factors, stretched
from foretune.analysis.scores import least_score
from foretune.candidates.verdict import EXIT_CODES, WORTH, Decision
from foretune.page import Quantity, Table
from foretune.shapes import Float64
from foretune.validation.rankings import number_cell, places_of, tasks_of
from foretune.validation.runs import Announced, Measured

NEAR = 0.04
"""The distance from the real score within which an announcement counts as near it."""


@dataclass(frozen=True)
class ScoreCalibration:
    """How far announced scores are to be trusted, on one task or all.

    Attributes:
        name: of the task, or `all`.
        runs: how many real runs there are.
        off: root mean square distance of announced and real scores, 0 to 1.
        bias: mean of announced minus real.
        near: share of announcements within `NEAR` of the real score.
        held, width: share of the announced intervals that hold the real score, and their mean width.
        factor: by which the other tasks' intervals had to be stretched; infinite for too few of them.
        held_stretched, width_stretched: the same of intervals stretched by it, cut to what a score can be.
    """

    name: str
    runs: int
    off: float
    bias: float
    near: float
    held: float
    width: float
    factor: float
    held_stretched: float
    width_stretched: float


@dataclass(frozen=True)
class Calls:
    """How often one decision was right.

    Attributes:
        decision: `go`, `no-go` or `cannot tell`.
        calls: how often it was called.
        gained: how many of these runs gained on test examples.
        worth: how many gained more than `WORTH`.
        right: share of the calls that were right, not a number where nothing was called, or decided: a go where the run
            gained, a no-go where it did not gain more than `WORTH`.
    """

    decision: Decision
    calls: int
    gained: int
    worth: int
    right: float


def calibrations(cells: Sequence[Measured]) -> list[ScoreCalibration]:
    """Task by task, and all together, of the cells that were announced something; none where nothing was.

    Args:
        cells: of all seeds and tasks.
    """
    cells = [cell for cell in cells if len(_Told.of(cell).real)]
    if not cells:
        return []
    told = [_Told.of(cell) for cell in cells]
    tasks = tasks_of(cells)
    groups = {task: places_of(cells, task) for task in tasks}
    splits = list(groups.values()) if len(tasks) > 1 else [[place] for place in range(len(cells))]
    factors = np.full(len(cells), math.inf)
    for own in splits:
        others = [told[place].factors for place in range(len(cells)) if place not in own]
        factors[own] = conformal_factor(np.concatenate(others)) if others else math.inf
    every = list(range(len(cells)))
    wanted = {**groups, **({"all": every} if len(tasks) > 1 else {})}
    return [_calibration(name, [told[place] for place in places], factors[places]) for name, places in wanted.items()]


def calls(cells: Sequence[Measured]) -> list[Calls]:
    """How often each decision was right, over all candidates of all cells; none where nothing was announced.

    Args:
        cells: of all seeds and tasks.
    """
    pairs = [
        (told.decision, outcome.test_score - cell.start_score)
        for cell in cells
        for told, outcome in zip(cell.announced, cell.outcomes, strict=False)
        if outcome.failure is None
    ]
    found = []
    for word in EXIT_CODES if pairs else ():
        gains = np.array([gain for called, gain in pairs if called == word])
        gained, worth = int((gains > 0).sum()), int((gains > WORTH).sum())
        right = {"go": gained, "no-go": len(gains) - worth}.get(word)
        share = float("nan") if right is None or not len(gains) else right / len(gains)
        found.append(Calls(word, len(gains), gained, worth, share))
    return found


def calibration_table(found: Sequence[ScoreCalibration]) -> Table:
    """How far announced scores are off, and how often their intervals held.

    Args:
        found: by task.
    """
    header = ("task", "runs", "off, points", "bias, points", f"within {100 * NEAR:g}", "interval holds", "width, points",
              "stretched by", "interval holds", "width, points")  # fmt: skip
    rows = [
        (
            each.name,
            Quantity(each.runs, "d"),
            number_cell(100 * each.off, 1),
            number_cell(100 * each.bias, 1),
            _share(each.near),
            _share(each.held),
            number_cell(100 * each.width, 1),
            number_cell(each.factor if math.isfinite(each.factor) else float("nan")),
            _share(each.held_stretched),
            number_cell(100 * each.width_stretched, 1),
        )
        for each in found
    ]
    caption = (
        "Announced against real test scores of every run that was announced: root mean square distance, and how often the "
        "announced interval holds the real score; then the same interval stretched by the factor with which "
        f"{LEVEL:.0%} of those of the other tasks (with one task: of the other seeds) would have held. A dash: too few of "
        "them"
    )
    return Table(header, tuple(rows), caption)


def calls_table(found: Sequence[Calls]) -> Table:
    """Go and no-go.

    Args:
        found: by decision.
    """
    rows = [
        (each.decision, *(Quantity(n, "d") for n in (each.calls, each.gained, each.worth)), _share(each.right))
        for each in found
    ]
    caption = (
        "Whether to tune at all, called for every run that was announced, and whether the real run's test score "
        f"lies above that before training. A go is right where it does, a no-go where it does not by more than {WORTH:g}"
    )
    return Table(("called", "runs", "gained", f"by more than {WORTH:g}", "right"), tuple(rows), caption)


def announced_findings(found: Sequence[Calls], calibrated: Sequence[ScoreCalibration]) -> tuple[str, ...]:
    """Both tables in a sentence each.

    Args:
        found: by decision.
        calibrated: by task, all of them last.
    """
    said = []
    if calibrated:
        last = calibrated[-1]
        said.append(
            f"Announced accuracy: off by {100 * last.off:.1f} points over {last.runs} runs; the interval holds "
            f"{last.held:.0%} of the real scores at a mean width of {100 * last.width:.0f} points."
        )
    known = {each.decision: each for each in found}
    if known and (decided := known["go"].calls + known["no-go"].calls):
        right = known["go"].gained + known["no-go"].calls - known["no-go"].worth
        told = decided + known["cannot tell"].calls
        said.append(f"Go or no-go was called for {decided} of {told} runs and right for {right} of these {decided}.")
    return tuple(said)


@dataclass(frozen=True)
class _Told:
    """Announcements of a cell beside the real scores, without runs that failed."""

    real: Float64[np.ndarray, " k"]
    values: Float64[np.ndarray, " k"]
    low: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]
    least: float

    @classmethod
    def of(cls, cell: Measured) -> _Told:
        pairs: list[tuple[Announced, float]] = [
            (told, outcome.test_score)
            for told, outcome in zip(cell.announced, cell.outcomes, strict=False)
            if outcome.failure is None
        ]
        columns = np.array([(real, told.value, told.low, told.high) for told, real in pairs], dtype=float)
        return cls(*columns.reshape(-1, 4).T, least=least_score(cell.metric))

    @property
    def factors(self) -> Float64[np.ndarray, " k"]:
        return needed_factors(self.real, self.values, self.low, self.high)

    def intervals(self, factor: float) -> Float64[np.ndarray, "k 2"]:
        """Stretched, and cut to what a score can be."""
        each = [stretched(*row, factor) for row in zip(self.values, self.low, self.high, strict=True)]
        return np.clip(np.array(each).reshape(-1, 2), self.least, 1.0)

    def held(self, factor: float) -> list[bool]:
        low, high = self.intervals(factor).T
        return list((low <= self.real) & (self.real <= high))


def _calibration(name: str, told: Sequence[_Told], factors: Float64[np.ndarray, " s"]) -> ScoreCalibration:
    off = np.concatenate([each.values - each.real for each in told])
    pairs = list(zip(told, factors, strict=True))

    def held(stretch: bool) -> float:
        return float(np.mean([one for each, factor in pairs for one in each.held(factor if stretch else 1.0)]))

    def width(stretch: bool) -> float:
        return float(
            np.mean(np.concatenate([np.diff(each.intervals(factor if stretch else 1.0)) for each, factor in pairs]))
        )

    known = bool(np.isfinite(factors).all())
    return ScoreCalibration(
        name=name,
        runs=len(off),
        off=float(np.sqrt(np.mean(off**2))),
        bias=float(off.mean()),
        near=float(np.mean(np.abs(off) <= NEAR)),
        held=held(stretch=False),
        width=width(stretch=False),
        factor=float(factors.mean()),
        held_stretched=held(stretch=True) if known else float("nan"),
        width_stretched=width(stretch=True) if known else float("nan"),
    )


def _share(value: float) -> Quantity:
    return Quantity(value, ".0%", missing="-")
