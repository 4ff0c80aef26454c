"""The page of a validation: how each score ranks the candidates, what can be ranked at all, and curves beside real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foretune.analysis.rank_statistics import Ceiling
from foretune.candidates.adam import PredictedRun, best_predicted
from foretune.candidates.announced import ANNOUNCED
from foretune.page import Cell, Curve, Figure, Page, Table, mean_and_spread
from foretune.shapes import Float64
from foretune.validation.announced import announced_findings, calibration_table, calls_table
from foretune.validation.data import ValidationData
from foretune.validation.rankings import (
    EXHAUSTIVE,
    LOSS,
    SCORE,
    Measure,
    Ranking,
    interval_cell,
    number_cell,
    places_of,
    tasks_of,
)
from foretune.validation.rates import losses_by_rate_table, rate_table, rules_table
from foretune.validation.rivals import ONE_EPOCH, PRIOR_ELSEWHERE
from foretune.validation.runs import Measured, ValidationStudy
from foretune.validation.stopped import seconds_within, stopped_findings, stopped_runs, stopped_table
from foretune.validation.warm_up import warm_up_findings, warm_up_notes, warm_up_table

RANDOM = "random choice"
MANY_RATES = 3
"""From so many on, losses are shown rate by rate."""
LITTLE = 0.02
"""A gain in nats over the start below which there is nothing to choose between."""


def validation_page(data: ValidationData, study: ValidationStudy) -> Page:
    """The page.

    Args:
        data: what was found.
        study: what was asked for.
    """
    cells, ranked, limits = data.cells, data.rankings, data.ceilings
    stopped = stopped_runs(cells)
    return Page(
        title=f"Does the forecast rank {len(cells[0].names)} candidates of {study.lm.name}?",
        notes=(*_notes(study), *_prior_notes(data), *warm_up_notes(study), *_sketch_notes(cells)),
        tables=(
            _ranking_table(data, LOSS),
            _ranking_table(data, SCORE),
            *([stopped_table(cells, stopped)] if stopped else []),
            _gain_table(cells, limits),
            *([calibration_table(data.calibrations)] if data.calibrations else []),
            *([calls_table(data.calls)] if data.calls else []),
            _curve_table(cells),
            *([rate_table(cells), rules_table(cells)] if len(study.grid) > 1 else []),
            *([losses_by_rate_table(cells)] if len(study.grid) >= MANY_RATES else []),
            *([warm_up_table(cells, ranked[LOSS.name])] if study.warm_up else []),
            _candidate_table(cells),
        ),
        figures=tuple(_figure(next(cell for cell in cells if cell.task == task)) for task in tasks_of(cells)),
        findings=(
            *_findings(data),
            *announced_findings(data.calls, data.calibrations),
            *stopped_findings(ranked[LOSS.name], stopped),
            *warm_up_findings(cells, ranked[LOSS.name]),
        ),
        kind="validate",
        data=data,
    )


def _prior_notes(data: ValidationData) -> tuple[str, ...]:
    """What the prior from other studies is, where there is one."""
    if all(found.score != PRIOR_ELSEWHERE for found in data.rivals[LOSS.name]):
        return ()
    return (
        f"{PRIOR_ELSEWHERE}: layer, kind and size of the candidates of the studies that --prior names, regressed on the "
        "ranks of their real results; what these have of a task is left out where that task is ranked.",
    )


def _sketch_notes(cells: Sequence[Measured]) -> tuple[str, ...]:
    """How the kernels of each task and seed are sketched and how far they are off."""
    return tuple(f"{cell.task}, seed {cell.seed}: {cell.sketched}" for cell in cells if cell.sketched)


def _notes(study: ValidationStudy) -> tuple[str, ...]:
    first = study.grid[0]
    what = "full tuning" if study.rank is None else f"LoRA, rank {study.rank}, alpha 16"
    rates = ", ".join(f"{point.optimiser.learning_rate:g}" for point in study.grid)
    length = f"{first.steps} steps" if first.epochs is None else f"{first.epochs:g} epochs"
    announced = (
        f"What a forecast announces is made with {ANNOUNCED} test examples, as `foretune forecast` does; the real score is "
        "that of all test examples."
    )
    return (
        f"Model {study.lm.name}, {study.output}; {what}, and the head where there is one. Tasks {', '.join(study.tasks)}; "
        f"sample {study.sample.label}; seeds {', '.join(map(str, study.seeds))}, each with training and validation "
        f"examples of its own; at most {study.test} test examples.",
        f"Real runs: AdamW at {rates}, batches of {first.batch_size}, {length}; the checkpoint and the rate with the "
        "lowest validation loss count.",
        "Rank correlation is Spearman's, over the candidates of one task and seed; all scores are oriented so that larger "
        "should be better (a small risk or kappa, a large lambda_max, trace or norm), and a negative one ranks backwards. "
        "Intervals: 95%, candidates drawn again.",
        "Regret: what is lost against the best candidate found, by taking the one that the score puts first; mean over "
        "tasks and seeds.",
        "Noise ceiling: rank correlation of the real results with themselves, seed against seed. A forecast without noise "
        "would reach about its square root; one that reads a seed's own examples may find what is particular to them. Its "
        "regret is that of choosing by another seed's real results.",
        "Rules that look at no data of the task: parameter count, shallow layers first, feed-forward first, all linear; "
        "with several tasks, the mean rank of a candidate on the others, and that rank by layer, kind and size (the "
        "placement prior). Partial: the rank correlation that is left once the best of these rules, known afterwards, is "
        "taken out of score and result.",
        *((announced,) if study.announce else ()),
        f"{ONE_EPOCH}: fine-tune every candidate for one pass over the training examples at every rate, and keep the one "
        "with the lowest validation loss; the seconds are those of all these runs for a task and a seed.",
        f"{EXHAUSTIVE}: fine-tune every candidate and keep the one with the lowest validation loss.",
        "LogME, LEEP and NCE score a model for a task, not the parameters that are trained: they apply where models are "
        "compared. Here they are the same for all candidates, so they have no rank correlation and the regret of a random "
        "choice. LEEP and NCE take the outputs before training for the source classifier, on validation examples.",
    )


def _ranking_table(data: ValidationData, measure: Measure) -> Table:
    cells, limits, rule = data.cells, data.ceilings[measure.name], data.best_rules[measure.name]
    tasks, digits = tasks_of(cells), 3 if measure is LOSS else 1
    rows = [
        (
            _named(found, cells),
            interval_cell(found.median, found.low, found.high),
            interval_cell(found.partial, found.partial_low, found.partial_high),
            *(number_cell(found.by_task[task]) for task in tasks),
            number_cell(found.regret, digits),
        )
        for found in (*data.rankings[measure.name], *data.rivals[measure.name])
    ]
    known = [limit.correlation for limit in limits.values() if not np.isnan(limit.correlation)]
    middle = float(np.median(known)) if known else float("nan")
    lost = measure.scale * float(np.mean([limit.regret for limit in limits.values()]))
    top = (
        "noise ceiling",
        number_cell(middle),
        number_cell(float("nan")),
        *(number_cell(limits[task].correlation) for task in tasks),
        number_cell(lost, digits),
    )
    header = ("score", "median (95%)", "partial (95%)", *tasks, f"regret, {measure.unit}")
    beside = (
        "no rule tells candidates apart" if rule is None else f"given the best rule that looks at no data here, {rule}"
    )
    return Table(header, (*rows, top), f"Rank correlation with the {measure.name}; partial: {beside}")


def _named(found: Ranking, cells: Sequence[Measured]) -> str:
    """A row's name; of one epoch with what it costs."""
    if found.score != ONE_EPOCH:
        return found.score
    return f"{found.score} ({np.mean([seconds_within(cell.outcomes, cell.epoch) for cell in cells]):.0f} s)"


