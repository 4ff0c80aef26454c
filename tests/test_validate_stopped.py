"""Real runs that are stopped early, as a measure of what a forecast is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from foretune.candidates.scores import SCORES
from foretune.experiment.outcome import Outcome, PointCurve
from foretune.validation.rankings import LOSS, rankings
from foretune.validation.runs import Measured
from foretune.validation.stopped import lowest_so_far, stopped_findings, stopped_runs, stopped_table


def curve(*losses: float) -> PointCurve:
    steps = tuple(2 * number for number in range(len(losses) + 1))
    return PointCurve(1e-3, 4, steps, (1.0, *losses), tuple(map(float, steps)))


def raced(seed: int, points: Sequence[Sequence[PointCurve]], label_regression: Sequence[float]) -> Measured:
    """A cell whose candidates went through these runs, the lowest validation loss being the test loss too."""
    lowest = [min(loss for point in own for loss in point.validation_losses[1:]) for own in points]
    outcomes = [
        Outcome(test_loss=low, validation_loss=low, test_score=1 - low, points=tuple(own))
        for low, own in zip(lowest, points, strict=True)
    ]
    flat = dict.fromkeys(SCORES, (0.0,) * len(points))
    scores = {**flat, "label regression, tangent kernel": tuple(label_regression)}
    return Measured("mr", seed, "accuracy", 1.0, 0.5, tuple("abcd"), tuple(outcomes), scores, (), ())


RACE = ([curve(0.9, 0.2, 0.1)], [curve(0.8, 0.4, 0.3)], [curve(0.7, 0.6, 0.5), curve(0.9, 0.9, 0.45)],
        [curve(0.65, 0.65, 0.65)])  # fmt: skip
"""First backwards, then in order: lowest losses 0.1, 0.3, 0.45, 0.65 at the end."""


def test_runs_stopped_early_rank_by_their_lowest_validation_loss_so_far() -> None:
    cell = raced(13, RACE, (4.0, 3.0, 2.0, 1.0))
    np.testing.assert_allclose(lowest_so_far(cell.outcomes, Fraction(1, 3)), [-0.9, -0.8, -0.7, -0.65])
    np.testing.assert_allclose(lowest_so_far(cell.outcomes, Fraction(1)), [-0.1, -0.3, -0.45, -0.65])
    third, half, most, whole = stopped_runs([cell])  # nothing was evaluated after a sixth
    assert [stop.share for stop in (third, half, most)] == [Fraction(1, 3), Fraction(1, 2), Fraction(2, 3)]
    assert third.by_loss.median == pytest.approx(-1) and third.by_loss.regret == pytest.approx(0.55)
    assert half.seconds == third.seconds == 5 * 2 and most.seconds == 5 * 4 and whole.seconds == 5 * 6
    assert most.by_loss.median == whole.by_loss.median == pytest.approx(1) and whole.by_score.regret == 0
    table = stopped_table([cell], [third, half, most, whole])
    assert [row[0] for row in table.texts] == ["the first 1/3 of the steps", "the first 1/2 of the steps",
                                              "the first 2/3 of the steps", "all steps"]  # fmt: skip


def test_a_forecast_is_said_to_be_worth_the_steps_after_which_runs_rank_better() -> None:
    for scores, words in [
        ((4.0, 2.0, 3.0, 1.0), "no better after the first 1/2 of the steps (-1.00, regret 0.550 nats, 10 s), "
                               "better after the first 2/3 of the steps (1.00"),
        ((4.0, 3.0, 2.0, 1.0), "rank no better after all steps (1.00"),
    ]:  # fmt: skip
        cells = [raced(13, RACE, scores)]
        (said,) = stopped_findings(rankings(cells, LOSS), stopped_runs(cells))
        assert words in said and said.startswith("Worth in real runs, by test loss: label regression, tangent kernel")


def test_failed_runs_come_last_and_a_task_without_any_run_has_no_table() -> None:
    failed = Outcome(failure="the loss became infinite")
    cell = raced(13, RACE, (1.0, 2.0, 3.0, 4.0))
    lame = replace(cell, outcomes=(*cell.outcomes[:3], failed))
    assert lowest_so_far(lame.outcomes, Fraction(1))[3] == -np.inf
    assert stopped_runs([lame])[-1].by_loss.median == pytest.approx(1)
    assert stopped_runs([replace(cell, outcomes=(failed,) * 4)]) == []
