"""What fine-tuning reached: as a record that JSON holds, and on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from foretune.analysis.scores import Score
from foretune.finetune.history import Choice, Evaluation, best_of_history
from foretune.finetune.run import Run
from foretune.finetune.search import GridResult
from foretune.pages.layout import Column, note, strong, table
from foretune.store.atomic import moving
from foretune.store.json import plain
from foretune.store.kept import DamagedError, read_kept, write_kept

RESULT = "result.json"
_SHOWN = 10


@dataclass(frozen=True)
class StageReport:
    """One stage of training.

    Attributes:
        history: an evaluation at the start and at every interval.
        trained: number of trained parameters.
        seconds: of training.
        method: its name.
        optimiser: its name.
        learning_rate, batch_size: None for a batch of all examples.
        best_by: what made a checkpoint the best.
    """

    history: tuple[Evaluation, ...]
    trained: int
    seconds: float
    method: str
    optimiser: str
    learning_rate: float
    batch_size: int | None
    best_by: Choice = "score"

    @property
    def best(self) -> Evaluation:
        """The evaluation whose checkpoint was kept."""
        return best_of_history(self.history, self.best_by)


@dataclass(frozen=True)
class RunReport:
    """A finished run.

    Attributes:
        about: task, model, metric, settings and sizes.
        stages: linear probing first where the method begins with it.
        zero_shot: test score before training; None without test examples.
        test: test score of the chosen checkpoint.
        test_logits: behind it.
        points: of a grid: settings, validation score and loss, or why there is none.
        chosen_point: number of the best of them; None without a grid.
    """

    about: Mapping[str, Any]
    stages: tuple[StageReport, ...]
    zero_shot: Score | None
    test: Score | None
    test_logits: Sequence[Sequence[float]]
    points: tuple[Mapping[str, Any], ...] = ()
    chosen_point: int | None = None


def run_report(run: Run, search: GridResult | None, zero_shot: Score | None, about: Mapping[str, Any]) -> RunReport:
    """The report of a run, or of the best run of a grid."""
    stages = [run] if run.probing is None else [run.probing, run]
    return RunReport(
        about=about,
        stages=tuple(_stage(stage, run) for stage in stages),
        zero_shot=zero_shot,
        test=run.test_score,
        test_logits=run.test_logits.tolist(),
        points=() if search is None else tuple(_point(point) for point in search.points),
        chosen_point=None if search is None else [p.training for p in search.points].index(run.training),
    )


def _stage(stage: Run, whole: Run) -> StageReport:
    return StageReport(
        history=stage.history,
        trained=sum(tensor.numel() for tensor in stage.parameters_after.values()),
        seconds=stage.seconds,
        method=stage.method.label if stage is not whole else whole.method.label.removeprefix("lp-"),
        optimiser=stage.training.optimiser.name,
        learning_rate=stage.training.optimiser.learning_rate,
        batch_size=stage.training.batch_size,
        best_by=stage.training.best_by,
    )


def _point(point: Any) -> dict[str, Any]:
    return {
        "batch_size": point.training.batch_size,
        "learning_rate": point.training.optimiser.learning_rate,
        "validation_score": point.validation_score,
        "validation_loss": point.validation_loss,
        "failure": point.failure,
    }


def read_report(folder: Path) -> RunReport | None:
    """The report that a finished run left in its folder; None where there is none yet.

    Raises:
        StorageError: the file is damaged.
    """
    file = folder / RESULT
    if not file.exists():
        return None
    remedy = (
        f"Move this file and repeat the command that made it, which reads the run in {folder / 'run'}: {moving(file)}"
    )
    try:
        values = read_kept(file)
    except DamagedError as error:
        raise error.with_remedy(remedy) from error
    stages = [
        StageReport(**{**stage, "history": tuple(Evaluation(**line) for line in stage["history"])})
        for stage in values.pop("stages")
    ]
    scores = {name: None if (found := values.pop(name)) is None else Score(**found) for name in _SCORES}
    return RunReport(**{**values, **scores, "points": tuple(values["points"])}, stages=tuple(stages))


def write_report(folder: Path, report: RunReport) -> None:
    """Write the report of a finished run into its folder.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    values: Any = plain(report)
    write_kept(folder / RESULT, values)