def _gain_table(cells: Sequence[Measured], limits: Mapping[str, Mapping[str, Ceiling]]) -> Table:
    """What fine-tuning adds to the start, task by task."""
    rows = []
    for measure, digits in ((LOSS, 3), (SCORE, 1)):
        for task, limit in limits[measure.name].items():
            start, gains = _gains(cells, task, measure)
            spreads = (measure.scale * limit.candidates, measure.scale * limit.seeds)
            numbers = (start, float(gains.max()), float(np.median(gains)), *spreads)
            found = [number_cell(number, digits) for number in numbers]
            rows.append((f"{task}, {measure.name}", *found, number_cell(limit.correlation)))
    header = ("task", "start", "gain, best", "gain, median", "candidates' spread", "seeds' spread", "noise ceiling")
    caption = (
        "What there is to rank: gain of the best and the median candidate over the start (linear probing, where a head "
        "starts from it), in nats and points; means over seeds, spreads as standard deviations"
    )
    return Table(header, tuple(rows), caption)


def _gains(cells: Sequence[Measured], task: str, measure: Measure) -> tuple[float, Float64[np.ndarray, " k"]]:
    """The start, and every candidate's mean gain over it, in the measure's unit."""
    chosen = [cells[place] for place in places_of(cells, task)]
    starts = [-cell.start_loss if measure is LOSS else cell.start_score for cell in chosen]
    gains = np.mean([measure.of(cell) - start for cell, start in zip(chosen, starts, strict=True)], axis=0)
    start = -np.mean(starts) if measure is LOSS else np.mean(starts)
    return measure.scale * float(start), measure.scale * gains


def _curve_table(cells: Sequence[Measured]) -> Table:
    """Predicted against real validation losses."""
    header = ("task", "start", "lowest, real", "lowest, predicted", "distance of curves")
    caption = (
        "Validation loss of real runs with Adam and of their simulation in function space, nats: medians over candidates "
        "and seeds, the distance as root mean square over the evaluations of the best run"
    )
    rows = [_curve_row(task, [cells[place] for place in places_of(cells, task)]) for task in tasks_of(cells)]
    return Table(header, tuple(rows), caption)


