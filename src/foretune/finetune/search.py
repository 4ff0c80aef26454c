"""Grids of settings: each point is a run of its own, and validation chooses the best.

Malladi et al. 2023, Table 3, gives the grids of batch sizes and learning rates for SGD and Adam, with and without LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foretune.errors import NonFiniteError, UsageError
from foretune.finetune.folder import end_of_run, is_finished_run
from foretune.finetune.history import Evaluation, best_of_history
from foretune.finetune.methods import FrozenHead, Linearized, LinearProbing, LoRATuning, Method, ProbedFirst
from foretune.finetune.optimisers import AdamWOptimiser, Optimiser, SGDOptimiser, SignGDOptimiser
from foretune.finetune.run import Run, fine_tuned
from foretune.finetune.training import Training
from foretune.model.outputs import Outputs
from foretune.progress import Progress
from foretune.text.task import Split, Task


@dataclass(frozen=True)
class Grid:
    """Batch sizes and learning rates, all with all."""

    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]


TABLE_3: Mapping[tuple[str, str], Grid] = {
    ("sgd", "ft"): Grid((2, 4, 8), (1e-4, 5e-4, 1e-3, 5e-3, 1e-2)),
    ("sgd", "lora"): Grid((4, 16), (1e-4, 1e-3, 1e-2)),
    ("adamw", "ft"): Grid((2, 4, 8), (1e-5, 2e-5, 5e-5)),
    ("adamw", "lora"): Grid((4, 16), (1e-5, 4e-5, 4e-4)),
}
"""Malladi et al. 2023, Table 3, by optimiser and kind of method."""

PROBING: Mapping[str, Grid] = {
    "sgd": Grid((4, 16), (1e-2, 1e-1, 1.0)),
    "adamw": Grid((4, 16), (1e-4, 1e-3, 1e-2)),
}
"""For a head alone, which the table does not have."""


def paper_grid(method: Method, optimiser: Optimiser, base: Training | None = None) -> list[Training]:
    """The points of Table 3 for a method.

    Adapters have the rows of LoRA, everything else those of FT, a head alone `PROBING`; sign descent has Adam's rows.

    Args:
        method: what is trained.
        optimiser: its kind and its other settings.
        base: all other settings.

    Raises:
        UsageError: the table has no such optimiser.
    """
    inner = _inner(method)
    name = AdamWOptimiser.name if isinstance(optimiser, SignGDOptimiser) else optimiser.name
    if name not in (SGDOptimiser.name, AdamWOptimiser.name):
        raise UsageError(f"Table 3 has no grid for {optimiser!r}. Give a list of Training settings to best_of.")
    if isinstance(inner, LinearProbing):
        grid = PROBING[name]
    else:
        grid = TABLE_3[name, "lora" if isinstance(inner, LoRATuning) else "ft"]
    return [
        replace(base or Training(), batch_size=size, optimiser=replace(optimiser, learning_rate=rate))
        for size in grid.batch_sizes
        for rate in grid.learning_rates
    ]


def _inner(method: Method) -> Method:
    """The method that says which parameters move last."""
    if isinstance(method, ProbedFirst):
        return _inner(method.then)
    return _inner(method.of) if isinstance(method, Linearized | FrozenHead) else method


@dataclass(frozen=True)
class Point:
    """One point of a grid: settings, its best validation score and loss, or why it has none, and its evaluations."""

    training: Training
    validation_score: float | None
    validation_loss: float | None
    failure: str | None = None
    history: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class GridResult:
    """The best run of a grid, and all its points."""

    best: Run
    points: tuple[Point, ...]


def best_of(
    outputs: Outputs,
    task: Task,
    split: Split,
    method: Method,
    grid: Sequence[Training],
    out: str | Path | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Any] = (),
) -> GridResult:
    """Fine-tune at every point of a grid; the best is chosen as checkpoints are (`Training.best_by`).

    Args:
        outputs, task, split, method, progress, callbacks: as in `fine_tuned`.
        grid: settings, `paper_grid(method, SGDOptimiser())` for example.
        out: each run goes to a folder of its own inside.

    Raises:
        NonFiniteError: the loss became infinite or undefined at every point.
        UsageError: an empty grid; otherwise as in `fine_tuned`.
    """
    best: Run | None = None
    points: list[Point] = []
    for number, training in enumerate(grid):
        if progress is not None and len(grid) > 1:
            progress("grid points", number, len(grid))
        folder = None if out is None else _point(Path(out), number)
        try:
            run = fine_tuned(outputs, task, split, method, training, folder, progress, callbacks)
        except NonFiniteError as error:
            points.append(Point(training, None, None, str(error)))
            continue
        points.append(Point(training, run.best.validation_score, run.best.validation_loss, history=run.history))
        if best is None or _better(run, best):
            best = run
    if not points:
        raise UsageError("The grid has no points; expected at least one Training.")
    if best is None:
        raise NonFiniteError(f"All {len(points)} points of the grid failed. The last one: {points[-1].failure}")
    return GridResult(best, tuple(points))


def _better(run: Run, than: Run) -> bool:
    return best_of_history([than.best, run.best], run.training.best_by) is run.best


def trained_point(
    outputs: Outputs, task: Task, split: Split, method: Method, training: Training, out: Path, number: int
) -> Path:
    """Train one point of a grid in its folder; a run that fails is a result, too.

    Args:
        outputs, task, split, method, training: as in `fine_tuned`.
        out: the folder of the grid.
        number: of the point.

    Returns:
        The file that says how it ended.
    """
    folder = _point(out, number)
    with suppress(NonFiniteError):
        fine_tuned(outputs, task, split, method, training, folder)
    return end_of_run(folder) or folder


def unfinished_points(out: Path, count: int) -> list[int]:
    """The numbers of the points of a grid that neither came to their end nor failed."""
    return [number for number in range(count) if not is_finished_run(_point(out, number))]


def finished_points(out: Path, count: int) -> int:
    """How many of the first points of a grid have a finished run in its folder."""
    return count - len(unfinished_points(out, count))


def _point(out: Path, number: int) -> Path:
    """The folder of one point."""
    return out / f"point-{number}"
