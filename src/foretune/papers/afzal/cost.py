"""What a kernel costs against the fine-tuning that it forecasts (Rahimi Afzal et al. 2024, table of times).

Both are timed in one call, so on one machine; a measurement that was stopped half-way begins anew.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar, TypeVar

import torch

from foretune.errors import UsageError
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import KernelWork, StudyWork
from foretune.experiment.sample import Full, Sample
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.kernels.compute import block_kernels
from foretune.kernels.job import separate_job
from foretune.kernels.sgd import SGD
from foretune.page import Cell, Quantity, Table
from foretune.papers.afzal.page import SOURCE, AfzalPage
from foretune.papers.afzal.runs import BATCH, EPOCHS, RATE, mean_of
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Defaults, Study
from foretune.papers.sections import Section, TaskGroup

EXAMPLES, REPEATS = 32, 3
_METHOD = LoRATuning(rank=8)
_VALUE = "afzal-cost"
_SAMPLE = Full(validation=1)  # evaluations are timed too: they shall take next to nothing

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Times:
    """What was timed on one sample.

    Attributes:
        train: number of training examples.
        steps, planned: steps that were made, and steps of all epochs.
        tuning: seconds of fine-tuning, with an evaluation on an example per label before and after it.
        kernel: seconds of the kernel, the median of three after a warm-up.
        threads: number of torch's threads.
        device: device on which both were computed.
    """

    train: int
    steps: int
    planned: int
    tuning: float
    kernel: float
    threads: int
    device: str

    @property
    def extrapolated(self) -> float:
        """Seconds of all epochs, were every step like those that were made."""
        return self.tuning / self.steps * self.planned


Timings = Sequence[Times]
"""Of each seed."""


class CostOfKernels(AfzalPage[Timings]):
    """Seconds of a kernel of 32 examples, and of fine-tuning on the whole training set."""

    authors: ClassVar[str] = "Rahimi Afzal et al. 2024"
    name: ClassVar[str] = "afzal-cost"
    title: ClassVar[str] = "time of the kernel on 32 random training examples, and time of fine-tuning"
    source: ClassVar[str] = f"{SOURCE} table of times"
    timed: ClassVar[bool] = True
    defaults: ClassVar[Defaults] = Defaults("minilm", ("cola", "sst2", "yelp"), ks=(), seeds=(13,), test=1000)

    def check(self, study: Study) -> None:
        """Refuse several batch sizes or learning rates, where one run is timed."""
        _training(study.budget)

    def sample(self, study: Study, task: str, k: int | None) -> Sample:
        """The whole training set."""
        return _SAMPLE

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Timings:
        """Seconds of kernel and fine-tuning on every seed."""
        training = _training(study.budget)
        return [_times(cell, training) for cell in cells]

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The kernels that are timed, and the run, unless their times are kept."""
        training = _training(study.budget)
        if cell.kept(_VALUE, _key(cell, training)) is not None:
            return StudyWork()
        job = separate_job(cell.outputs, cell.split.train[:EXAMPLES], None, None)
        return StudyWork([(_METHOD, [training])], [KernelWork(job, (1 + REPEATS) * [[SGD()]])])

    def sections(self, study: Study, groups: Sequence[TaskGroup[Timings]]) -> list[Section]:
        """One table with all tasks."""
        return [Section((_table(groups),), (), tuple(_finding(group.task, group.found) for group in groups))]

    def remarks(self, study: Study, groups: Sequence[TaskGroup[Timings]]) -> tuple[str, ...]:
        """The machine, both computations, and how long the run was."""
        training = _training(study.budget)
        times = [one for group in groups for one in group.found]
        machine = "; ".join(sorted({f"{one.threads} thread(s) on {one.device}" for one in times}))
        steps = (
            f"The run is cut to {training.steps} steps instead of {EPOCHS} epochs; {EPOCHS} epochs are extrapolated "
            "from its time per step, in a column that says so."
            if training.steps is not None
            else f"The run makes {EPOCHS} epochs."
        )
        return (
            f"Model {study.lm.name}; whole training sets, as large as the data here; seeds "
            f"{', '.join(map(str, study.seeds))}; {machine}. The poster names neither model nor machine: compare ratios, "
            "not seconds.",
            f"Kernel: SGD, all parameters, {EXAMPLES} random training examples, the median of {REPEATS} after a warm-up. "
            f"Fine-tuning: LoRA of rank {_METHOD.rank} on all linear layers and a random head, AdamW at "
            f"{training.optimiser.learning_rate:g}, batches of {training.batch_size} (the last two are not on the poster).",
            steps,
        )

    def printed(self, study: Study) -> Sequence[Table]:
        """The poster's times of these tasks."""
        printed = printed_figures("afzal")["cost"]
        rows = tuple(
            (
                task,
                *(Quantity(value, ",") for value in printed[task]),
                Quantity(100 * printed[task][1] / printed[task][0], ".2f"),
            )
            for task in study.tasks
            if task in printed
        )
        header = ("Task", "fine-tuning (s)", "kernel (s)", "kernel / fine-tuning (%)")
        return [Table(header, rows, "The poster's own times")] if rows else []