def _curve_row(task: str, cells: Sequence[Measured]) -> tuple[Cell, ...]:
    pairs = [pair for cell in cells for pair in zip(cell.outcomes, cell.predicted, strict=True)]
    done = [(outcome, runs) for outcome, runs in pairs if outcome.failure is None]
    distances = [
        curve_distance(run, outcome.evaluated, outcome.validation_losses)
        for outcome, runs in done
        for run in runs
        if run.learning_rate == outcome.learning_rate
    ]
    numbers = (
        [outcome.start_validation_loss for outcome, _ in done],
        [outcome.validation_loss for outcome, _ in done],
        [best_predicted(runs).lowest for _, runs in done],
        distances,
    )
    return (task, *(number_cell(_middle(values), 3) for values in numbers))


def curve_distance(predicted: PredictedRun, steps: Sequence[int], losses: Sequence[float]) -> float:
    """Root mean square difference of two validation curves after the start, at the steps that both have, nats."""
    known = dict(zip(predicted.steps, predicted.validation_losses, strict=True))
    pairs = [(known[step], loss) for step, loss in zip(steps, losses, strict=True) if step > 0 and step in known]
    return float(np.sqrt(np.mean([(a - b) ** 2 for a, b in pairs]))) if pairs else float("nan")


def _candidate_table(cells: Sequence[Measured]) -> Table:
    tasks = tasks_of(cells)
    rows = []
    for number, name in enumerate(cells[0].names):
        row: list[Cell] = [name]
        for task in tasks:
            chosen = [cells[place].outcomes[number] for place in places_of(cells, task)]
            row.append(mean_and_spread([outcome.test_loss for outcome in chosen], 1.0, 3))
            row.append(mean_and_spread([outcome.test_score for outcome in chosen]))
        rows.append(tuple(row))
    header = ("candidate", *(f"{task}: {what}" for task in tasks for what in ("loss", "score")))
    return Table(header, tuple(rows), "Real results on test examples: mean (standard deviation) over seeds")


def _figure(cell: Measured) -> Figure:
    """The real and predicted validation curves of the candidate with the lowest real validation loss."""
    losses = [np.inf if outcome.failure else outcome.validation_loss for outcome in cell.outcomes]
    best = int(np.argmin(losses))
    outcome = cell.outcomes[best]
    drawn = [
        Curve("real", np.array(outcome.validation_losses, dtype=float), np.array(outcome.evaluated, dtype=float)),
        *(
            Curve(
                f"predicted, rate {run.learning_rate:g}",
                np.array(run.validation_losses, dtype=float),
                np.array(run.steps, dtype=float),
            )
            for run in cell.predicted[best]
            if np.isfinite(run.validation_losses).all()
        ),
    ]
    title = f"{cell.task}, seed {cell.seed}: {cell.names[best]}, real rate {outcome.learning_rate:g}"
    return Figure(f"curves-{cell.task}", title, "step", "validation loss (nats)", tuple(drawn))


def _findings(data: ValidationData) -> tuple[str, ...]:
    cells, ranked, found = data.cells, data.rankings, []
    for measure in (LOSS, SCORE):
        order = sorted((r for r in ranked[measure.name] if not np.isnan(r.median)), key=lambda r: -r.median)
        chance = next(r for r in ranked[measure.name] if r.score == RANDOM).regret
        if order:
            best, unit = order[0], measure.unit
            rule = data.best_rules[measure.name]
            found.append(
                f"By {measure.name}: {best.score} ranks best, median correlation {best.median:.2f}; trusting it costs "
                f"{best.regret:.3g} {unit} against the best candidate found, a random choice {chance:.3g}."
            )
            if rule is not None:
                found.append(_beside_rule(data, measure, best, rule))
        found += [
            _rankable(task, measure, limit) for task, limit in data.ceilings[measure.name].items() if limit.reason
        ]
    for task in tasks_of(cells):
        _, gains = _gains(cells, task, LOSS)
        if gains.max() < LITTLE:
            found.append(
                f"{task}: the best candidate gains {gains.max():.3f} nats over the start. Here fine-tuning adds almost "
                "nothing to linear probing, so the choice of what to train hardly matters."
            )
    if len({cell.seed for cell in cells}) == 1:
        found.append("One seed: there is no noise ceiling, and these differences may be chance.")
    return tuple(found)


def _beside_rule(data: ValidationData, measure: Measure, best: Ranking, rule: str) -> str:
    """What the best score knows beyond the best rule."""
    every = (*data.rankings[measure.name], *data.rivals[measure.name])
    own = next(found for found in every if found.score == rule)
    said = f"Without data, by {measure.name}: {rule} has {own.median:.2f} and costs {own.regret:.3g} {measure.unit}"
    if best.score == rule:
        return f"{said}; no score ranks better."
    left = f"given it, {best.score} has {best.partial:.2f} ({best.partial_low:.2f} to {best.partial_high:.2f}) left"
    return f"{said}; {left}."


def _rankable(task: str, measure: Measure, limit: Ceiling) -> str:
    return f"{task}: no score can rank the candidates by {measure.name}: {limit.reason}."


def _middle(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else float("nan")
