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

import numpy as np
import torch

from foretune.errors import UsageError
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment
from foretune.experiment.sample import Full
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.kernels.compute import block_kernels
from foretune.kernels.sgd import SGD
from foretune.page import Page, Table
from foretune.reproduce.printed import printed_figures
from foretune.reproduce.recipe import Defaults, Recipe, Study

SOURCE = (
    "Rahimi Afzal, Esmaeilbeig, Soltanalian and Ohannessian 2024, Can the Spectrum of the Neural Tangent Kernel Anticipate "
    "Fine-Tuning Performance?,"
)
EXAMPLES, REPEATS = 32, 3
EPOCHS, BATCH, RATE = 10, 16, 2e-4
_METHOD = LoRATuning(rank=8)
_SAMPLE = Full(validation=1)  # evaluations are timed too: they shall take next to nothing

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Times:
    """What was timed on one sample.

    Attributes:
        train: training examples.
        steps, planned: steps that were made, and steps of all epochs.
        tuning: seconds of fine-tuning, with an evaluation on an example per label before and after it.
        kernel: seconds of the kernel, the median of three after a warm-up.
        threads: of torch.
        device: where both were computed.
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


class Cost(Recipe):
    """Seconds of a kernel of 32 examples, and of fine-tuning on the whole training set."""

    name: ClassVar[str] = "afzal-cost"
    title: ClassVar[str] = "time of the kernel on 32 random training examples, and time of fine-tuning"
    source: ClassVar[str] = f"{SOURCE} table of times"
    defaults: ClassVar[Defaults] = Defaults("minilm", ("cola", "sst2", "yelp"), ks=(), seeds=(13,), test=1000)

    def page(self, study: Study) -> Page:
        """One table, and the poster's.

        Raises:
            UsageError: several batch sizes or learning rates, where one run is timed.
        """
        training = _training(study.budget)
        cells = {task: [study.cell(task, _SAMPLE, seed, "random head") for seed in study.seeds] for task in study.tasks}
        found = {task: [_times(cell, training) for cell in of_task] for task, of_task in cells.items()}
        findings = tuple(_finding(task, times) for task, times in found.items())
        return Page(
            f"Rahimi Afzal et al. 2024: {self.title}",
            _notes(self, study, training, found),
            (_table(found), *_poster(study)),
            (),
            findings,
        )


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
    key = {"method": repr(_METHOD), "training": repr(training), "examples": EXAMPLES, "repeats": REPEATS}
    key |= {"memory": cell.work.memory, "threads": torch.get_num_threads(), "machine": platform.node()}
    return Times(**cell.value("afzal-cost", key, lambda: _timed(cell, training)))


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


def _mean(times: Sequence[Times], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in times]))


def _cut(times: Sequence[Times]) -> bool:
    return any(one.steps != one.planned for one in times)


def _table(found: Mapping[str, Sequence[Times]]) -> Table:
    header = ["Task", "training examples", "steps", "fine-tuning (s)", "kernel (s)", "kernel / fine-tuning (%)"]
    cut = any(map(_cut, found.values()))
    rows = []
    for task, times in found.items():
        tuning, kernel = _mean(times, "tuning"), _mean(times, "kernel")
        row = [task, f"{times[0].train:,}", f"{times[0].steps:,}", f"{tuning:,.1f}", f"{kernel:,.2f}"]
        row.append(f"{100 * kernel / tuning:.2f}")
        if cut:
            row += [f"{times[0].planned:,}", f"{_mean(times, 'extrapolated'):,.0f}"]
        rows.append(tuple(row))
    if cut:
        header += [f"steps of {EPOCHS} epochs", f"{EPOCHS} epochs, extrapolated (s)"]
    return Table(tuple(header), tuple(rows), "Seconds, mean over seeds; the ratio is that of the measured times")


def _notes(recipe: Recipe, study: Study, training: Training, found: Mapping[str, Sequence[Times]]) -> tuple[str, ...]:
    times = [one for of_task in found.values() for one in of_task]
    machine = "; ".join(sorted({f"{one.threads} thread(s) on {one.device}" for one in times}))
    steps = (
        f"The run is cut to {training.steps} steps in the place of {EPOCHS} epochs; {EPOCHS} epochs are extrapolated from "
        "its time per step, in a column that says so."
        if training.steps is not None
        else f"The run makes {EPOCHS} epochs."
    )
    return (
        f"Source: {recipe.source}.",
        f"Model {study.lm.name}; whole training sets, as large as the data here; seeds {', '.join(map(str, study.seeds))}; "
        f"{machine}. The poster names neither model nor machine: compare ratios, not seconds.",
        f"Kernel: SGD, all parameters, {EXAMPLES} random training examples, the median of {REPEATS} after a warm-up. "
        f"Fine-tuning: LoRA of rank {_METHOD.rank} on all linear layers and a random head, AdamW at "
        f"{training.optimiser.learning_rate:g}, batches of {training.batch_size} (the last two are not on the poster).",
        steps,
    )


def _finding(task: str, times: Sequence[Times]) -> str:
    tuning, kernel = _mean(times, "tuning"), _mean(times, "kernel")
    share = f"{100 * kernel / tuning:.1f}% of {times[0].steps:,} steps of fine-tuning"
    line = f"{task}: the kernel takes {kernel:,.1f} s, {share}"
    if _cut(times):
        line += f"; {EPOCHS} epochs would take about {_mean(times, 'extrapolated'):,.0f} s (extrapolated)"
    return f"{line}."


def _poster(study: Study) -> list[Table]:
    printed = printed_figures("afzal")["cost"]
    rows = tuple(
        (task, f"{printed[task][0]:,}", f"{printed[task][1]:,}", f"{100 * printed[task][1] / printed[task][0]:.2f}")
        for task in study.tasks
        if task in printed
    )
    header = ("Task", "fine-tuning (s)", "kernel (s)", "kernel / fine-tuning (%)")
    return [Table(header, rows, "The poster's own times")] if rows else []
