"""What fine-tuning reached, as a record that a folder and JSON hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretune.analysis.scores import Gain, Score
from foretune.finetune.history import Choice, Evaluation, best_of_history
from foretune.finetune.run import Run
from foretune.finetune.search import GridResult
from foretune.store.atomic import move_command
from foretune.store.json import plain
from foretune.store.kept import DamagedError, read_kept, write_kept

RESULT = "result.json"


@dataclass(frozen=True)
class StageReport:
    """One stage of training.

    Attributes:
        history: an evaluation at the start and at every interval.
        trained: number of trained parameters.
        seconds: seconds of training.
        method: name of the method.
        optimiser: name of the optimiser.
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
        about: task, model, metric, settings and sizes; of a run from a forecast, the curve that was predicted (`forecast`).
        stages: linear probing first where the method begins with it.
        zero_shot: test score before training; None without test examples.
        test: test score of the chosen checkpoint.
        test_logits: logits of the test examples behind that score.
        points: points of a grid: settings, validation score and loss, or why there is none.
        chosen_point: number of the best of them; None without a grid.
        gain: of the test examples, row by row; None without any, and in a report that an earlier version wrote.
    """

    about: Mapping[str, Any]
    stages: tuple[StageReport, ...]
    zero_shot: Score | None
    test: Score | None
    test_logits: Sequence[Sequence[float]]
    points: tuple[Mapping[str, Any], ...] = ()
    chosen_point: int | None = None
    gain: Gain | None = None


def run_report(
    run: Run, search: GridResult | None, before: tuple[Score, Gain] | None, about: Mapping[str, Any]
) -> RunReport:
    """The report of a run, or of the best run of a grid.

    Args:
        run: the run, or the best one.
        search: the grid, if there is one.
        before: test score before training, and the gain over it; None without test examples.
        about: task, model, metric, settings and sizes.
    """
    stages = [run] if run.probing is None else [run.probing, run]
    return RunReport(
        about=about,
        stages=tuple(_stage(stage, run) for stage in stages),
        zero_shot=None if before is None else before[0],
        test=run.test_score,
        test_logits=run.test_logits.tolist(),
        points=() if search is None else tuple(_point(point) for point in search.points),
        chosen_point=None if search is None else [p.training for p in search.points].index(run.training),
        gain=None if before is None else before[1],
    )


def _stage(stage: Run, whole: Run) -> StageReport:
    return StageReport(
        history=stage.history,
        trained=stage.n_trained,
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
        f"Move this file and repeat the command that made it, which reads the run in {folder / 'run'}: "
        f"{move_command(file)}"
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
    gain = values.pop("gain", None)
    return RunReport(
        **{**values, **scores, "points": tuple(values["points"])},
        stages=tuple(stages),
        gain=None if gain is None else Gain(**gain),
    )


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