_SCORES = ("zero_shot", "test")


def report_file(folder: Path) -> Path:
    """Where a finished run's report stands."""
    return folder / RESULT


def print_run(console: Console, report: RunReport, folder: Path) -> None:
    """Print the scores, the chosen checkpoint, the curve and the cost."""
    about, last = report.about, report.stages[-1]
    metric, sizes = about["metric"], about["sizes"]
    answer = (
        f"{about['method']} of {about['model']} on {about['task']}: test {metric} {_shown(report.test)}, before training "
        f"{_shown(report.zero_shot)}"
    )
    counts = f"{sizes['train']} training, {sizes['validation']} validation, {sizes['test']} test examples"
    console.print()
    console.print(Text.assemble(strong(answer), f" ({counts})\n"))
    for text in about["notes"]:
        console.print(note(text))
    if report.points:
        console.print(_grid(console, report, metric))
    for stage in report.stages:
        console.print(_headline(stage))
        console.print(_curve(console, stage, metric))
    moved = last.best
    limit = "" if moved.bound is None else f", bound {moved.bound:.4g}"
    console.print(f"Distance to the start of this stage, ||theta - theta0||: {moved.distance:.4g}{limit}")
    console.print(f"Next: foretune behaviour {shlex.quote(str(folder))}", soft_wrap=True)


def _shown(score: Score | None) -> str:
    if score is None:
        return "unknown (no test examples)"
    beside = "" if score.accuracy is None else f", accuracy {score.accuracy:.3f}"
    return f"{score.value:.3f} ({score.low:.2f} - {score.high:.2f}{beside})"


def _headline(stage: StageReport) -> str:
    batch = "all examples" if stage.batch_size is None else f"batches of {stage.batch_size}"
    return (
        f"{stage.method}: {stage.trained:,} parameters, {stage.optimiser} at {stage.learning_rate:g}, {batch}, "
        f"{stage.history[-1].step} steps in {stage.seconds:.1f} s; checkpoint of step {stage.best.step}"
    )


def _curve(console: Console, stage: StageReport, metric: str) -> RenderableType:
    """The evaluations, the chosen one marked; of many, some at even distances."""
    best, history = stage.best, stage.history
    columns = [
        Column("step"),
        Column("train loss", drop=2),
        Column("valid. loss"),
        Column(f"valid. {metric}"),
        Column("distance", drop=1),
        *([Column("bound", drop=3)] if best.bound is not None else []),
        Column(""),
    ]
    rows = [
        (
            str(line.step),
            "" if line.train_loss is None else f"{line.train_loss:.4f}",
            f"{line.validation_loss:.4f}",
            f"{line.validation_score:.3f}",
            f"{line.distance:.4g}",
            *([f"{line.bound:.4g}"] if line.bound is not None else []),
            "chosen" if line is best else "",
        )
        for line in _some(history, best)
    ]
    return table(console, "", columns, rows, elsewhere="--json has all")


def _some(history: Sequence[Evaluation], best: Evaluation) -> list[Evaluation]:
    """At most about ten evaluations: the first, the last, the best, and some at even distances."""
    stride = max(1, -(-(len(history) - 1) // _SHOWN))
    return [line for place, line in enumerate(history) if place % stride == 0 or line in (best, history[-1])]


def _grid(console: Console, report: RunReport, metric: str) -> RenderableType:
    columns = [Column("batch"), Column("learning rate"), Column(f"valid. {metric}"), Column("valid. loss"), Column("")]
    rows = []
    for number, point in enumerate(report.points):
        failed = point["failure"] is not None
        rows.append(
            (
                str(point["batch_size"]),
                f"{point['learning_rate']:g}",
                "diverged" if failed else f"{point['validation_score']:.3f}",
                "" if failed else f"{point['validation_loss']:.4f}",
                "chosen" if number == report.chosen_point else "",
            )
        )
    return table(console, f"Grid of {len(report.points)} runs; validation chooses", columns, rows)
