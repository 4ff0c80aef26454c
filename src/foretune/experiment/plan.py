"""What a study would do, before it is done: its experiments, what is kept of them already, and what is left to pay for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import Place
from foretune.finetune.cost import training_cost
from foretune.finetune.methods import Method
from foretune.finetune.training import Training
from foretune.kernels.block_kernel import Pattern
from foretune.kernels.cost import KernelCost, kernel_cost, sketch_cost
from foretune.kernels.feature_folder import has_features
from foretune.kernels.folder import is_finished
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job
from foretune.kernels.sketch import Sketch
from foretune.page import Fact, Page, Quantity, Table

_MIB = 2**20


@dataclass(frozen=True)
class KernelWork:
    """Kernels to compute.

    Attributes:
        job: their examples and blocks.
        passes: their formulas, those that are computed together in one list.
        sketch: how they are sketched; None where they are exact.
    """

    job: Job
    passes: Sequence[Sequence[Formula]]
    sketch: Sketch | None = None

    def costs(self, memory: str | int) -> list[KernelCost]:
        """What each pass costs. Raises as `kernel_cost` does."""
        if self.sketch is None:
            return [kernel_cost(self.job, formulas, memory) for formulas in self.passes]
        return [sketch_cost(self.job, formulas, self.sketch, memory, on_disk=True) for formulas in self.passes]


@dataclass(frozen=True)
class StudyWork:
    """What a study asks of one experiment.

    Attributes:
        grids: methods of fine-tuning, each with the settings of its runs.
        kernels: kernels that are not kept yet.
    """

    grids: Sequence[tuple[Method, Sequence[Training]]] = ()
    kernels: Sequence[KernelWork] = ()


@dataclass(frozen=True)
class CellPlan:
    """One experiment of a study.

    Attributes:
        task, sample, seed: what it is on.
        train, validation, test: number of examples.
        folder: where its results are, or will be.
        kernels: number of kernels to compute.
        runs: number of fine-tuning runs to train.
        finished: number of runs that are finished in the folder.
        seconds: seconds for the kernels and runs that are left, estimated.
        memory: bytes above the model that the kernels work in; zero where none are computed.
        disk: bytes of the kernels.
    """

    task: str
    sample: str
    seed: int
    train: int
    validation: int
    test: int
    folder: str
    kernels: int
    runs: int
    finished: int
    seconds: float
    memory: int
    disk: int


@dataclass(frozen=True)
class StudyPlan:
    """What a study would do.

    Attributes:
        cells: experiments of the study.
        unknown: what is not counted, because it follows from results.
    """

    cells: Sequence[CellPlan]
    unknown: Sequence[str]


def study_plan(
    cells: Sequence[tuple[Experiment, Place]], asked: Callable[[Experiment], StudyWork], unknown: Sequence[str] = ()
) -> StudyPlan:
    """The plan of a study. One batch of each method is timed for each task; nothing is kept.

    Args:
        cells: experiments without a folder, and the folder that each would have.
        asked: what the study asks of an experiment that knows its folder.
        unknown: what is not counted, in sentences.

    Raises:
        UsageError: a folder holds something else, or the memory budget is too small.
        StorageError: a folder cannot be read.
    """
    rates: dict[tuple[str, str, str], float] = {}
    return StudyPlan([_cell_plan(in_its_folder(cell, place), asked, rates) for cell, place in cells], unknown)


def missing_kernels(
    cell: Experiment,
    formulas: Sequence[Formula],
    parts: Sequence[str],
    blocks: Pattern | None = None,
    sketch: Sketch | None = None,
) -> list[KernelWork]:
    """The kernels of `Experiment.kernels`, or with a sketch of `Experiment.features`, that are not kept. Args as there."""
    job = cell.kernel_job(parts, blocks)
    if sketch is not None:
        held = cell.features_place(parts, blocks, job, sketch)
        return [] if held is not None and has_features(held) else [KernelWork(job, [formulas], sketch)]
    place = cell.kernel_place(parts, blocks, job)
    missing = [each for each in formulas if place is None or not is_finished(place / each.label)]
    return [KernelWork(job, [missing])] if missing else []


def in_its_folder(cell: Experiment, place: Place) -> Experiment:
    """An experiment that knows its folder, which is not made.

    Args:
        cell: the experiment before anything is computed.
        place: where it is kept.

    Raises:
        UsageError, StorageError: see `study_plan`.
    """
    return replace(cell, folder=place.found(cell.identity))


def _cell_plan(
    cell: Experiment, asked: Callable[[Experiment], StudyWork], rates: dict[tuple[str, str, str], float]
) -> CellPlan:
    """The plan of one experiment.

    Args:
        cell: it, with its folder.
        asked: what is asked of it.
        rates: task, sample and method -> seconds of one run, filled as they are measured.
    """
    work = asked(cell)
    needed = [cost for each in work.kernels for cost in each.costs(cell.work.memory)]
    left, finished, seconds = 0, 0, sum(each.seconds for each in needed)
    for method, grid in work.grids:
        kept = cell.finished_runs(method, grid)
        finished, missing = finished + kept, len(grid) - kept
        if not missing:
            continue
        left += missing
        key = (cell.task.name, cell.setting.sample.label, type(method).__name__)
        if key not in rates:
            rates[key] = training_cost(cell.outputs, cell.task, cell.split, method, grid[:1]).seconds
        seconds += rates[key] * missing
    return CellPlan(
        task=cell.task.name,
        sample=cell.setting.sample.label,
        seed=cell.setting.seed,
        **cell.split.sizes,
        folder=str(cell.folder),
        kernels=sum(len(formulas) for each in work.kernels for formulas in each.passes),
        runs=left,
        finished=finished,
        seconds=seconds,
        memory=max((each.memory for each in needed), default=0),
        disk=sum(each.disk for each in needed),
    )


def study_plan_page(plan: StudyPlan, about: Mapping[str, str]) -> Page:
    """What would be done, experiment by experiment.

    Args:
        plan: of a study.
        about: label -> what is asked for.
    """
    cells = plan.cells
    seconds, memory = sum(cell.seconds for cell in cells), max((cell.memory for cell in cells), default=0)
    runs, kernels, disk = (sum(getattr(cell, name) for cell in cells) for name in ("runs", "kernels", "disk"))
    rows = tuple(
        (
            cell.task,
            cell.sample,
            Quantity(cell.seed, "d"),
            Quantity(cell.kernels, "d"),
            Quantity(cell.runs, "d"),
            Quantity(cell.finished, "d"),
            Quantity(cell.seconds, ",.0f"),
            Quantity(cell.memory / _MIB, ",.0f"),
        )
        for cell in cells
    )
    columns = ("task", "sample", "seed", "kernels", "runs", "runs kept", "seconds", "memory, MiB")
    return Page(
        title="Plan",
        answer=(
            f"About {seconds:,.0f} s for {kernels:,} kernels and {runs:,} runs in {len(cells):,} experiments, "
            f"{memory / _MIB:,.0f} MiB of memory above the model, and {disk / _MIB:,.1f} MiB of disk for kernels."
        ),
        about=tuple(Fact(label, text) for label, text in about.items()),
        notes=tuple(plan.unknown),
        tables=(
            Table(
                columns,
                rows,
                "What is left to compute. One batch of each method was timed; nothing was trained or written",
            ),
        ),
        kind="study-plan",
        data=plan,
    )
