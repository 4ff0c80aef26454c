"""The work items of experiments: the experiment itself as a worker opens it, and the runs of grids.

crew (foretune.work) -> worker: model, loaded once -> experiment, the last two kept -> a run, in the experiment's folder
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.folder import Place
from foretune.experiment.setting import Setting
from foretune.finetune.methods import Method
from foretune.finetune.training import Training
from foretune.kernels.job import Job, joint_job
from foretune.model.load import LanguageModel
from foretune.progress import Progress
from foretune.work.crew import Crew
from foretune.work.item import Bench


@dataclass(frozen=True)
class ModelInHand:
    """A model that is loaded already, for the crew that is this process."""

    lm: LanguageModel

    def opened(self) -> LanguageModel:
        """The model."""
        return self.lm


@dataclass(frozen=True)
class AskedCell:
    """An experiment as a worker opens it.

    Attributes:
        setting: what is asked for.
        place: its folder, which all workers share.
        memory: budget of kernels, of each worker.
        warm_up: steps that the model is trained before.
    """

    setting: Setting
    place: Place
    memory: str
    warm_up: int = 0

    @classmethod
    def of(cls, experiment: Experiment) -> AskedCell:
        """That of an experiment with a folder."""
        folder = experiment.folder
        assert folder is not None  # noqa: S101 - workers hand their results over in it
        if experiment.warm_up:
            folder = folder.parent.parent  # that of the experiment before the warm-up
        return cls(experiment.setting, Place(folder), experiment.work.memory, experiment.warm_up)

    def opened(self, bench: Bench) -> Experiment:
        """The experiment, kept by the worker.

        Raises:
            UsageError, DataError, ModelError, StorageError: see `load_experiment`.
        """

        def made() -> Experiment:
            cell = load_experiment(self.setting, bench.tool, self.place, Work(self.memory))
            return cell.warmed(self.warm_up) if self.warm_up else cell

        return bench.kept("experiment", (self.place.folder, repr(self.setting.question), self.warm_up), made)


@dataclass(frozen=True)
class CellJob:
    """The kernels between the examples of an experiment, as a worker makes their job.

    Attributes:
        asked: the experiment.
        blocks: the parameters that take part.
    """

    asked: AskedCell
    blocks: tuple[str, ...]

    def job(self, bench: Bench) -> Job:
        """As `AskedJob`."""
        cell = self.asked.opened(bench)
        return joint_job(cell.outputs, *cell.examples, self.blocks)


@dataclass(frozen=True)
class RunOfGrid:
    """One run of a grid.

    Attributes:
        asked: the experiment.
        method: what is trained.
        grid: settings of all runs.
        number: of this one.
    """

    asked: AskedCell
    method: Method
    grid: tuple[Training, ...]
    number: int

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        return self.asked.opened(bench).trained_point(self.method, self.grid, self.number)


@dataclass(frozen=True)
class AskedGrid:
    """The runs of a grid on an experiment.

    Attributes:
        asked: the experiment as a worker opens it.
        cell: the same here, with its folder.
        method: what is trained.
        grid: settings of all runs.
    """

    asked: AskedCell
    cell: Experiment
    method: Method
    grid: Sequence[Training]

    @property
    def points(self) -> list[RunOfGrid]:
        """The runs that are not kept."""
        missing = self.cell.unfinished_runs(self.method, self.grid)
        return [RunOfGrid(self.asked, self.method, tuple(self.grid), number) for number in missing]


def carry_out_runs(crew: Crew, grids: Iterable[AskedGrid], progress: Progress | None = None) -> None:
    """Train the runs of some grids that are not kept, each in its folder, where it is read afterwards.

    Args:
        crew: who trains them.
        grids: which.
        progress: told how many are finished.

    Raises:
        ForetuneError: see `Crew.carry_out`; a run whose loss became infinite is a result.
    """
    points = [point for grid in grids for point in grid.points]
    if points:
        crew.carry_out("runs", points, progress)
