"""Predicted learning rates against real runs at every rate of a grid."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from foretune.candidates.adam import PredictedRun
from foretune.experiment.outcome import Outcome, PointCurve
from foretune.validation.rates import losses_by_rate_table, lost, rate_table
from foretune.validation.runs import Measured


def outcome(lowest: Mapping[float, float]) -> Outcome:
    """Runs at these rates, each with its lowest validation loss after a start of one nat."""
    best = min(lowest, key=lambda rate: lowest[rate])
    points = tuple(
        PointCurve(rate, 4, (0, 2, 4), (1.0, loss + 0.1, loss), (0.0, 1.0, 2.0)) for rate, loss in lowest.items()
    )
    return Outcome(learning_rate=best, validation_loss=lowest[best], start_validation_loss=1.0, points=points)


def predicted(best: float, rates: tuple[float, ...]) -> tuple[PredictedRun, ...]:
    return tuple(PredictedRun(rate, (0, 2), (1.0, 0.1 if rate == best else 0.5)) for rate in rates)


RATES = (1e-4, 3e-4, 1e-3, 3e-3)


def cell(outcomes: list[Outcome], guesses: list[float], reach: float = 1.0) -> Measured:
    runs = tuple(predicted(guess, RATES) for guess in guesses)
    return Measured(
        "mr", 13, "accuracy", 1.0, 0.5, tuple("abcd")[: len(runs)], tuple(outcomes), {}, runs, (reach,) * len(runs)
    )


def test_a_rate_loses_what_its_best_checkpoint_is_behind_and_a_failed_run_the_whole_gain() -> None:
    found = outcome({1e-4: 0.8, 3e-4: 0.6, 1e-3: 0.7})  # 3e-3 failed
    assert lost(found, 3e-4) == 0
    assert lost(found, 1e-3) == pytest.approx(0.1)
    assert lost(found, 3e-3) == pytest.approx(0.4)


def test_the_table_counts_exact_and_near_rates_and_what_the_commonest_would_lose() -> None:
    outcomes = [
        outcome({1e-4: 0.8, 3e-4: 0.6, 1e-3: 0.7, 3e-3: 0.9}),
        outcome({1e-4: 0.8, 3e-4: 0.5, 1e-3: 0.7}),
        outcome({1e-4: 0.8, 3e-4: 0.6, 1e-3: 0.4, 3e-3: 0.9}),
        Outcome(failure="the loss became infinite"),
    ]
    (row,) = rate_table([cell(outcomes, [3e-4, 3e-3, 3e-4, 1e-4])]).texts
    assert row == ("mr", "1 of 3", "2 of 3", f"{(0 + 0.5 + 0.2) / 3:.3f}", "0.0003 (2 of 3)", f"{0.2 / 3:.3f}",
                   f"{(0.3 + 0.5 + 0.5) / 3:.3f}")  # fmt: skip
    table = losses_by_rate_table([cell(outcomes, [3e-4, 3e-3, 3e-4, 1e-4])])
    rates = ("0.0001", "0.0003", "0.001", "0.003")
    assert table.header[2:] == ("start", *(f"{rate}{of}" for rate in rates for of in ("", ", predicted")))
    assert table.texts[1] == ("mr", "b", "1.000", "0.800", "0.500", "0.500", "0.500", "0.700", "0.500", "-", "0.100")
    (row,) = rate_table([cell(outcomes, [3e-4, 3e-3, 3e-4, 1e-4], reach=4e-4)]).texts
    assert row[1:3] == ("1 of 3", "3 of 3")  # the second guess is the first of the equals within reach
    (row,) = rate_table([cell(outcomes[3:], [1e-4])]).texts
    assert row == ("mr", *["-"] * 6)
