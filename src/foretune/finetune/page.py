"""Pages of a fine-tuning run: what it would cost; what it reached, how, and its curves."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretune.analysis.scores import Score
from foretune.finetune.cost import TrainingCost
from foretune.finetune.history import Evaluation
from foretune.finetune.report import RunReport, StageReport
from foretune.page import Cell, Column, Curve, Fact, Figure, Page, Quantity, Table

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class TrainingCostData(TrainingCost):
    """A plan for programs.

    Attributes:
        finished: number of runs that are finished in the folder.
        folder: folder of the runs; None where none was named.
        about: what was read and what would be asked.
    """

    finished: int
    folder: str | None
    about: Mapping[str, Any]


def training_cost_page(found: TrainingCostData, about: tuple[Fact, ...]) -> Page:
    """What runs would need.

    Args:
        found: the plan.
        about: what was read and would be asked.
    """
    rows: tuple[tuple[Cell, ...], ...] = (
        ("runs to train", Quantity(found.runs, ",d")),
        ("runs to read, finished in the folder", Quantity(found.finished, ",d")),
        ("training steps, of all runs", Quantity(found.steps, ",d")),
        ("evaluations, of all runs", Quantity(found.evaluations, ",d")),
        ("parameters trained", Quantity(found.trained, ",d")),
        ("time", f"about {found.seconds:,.0f} s"),
        ("folder", found.folder or "not named: --out DIR"),
    )
    caption = "The model was loaded and one batch was timed; nothing was trained or written"
    return Page(
        title="Plan",
        answer=f"About {found.seconds:,.0f} s for {found.steps:,} steps of {found.runs:,} run(s).",
        about=about,
        tables=(Table((Column("what", words=True), Column("how much", words=False)), rows, caption),),
        kind="tune-plan",
        data=found,
    )


def run_page(report: RunReport, folder: Path, about: tuple[Fact, ...] = (), *, kept: bool = False) -> Page:
    """The scores, the chosen checkpoint, the curves and the cost.

    Args:
        report: of the finished run.
        folder: where the run is.
        about: what was read and asked.
        kept: whether the run was finished already, so that nothing was trained now.
    """
    of, last = report.about, report.stages[-1]
    metric, sizes, predicted = of["metric"], of["sizes"], of.get("forecast")
    counts = f"{sizes['train']} training, {sizes['validation']} validation, {sizes['test']} test examples"
    tables = [_grid(report, metric)] if report.points else []
    facts = (
        Fact("Did it help?", _helped(report, metric)),
        *(Fact("Trained", _headline(stage)) for stage in report.stages),
        Fact("Checkpoint", _checkpoint(report, last, metric)),
        *([Fact("Forecast", _beside_forecast(last, predicted))] if predicted is not None else []),
        Fact("Cost", _cost(report), 1),
    )
    return Page(
        title=f"{of['method']} of {of['model']} on {of['task']} ({counts})",
        answer=f"{of['method']}: test {metric} {_shown(report.test)}, before training {_shown(report.zero_shot)}",
        about=about,
        facts=facts,
        notes=(
            *([f"{folder} already contains this run: nothing was trained again."] if kept else []),
            *of["notes"],
        ),
        tables=(*tables, *(_curve(stage, metric) for stage in report.stages)),
        figures=tuple(
            _figure(stage, number, predicted if stage is last else None)
            for number, stage in enumerate(report.stages, 1)
        ),
        next=(f"foretune behaviour {shlex.quote(str(folder))}",),
        kind="tune",
        data=report,
    )


def _helped(report: RunReport, metric: str) -> str:
    before, after = report.zero_shot, report.test
    if before is None or after is None:
        return "Unknown: there are no test examples."
    gain, shown = report.gain, f"Test {metric} {before.value:.3f} before -> {_shown(after)}"
    word = "Yes." if gain is not None and gain.low > 0 else "Perhaps." if after.value > before.value else "No."
    interval = "" if gain is None else f", gain {gain.value:+.3f} (95%: {gain.low:+.3f} to {gain.high:+.3f})"
    return f"{word} {shown}{interval}"


def _shown(score: Score | None) -> str:
    if score is None:
        return "unknown (no test examples)"
    beside = "" if score.accuracy is None else f", accuracy {score.accuracy:.3f}"
    return f"{score.value:.3f} ({score.low:.2f} - {score.high:.2f}{beside})"


def _headline(stage: StageReport) -> str:
    batch = "all examples" if stage.batch_size is None else f"batches of {stage.batch_size}"
    return (
        f"{stage.method}: {stage.trained:,} parameters, {stage.optimiser} at {stage.learning_rate:g}, {batch}, "
        f"{stage.history[-1].step} steps"
    )


def _checkpoint(report: RunReport, stage: StageReport, metric: str) -> str:
    best = stage.best
    limit = "" if best.bound is None else f", bound {best.bound:.4g}"
    grid = f"of {len(report.points)} runs; " if report.points else ""
    return (
        f"{grid}step {best.step} by validation {stage.best_by}: {metric} {best.validation_score:.3f}, loss "
        f"{best.validation_loss:.4f}; distance to the start of the stage, ||theta - theta0||: {best.distance:.4g}{limit}"
    )


def _cost(report: RunReport) -> str:
    return ", ".join(f"{stage.method} {stage.seconds:.1f} s" for stage in report.stages)


def _curve(stage: StageReport, metric: str) -> Table:
    """The evaluations, the chosen one marked; a short view shows some at even distances."""
    best, history = stage.best, stage.history
    bounded = best.bound is not None
    columns = (
        Column("step", "d", words=False),
        Column("train loss", ".4f", drop=2),
        Column("valid. loss", ".4f"),
        Column(f"valid. {metric}", ".3f"),
        Column("distance", ".4g", drop=1),
        *([Column("bound", ".4g", drop=3)] if bounded else []),
        Column("", words=True),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            line.step,
            line.train_loss,
            line.validation_loss,
            line.validation_score,
            line.distance,
            *([line.bound] if bounded else []),
            "chosen" if line is best else "",
        )
        for line in history
    ]
    return Table(columns, tuple(rows), f"Evaluations of {stage.method}", few=_some(history, best), details=True)


def _some(history: Sequence[Evaluation], best: Evaluation) -> tuple[int, ...]:
    """Places of at most about ten evaluations: the first, the last, the best, and some at even distances."""
    stride = max(1, -(-(len(history) - 1) // _SHOWN))
    return tuple(place for place, line in enumerate(history) if place % stride == 0 or line in (best, history[-1]))


def _beside_forecast(stage: StageReport, predicted: Mapping[str, Any]) -> str:
    """Whether a run kept to the forecast that it is from, and where it was at its end."""
    last, step = stage.history[-1], predicted["left_kernel_regime_at"]
    expected = float(np.interp(last.step, predicted["steps"], predicted["validation_losses"]))
    found = f"validation loss {last.validation_loss:.4f} at step {last.step}, forecast {expected:.4f}"
    if step is None:
        return f"The run kept to the forecast: {found}."
    return f"The run left the kernel regime at step {step}: {found}."


def _figure(stage: StageReport, number: int, predicted: Mapping[str, Any] | None) -> Figure:
    steps = np.array([line.step for line in stage.history], dtype=float)
    validation = np.array([line.validation_loss for line in stage.history], dtype=float)
    seen = [line for line in stage.history if line.train_loss is not None]
    train = Curve(
        "training",
        np.array([line.train_loss for line in seen], dtype=float),
        np.array([line.step for line in seen], dtype=float),
    )
    forecast = () if predicted is None else (_curve_of(predicted),)
    curves = (Curve("validation", validation, steps), *forecast, *([train] if seen else []))
    return Figure(f"curve-{number}", f"Loss of {stage.method}", "step", "loss (nats)", curves)


def _curve_of(predicted: Mapping[str, Any]) -> Curve:
    return Curve("validation, forecast", *(np.array(predicted[name], float) for name in ("validation_losses", "steps")))


def _grid(report: RunReport, metric: str) -> Table:
    columns = (
        Column("batch", words=False),
        Column("learning rate", "g"),
        Column(f"valid. {metric}", ".3f", words=False),
        Column("valid. loss", ".4f"),
        Column("", words=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for number, point in enumerate(report.points):
        failed = point["failure"] is not None
        chosen = "chosen" if number == report.chosen_point else ""
        batch = str(point["batch_size"])
        score = "diverged" if failed else point["validation_score"]
        rows.append((batch, point["learning_rate"], score, None if failed else point["validation_loss"], chosen))
    return Table(columns, tuple(rows), f"Grid of {len(report.points)} runs; validation chooses", details=True)
