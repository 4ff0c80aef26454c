"""What a forecast is worth in real steps: all candidates run for a part of their steps, and the lowest validation loss.

    s_q(p) = -min {validation loss of p at step t, at any point of the grid:  0 < t <= q T}

That is the first rung of successive halving (Jamieson & Talwalkar 2016), the cheapest way to choose by real runs. A
forecast that ranks no worse than s_q is worth the share q of running everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from foretune.candidates.scores import SCORES
from foretune.experiment.outcome import Outcome, PointCurve
from foretune.page import Table
from foretune.shapes import Float64
from foretune.validation.rankings import LOSS, SCORE, Ranking, interval_cell, number_cell, ranking_of
from foretune.validation.runs import Measured

SHARES = tuple(Fraction(*pair) for pair in ((1, 6), (1, 3), (1, 2), (2, 3), (1, 1)))
"""Of the steps of every run."""


@dataclass(frozen=True)
class Stopped:
    """All candidates, run for a share of their steps.

    Attributes:
        share: the share of the steps that is run.
        by_loss, by_score: how the lowest validation loss so far ranks them by test loss and test score at the end.
        seconds: seconds of all these runs; mean over tasks and seeds.
    """

    share: Fraction
    by_loss: Ranking
    by_score: Ranking
    seconds: float

    @property
    def name(self) -> str:
        """In tables."""
        return "all steps" if self.share == 1 else f"the first {self.share} of the steps"


def stopped_runs(cells: Sequence[Measured]) -> list[Stopped]:
    """Every share after which all runs of all candidates have been evaluated at least once.

    Args:
        cells: of all seeds and tasks, the same candidates in each.
    """
    found = []
    for share in SHARES:
        curves = [point for cell in cells for outcome in cell.outcomes for point in outcome.points]
        if not curves or any(not _reached(point, share).any() for point in curves):
            continue
        lowest = np.stack([lowest_so_far(cell.outcomes, share) for cell in cells])
        name = f"real runs of all, {share}"
        found.append(
            Stopped(
                share,
                ranking_of(name, lowest, cells, LOSS),
                ranking_of(name, lowest, cells, SCORE),
                float(np.mean([_seconds(cell.outcomes, partial(_reached, share=share)) for cell in cells])),
            )
        )
    return found


def lowest_so_far(outcomes: Sequence[Outcome], share: Fraction) -> Float64[np.ndarray, " k"]:
    """s_q of every candidate; minus infinity where every run failed.

    Args:
        outcomes: of the candidates.
        share: q.
    """
    return np.array([_lowest(outcome, partial(_reached, share=share)) for outcome in outcomes])


def lowest_within(outcomes: Sequence[Outcome], steps: int) -> Float64[np.ndarray, " k"]:
    """The lowest validation loss of every candidate in its first steps, with the sign turned; minus infinity for none.

    Args:
        outcomes: of the candidates.
        steps: how many.
    """
    return np.array([_lowest(outcome, partial(_within, steps=steps)) for outcome in outcomes])


def seconds_within(outcomes: Sequence[Outcome], steps: int) -> float:
    """Seconds of all runs up to their last evaluation in their first steps.

    Args:
        outcomes: of the candidates.
        steps: how many.
    """
    return _seconds(outcomes, partial(_within, steps=steps))


def _lowest(outcome: Outcome, reached: Callable[[PointCurve], np.ndarray]) -> float:
    """The lowest loss among the evaluations that were reached, with the sign turned."""
    losses = [float(loss) for point in outcome.points for loss in np.array(point.validation_losses)[reached(point)]]
    return max((-loss for loss in losses), default=-np.inf)


def stopped_table(cells: Sequence[Measured], stopped: Sequence[Stopped]) -> Table:
    """What real runs say so early.

    Args:
        cells: of all seeds and tasks.
        stopped: what `stopped_runs` found.
    """
    rows = []
    for found in stopped:
        by_loss, by_score = found.by_loss, found.by_score
        rows.append(
            (
                found.name,
                interval_cell(by_loss.median, by_loss.low, by_loss.high),
                number_cell(by_loss.regret, 3),
                interval_cell(by_score.median, by_score.low, by_score.high),
                number_cell(by_score.regret, 1),
                number_cell(found.seconds, 0),
            )
        )
    header = (
        f"all {len(cells[0].names)} candidates, run for",
        "test loss: median (95%)",
        "regret, nats",
        "test score: median (95%)",
        "regret, points",
        "cost, s",
    )
    caption = (
        "Choosing by real runs that are stopped early, by the lowest validation loss so far: rank correlation with the "
        "test loss and score of the whole runs, and regret. `cost` is that of all these runs for a task and a seed"
    )
    return Table(header, tuple(rows), caption)


def stopped_findings(ranked: Sequence[Ranking], stopped: Sequence[Stopped]) -> tuple[str, ...]:
    """From when on real runs rank better than the best forecast.

    Args:
        ranked: the scores by test loss.
        stopped: what `stopped_runs` found.
    """
    known = [ranking for ranking in ranked if ranking.score in SCORES and not np.isnan(ranking.median)]
    early = [found for found in stopped if not np.isnan(found.by_loss.median)]
    if not known or not early:
        return ()
    best = max(known, key=lambda ranking: ranking.median)
    said = []
    if beaten := [found for found in early if found.by_loss.median <= best.median]:
        said.append(f"no better after {_reach(beaten[-1])}")
    if ahead := [found for found in early if found.by_loss.median > best.median]:
        said.append(f"better after {_reach(ahead[0])}")
    return (
        f"Worth in real runs, by test loss: {best.score} has a median correlation of {best.median:.2f} and a regret of "
        f"{best.regret:.3f} nats without a step; real runs of all candidates rank {', '.join(said)}.",
    )


def _reach(found: Stopped) -> str:
    ranking = found.by_loss
    return f"{found.name} ({ranking.median:.2f}, regret {ranking.regret:.3f} nats, {found.seconds:.0f} s)"


def _reached(point: PointCurve, share: Fraction) -> np.ndarray:
    """Which evaluations after the start lie within a share of the run."""
    steps = np.array(point.steps)
    return (steps > 0) & (steps <= float(share) * steps[-1])


def _within(point: PointCurve, steps: int) -> np.ndarray:
    """Which evaluations after the start lie in the first steps of the run."""
    evaluated = np.array(point.steps)
    return (evaluated > 0) & (evaluated <= steps)


def _seconds(outcomes: Sequence[Outcome], reached: Callable[[PointCurve], np.ndarray]) -> float:
    """Of all runs, up to the last evaluation that was reached."""
    places = [(point, np.flatnonzero(reached(point))) for outcome in outcomes for point in outcome.points]
    return sum(point.seconds[found[-1]] for point, found in places if len(found))