def _training(budget: Budget) -> Training:
    """Ten epochs of the poster, or what the budget leaves of them."""
    rate = _single("learning rate", budget.learning_rates.get("adamw"), RATE)
    size = _single("batch size", budget.batch_sizes, BATCH)
    epochs = EPOCHS if budget.steps is None else None
    return Training(
        AdamWOptimiser(rate), batch_size=size, steps=budget.steps, epochs=epochs, evaluate_every=budget.evaluate_every
    )


def _single(what: str, values: Sequence[Number] | None, usual: Number) -> Number:
    if values is None:
        return usual
    if len(values) != 1:
        raise UsageError(f"One run is timed, but there are {len(values)} {what}s: {list(values)}. Give one, or none.")
    return values[0]


def _times(cell: Experiment, training: Training) -> Times:
    return Times(**cell.value(_VALUE, _key(cell, training), lambda: _timed(cell, training)))


def _key(cell: Experiment, training: Training) -> dict[str, object]:
    key = {"method": repr(_METHOD), "training": repr(training), "examples": EXAMPLES, "repeats": REPEATS}
    return {**key, "memory": cell.work.memory, "threads": torch.get_num_threads(), "machine": platform.node()}


def _timed(cell: Experiment, training: Training) -> Mapping[str, Any]:
    """Time the kernel, then fine-tuning."""
    rows, n = cell.split.train[:EXAMPLES], len(cell.split.train)

    def kernel_seconds() -> float:
        start = time.perf_counter()
        block_kernels(cell.outputs, rows, formula=SGD(), memory=cell.work.memory)
        return time.perf_counter() - start

    _, *seconds = [kernel_seconds() for _ in range(1 + REPEATS)]
    steps = training.steps_for(n)
    evaluated = replace(training, evaluate_every=training.evaluate_every or steps)
    run = fine_tuned(cell.outputs, cell.task, cell.split, _METHOD, evaluated, progress=cell.work.progress)
    return {
        "train": n,
        "steps": steps,
        "planned": replace(training, steps=None, epochs=EPOCHS).steps_for(n),
        "tuning": run.seconds,
        "kernel": median(seconds),
        "threads": torch.get_num_threads(),
        "device": str(cell.outputs.lm.device),
    }


def _cut(times: Sequence[Times]) -> bool:
    return any(one.steps != one.planned for one in times)


def _table(groups: Sequence[TaskGroup[Timings]]) -> Table:
    header = ["Task", "training examples", "steps", "fine-tuning (s)", "kernel (s)", "kernel / fine-tuning (%)"]
    cut = any(_cut(group.found) for group in groups)
    rows = []
    for group in groups:
        times = group.found
        tuning, kernel = mean_of(times, "tuning"), mean_of(times, "kernel")
        row: list[Cell] = [group.task, Quantity(times[0].train, ","), Quantity(times[0].steps, ",")]
        row += [Quantity(tuning, ",.1f"), Quantity(kernel, ",.2f"), Quantity(100 * kernel / tuning, ".2f")]
        if cut:
            row += [Quantity(times[0].planned, ","), Quantity(mean_of(times, "extrapolated"), ",.0f")]
        rows.append(tuple(row))
    if cut:
        header += [f"steps of {EPOCHS} epochs", f"{EPOCHS} epochs, extrapolated (s)"]
    return Table(tuple(header), tuple(rows), "Seconds, mean over seeds; the ratio is that of the measured times")


def _finding(task: str, times: Sequence[Times]) -> str:
    tuning, kernel = mean_of(times, "tuning"), mean_of(times, "kernel")
    share = f"{100 * kernel / tuning:.1f}% of {times[0].steps:,} steps of fine-tuning"
    line = f"{task}: the kernel takes {kernel:,.1f} s, {share}"
    if _cut(times):
        line += f"; {EPOCHS} epochs would take about {mean_of(times, 'extrapolated'):,.0f} s (extrapolated)"
    return f"{line}."
