"""Every score against what really came of the candidates, test loss or test score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.rank_statistics import (
    Ceiling,
    ceiling,
    median_correlation,
    median_partial_correlation,
    rank_correlation,
    regret,
)
from foretune.candidates.scores import SCORES, warmed_name
from foretune.page import Estimate, Quantity
from foretune.shapes import Float64
from foretune.validation.runs import Measured

EXHAUSTIVE = "exhaustive search, by validation loss"


@dataclass(frozen=True)
class Measure:
    """One result by which candidates are ranked.

    Attributes:
        name: the result's name in tables.
        unit: unit of a regret.
        scale: factor from the result to the unit.
        of: the results of a cell, larger is better.
    """

    name: str
    unit: str
    scale: float
    of: Callable[[Measured], Float64[np.ndarray, " k"]]


LOSS = Measure("test loss", "nats", 1.0, lambda cell: -cell.losses)
SCORE = Measure("test score", "points", 100.0, lambda cell: cell.test_scores)


@dataclass(frozen=True)
class Ranking:
    """One score against one measure.

    Attributes:
        score, measure: names of the score and of the result.
        median, low, high: rank correlation over tasks and seeds, with its interval over candidates; NaN where the score
            is the same for all of them.
        by_task: task -> rank correlation, mean over seeds.
        regret: mean over tasks and seeds, in the measure's unit.
        partial, partial_low, partial_high: rank correlation that is left once the best rule that looks at no data is
            taken out of both sides, with its interval over candidates; NaN for that rule itself.
    """

    score: str
    measure: str
    median: float
    low: float
    high: float
    by_task: dict[str, float]
    regret: float
    partial: float = float("nan")
    partial_low: float = float("nan")
    partial_high: float = float("nan")


def rankings(
    cells: Sequence[Measured], measure: Measure, given: Float64[np.ndarray, "s k"] | None = None
) -> list[Ranking]:
    """Every score against one measure, in the order of `SCORES`, each with what it is after a warm-up below it.

    Args:
        cells: of all seeds and tasks.
        measure: test loss or test score.
        given: a rule of the candidates that is taken out of scores and results for the partial correlation.
    """
    steps = (0, *cells[0].warm_up_seconds)
    names = [warmed_name(name, count) for name in SCORES for count in steps]
    return [
        ranking_of(name, scores_of(cells, name), cells, measure, given) for name in names if name in cells[0].scores
    ]


def exhaustive_search(
    cells: Sequence[Measured], measure: Measure, given: Float64[np.ndarray, "s k"] | None = None
) -> Ranking:
    """What running every candidate and trusting its validation loss would do: the most that a forecast could save.

    Args:
        cells, measure, given: see `rankings`.
    """
    return ranking_of(EXHAUSTIVE, np.stack([cell.validation_losses for cell in cells]), cells, measure, given)


def ranking_of(
    name: str,
    scores: Float64[np.ndarray, "s k"],
    cells: Sequence[Measured],
    measure: Measure,
    given: Float64[np.ndarray, "s k"] | None = None,
) -> Ranking:
    """Some scores against one measure.

    Args:
        name: of the scores.
        scores: one row per task and seed, larger should be better.
        cells, measure, given: see `rankings`.
    """
    results = results_of(cells, measure)
    middle, each = median_correlation(scores, results), rank_correlation(scores, results)
    left = None if given is None else median_partial_correlation(scores, results, given)
    return Ranking(
        score=name,
        measure=measure.name,
        median=middle.value,
        low=middle.low,
        high=middle.high,
        by_task={task: _finite_mean(each[places_of(cells, task)]) for task in tasks_of(cells)},
        regret=measure.scale * float(np.mean([regret(*pair) for pair in zip(scores, results, strict=True)])),
        **({} if left is None else {"partial": left.value, "partial_low": left.low, "partial_high": left.high}),
    )


def _finite_mean(values: Float64[np.ndarray, " s"]) -> float:
    """The mean of the numbers among the values; a score that is the same for all candidates of a seed has none there."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def ceilings(cells: Sequence[Measured], measure: Measure) -> dict[str, Ceiling]:
    """Task -> how far its real results agree over seeds."""
    return {
        task: ceiling(np.stack([measure.of(cells[place]) for place in places_of(cells, task)]))
        for task in tasks_of(cells)
    }


def scores_of(cells: Sequence[Measured], name: str) -> Float64[np.ndarray, "s k"]:
    """One score of all candidates, one row per task and seed."""
    return np.array([cell.scores[name] for cell in cells], dtype=np.float64)


def results_of(cells: Sequence[Measured], measure: Measure) -> Float64[np.ndarray, "s k"]:
    """What all candidates reached, one row per task and seed."""
    return np.stack([measure.of(cell) for cell in cells])


def tasks_of(cells: Sequence[Measured]) -> list[str]:
    """The tasks, in order."""
    return list(dict.fromkeys(cell.task for cell in cells))


def places_of(cells: Sequence[Measured], task: str) -> list[int]:
    """Where the cells of a task stand."""
    return [place for place, cell in enumerate(cells) if cell.task == task]


def number_cell(value: float, digits: int = 2) -> Quantity:
    """A number as a cell, a dash where there is none."""
    return Quantity(float(value), f".{digits}f", missing="-")


def interval_cell(value: float, low: float, high: float, digits: int = 2) -> Estimate:
    """A number with its interval as a cell, a dash where there is none."""
    return Estimate(float(value), float(low), float(high), f".{digits}f")
