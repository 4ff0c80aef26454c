"""The learning rate that a simulated run of Adam calls best, against real runs at every rate of the grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretune.candidates.adam import PredictedRun, best_predicted
from foretune.experiment.outcome import Outcome
from foretune.page import Cell, Quantity, Table
from foretune.validation.rankings import number_cell, places_of, tasks_of
from foretune.validation.runs import Measured

NEAR = 3.5
"""A predicted rate within this factor of the best one is near it: a step of a grid of half decades."""


def rate_table(cells: Sequence[Measured]) -> Table:
    """How good the predicted rates are, task by task.

    Args:
        cells: of all seeds and tasks, runs with at least two rates.
    """
    rows = []
    for task in tasks_of(cells):
        chosen = [cells[place] for place in places_of(cells, task)]
        guesses = [
            (outcome, best_predicted(runs, reach).learning_rate)
            for cell in chosen
            for outcome, runs, reach in zip(cell.outcomes, cell.predicted, cell.reach, strict=True)
            if outcome.failure is None
        ]
        rows.append((task, *_row(guesses, [run.learning_rate for run in chosen[0].predicted[0]])))
    header = (
        "task",
        "exactly",
        f"within a factor of {NEAR:g}",
        "nats lost",
        "the commonest: exactly",
        "nats lost",
        "worst rate: nats lost",
    )
    caption = (
        "AdamW's best learning rate, as simulation predicts it within reach of the weights, against the rate that is best "
        "most often for the task (known afterwards). For both: how often the rate has the lowest real validation loss, and "
        "how much higher its loss is than at the best rate. A run that failed counts as the start. Means over candidates "
        "and seeds"
    )
    return Table(header, tuple(rows), caption)


def rules_table(cells: Sequence[Measured]) -> Table:
    """What learning rates cost that people use without looking at data, beside the simulated one.

    Args:
        cells: of all seeds and tasks, runs with at least two rates.
    """
    tasks = tasks_of(cells)
    rows = []
    for name, rates in _named_rates(cells).items():
        told = [rate for values in rates for rate in values]
        at = [[lost(*pair) for pair in _finished(cell, values)] for cell, values in zip(cells, rates, strict=True)]
        rows.append((name, _span(told), *_means(cells, at), _middle([loss for losses in at for loss in losses])))
    if all(cell.prodigy for cell in cells):
        at = [_lost_by_prodigy(cell) for cell in cells]
        rows.append(("Prodigy", "its own", *_means(cells, at), _middle([loss for losses in at for loss in losses])))
    caption = (
        "Learning rates by rule: how much higher the lowest real validation loss is than at the best rate of the grid, "
        "nats; means over candidates and seeds. A rate counts as the nearest of the grid, the commonest best one is known "
        "afterwards, and Prodigy is one more run of each candidate, which may be better than the grid"
    )
    return Table(("rule", "rates", *tasks, "all"), tuple(rows), caption)


def _named_rates(cells: Sequence[Measured]) -> dict[str, Sequence[Sequence[float]]]:
    """Rule -> for each cell the rate of every candidate."""
    bests = [best for cell in cells for best in _best_rates(cell)]
    usual = max(dict.fromkeys(bests), key=bests.count) if bests else float("nan")
    simulated = [
        [best_predicted(runs, reach).learning_rate for runs, reach in zip(cell.predicted, cell.reach, strict=True)]
        for cell in cells
    ]
    return {
        "simulated AdamW": simulated,
        **{name: [cell.rule_rates[name] for cell in cells] for name in cells[0].rule_rates},
        "the commonest best": [[usual] * len(cell.names) for cell in cells],
    }


def _best_rates(cell: Measured) -> list[float]:
    return [outcome.learning_rate for outcome in cell.outcomes if outcome.failure is None]


def _finished(cell: Measured, rates: Sequence[float]) -> list[tuple[Outcome, float]]:
    """Outcomes that did not fail, each with the point of the grid that is nearest to its rate."""
    grid = np.array([run.learning_rate for run in cell.predicted[0]])
    nearest = [float(grid[np.abs(np.log(grid / rate)).argmin()]) for rate in rates]
    return [pair for pair in zip(cell.outcomes, nearest, strict=True) if pair[0].failure is None]


def _lost_by_prodigy(cell: Measured) -> list[float]:
    """What its run is behind the best of the grid, candidate by candidate; a run that failed leaves the start."""
    return [
        (outcome.start_validation_loss if run.failure else run.validation_loss) - min(_lowest(outcome).values())
        for outcome, run in zip(cell.outcomes, cell.prodigy, strict=True)
        if outcome.failure is None
    ]


def _means(cells: Sequence[Measured], values: Sequence[Sequence[float]]) -> list[Quantity]:
    """Task by task."""
    return [_middle([value for place in places_of(cells, task) for value in values[place]]) for task in tasks_of(cells)]


def _middle(values: Sequence[float]) -> Quantity:
    return number_cell(float(np.mean(values)) if values else float("nan"), 3)


def _span(rates: Sequence[float]) -> str:
    """The rates that a rule names, in words."""
    low, high = (f"{rate:.2g}" for rate in (min(rates), max(rates)))
    return low if low == high else f"{low} to {high}"


def losses_by_rate_table(cells: Sequence[Measured]) -> Table:
    """The lowest validation loss of every candidate at every rate, real and predicted.

    Args:
        cells: of all seeds and tasks, the same rates in each.
    """
    rates = [run.learning_rate for run in cells[0].predicted[0]]
    rows = []
    for task in tasks_of(cells):
        chosen = [cells[place] for place in places_of(cells, task)]
        for number, name in enumerate(cells[0].names):
            pairs = [(cell.outcomes[number], cell.predicted[number]) for cell in chosen]
            starts = [outcome.start_validation_loss for outcome, _ in pairs]
            columns = [cell for place in range(len(rates)) for cell in _real_and_predicted(pairs, place)]
            rows.append((task, name, number_cell(float(np.mean(starts)), 3), *columns))
    header = ("task", "candidate", "start", *(f"{rate:g}{of}" for rate in rates for of in ("", ", predicted")))
    caption = (
        "Lowest validation loss by AdamW's learning rate, nats: real, and predicted by simulation; means over seeds; a "
        "dash where every run failed"
    )
    return Table(header, tuple(rows), caption)


def _real_and_predicted(pairs: Sequence[tuple[Outcome, Sequence[PredictedRun]]], place: int) -> tuple[Cell, Cell]:
    rate = pairs[0][1][place].learning_rate
    real = [found[rate] for outcome, _ in pairs if rate in (found := _lowest(outcome))]
    guess = float(np.mean([runs[place].lowest for _, runs in pairs]))
    return number_cell(float(np.mean(real)) if real else float("nan"), 3), number_cell(guess, 3)


def lost(outcome: Outcome, rate: float) -> float:
    """How much higher the lowest validation loss is at a rate than at the best one, nats.

    Args:
        outcome: of a grid of which at least one run did not fail.
        rate: of the grid; a run that failed leaves the start.
    """
    lowest = _lowest(outcome)
    return lowest.get(rate, outcome.start_validation_loss) - min(lowest.values())


def _row(guesses: Sequence[tuple[Outcome, float]], grid: Sequence[float]) -> tuple[Cell, ...]:
    if not guesses:
        return ("-",) * 6
    best = [outcome.learning_rate for outcome, _ in guesses]
    usual = max(dict.fromkeys(best), key=best.count)
    ratios = [max(outcome.learning_rate / guess, guess / outcome.learning_rate) for outcome, guess in guesses]
    of_all = f"of {len(guesses)}"
    worst = [max(lost(outcome, rate) for rate in grid) for outcome, _ in guesses]
    return (
        Quantity(ratios.count(1.0), "d", of_all),
        Quantity(sum(ratio <= NEAR for ratio in ratios), "d", of_all),
        number_cell(float(np.mean([lost(outcome, guess) for outcome, guess in guesses])), 3),
        Quantity(usual, "g", f"({best.count(usual)} {of_all})"),
        number_cell(float(np.mean([lost(outcome, usual) for outcome, _ in guesses])), 3),
        number_cell(float(np.mean(worst)), 3),
    )


def _lowest(outcome: Outcome) -> dict[float, float]:
    """Learning rate -> lowest validation loss after the start."""
    return {point.learning_rate: point.lowest for point in outcome.points}
