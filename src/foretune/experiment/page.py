"""Pages of a run folder: its kernels, and what solvers make of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretune.analysis.scores import Score
from foretune.analysis.solvers import Solution
from foretune.experiment.folder import KERNELS
from foretune.experiment.record import FEATURES_FOLDER, Record
from foretune.kernels.features import Blocked, TangentFeatures
from foretune.page import Cell, Column, Fact, Page, Span, Table
from foretune.progress import Stage

_MIB = 2**20


@dataclass(frozen=True)
class Solved:
    """One solver on one kernel.

    Attributes:
        kernel: label of the kernel.
        solver: name of the solver.
        score: score on the test examples.
        solution: hyperparameters, the whole grid, predictions, conditioning.
    """

    kernel: str
    solver: str
    score: Score
    solution: Solution


@dataclass(frozen=True, kw_only=True)
class KernelData(Record):
    """Kernels for programs.

    Attributes:
        kernel: label -> what determines the kernel, and its shape.
        stages: seconds and memory of each stage.
    """

    kernel: Mapping[str, Mapping[str, Any]]
    stages: Sequence[Stage]


@dataclass(frozen=True)
class SolveData:
    """Solutions for programs.

    Attributes:
        made_by: version of foretune that made the folder.
        folder: folder of the kernels.
        task: name, prompt, labels, template, words and metric.
        sizes: how many examples are for training, validation and test.
        choose: what chose hyperparameters: `validation` or `cv`.
        blocks: globs of the blocks whose kernels were added up; null for all.
        sketched: labels of the kernels that are held as features.
        zero_shot: score of the pretrained outputs on the test examples.
        solutions: one for each kernel and solver.
    """

    made_by: str
    folder: str
    task: Mapping[str, Any]
    sizes: Mapping[str, int]
    choose: str
    blocks: str | None
    sketched: Sequence[str]
    zero_shot: Score
    solutions: Sequence[Solved]


def kernel_descriptions(kernels: Mapping[str, Blocked]) -> dict[str, Mapping[str, Any]]:
    """Label -> what determines the kernel, and its shape."""
    return {label: {**kernel.description, "shape": kernel.shape} for label, kernel in kernels.items()}


def kernel_page(
    kernels: Mapping[str, Blocked],
    folder: Path,
    about: tuple[Fact, ...],
    notes: Sequence[str],
    data: KernelData,
) -> Page:
    """What was computed, where it is, and what it cost.

    Args:
        kernels: by label.
        folder: that holds them.
        about: what was read and asked.
        notes: for readers.
        data: the same for programs, with what it cost.
    """
    rows: list[tuple[Cell, ...]] = []
    for label, kernel in kernels.items():
        b, n, c, m, _ = kernel.shape
        rows.append((label, b, f"{n} x {m}", c, _held(kernel)))
    header = (
        Column("kernel", words=True),
        Column("blocks", "d"),
        Column("examples", words=False),
        Column("outputs", "d"),
        Column("held as", words=True, drop=1),
    )
    count = len(kernels)
    return Page(
        title=f"Kernels in {folder}",
        answer=f"{count} kernel{'s' if count > 1 else ''} in {folder}: {', '.join(kernels)}",
        about=about,
        facts=(
            Fact("Written", ", ".join(dict.fromkeys(_place(folder, *each) for each in kernels.items())), 6),
            *([cost_fact(data.stages)] if data.stages else []),  # nobody knows what a kept one cost
        ),
        notes=tuple(notes),
        tables=(Table(header, tuple(rows)), *([stage_table(data.stages)] if data.stages else [])),
        next=(f"foretune solve {shlex.quote(str(folder))}",),
        kind="kernel",
        data=data,
    )


def _held(kernel: Blocked) -> str:
    """How a kernel is held."""
    if isinstance(kernel, TangentFeatures):
        return f"features, {kernel.width(kernel.names):,} numbers for an example and output"
    return "exact"


def _place(folder: Path, label: str, kernel: Blocked) -> str:
    """The folder of a kernel."""
    return str(folder / KERNELS / (FEATURES_FOLDER if isinstance(kernel, TangentFeatures) else label))


def solve_page(record: Record, start: Score, found: Sequence[Solved], notes: Sequence[str], data: object) -> Page:
    """The scores of all solvers, the pretrained model's own on top.

    Args:
        record: of the folder.
        start: score of the pretrained outputs.
        found: solutions.
        notes: what a reader must know.
        data: the same for programs.
    """
    metric, sizes = record.task["metric"], record.sizes
    columns = (
        Column("kernel", words=True),
        Column("solver", words=True),
        Column("chosen", words=True),
        Column("valid.", ".3f"),
        Column(metric, ".3f"),
        Column("from - to", words=False),
        Column("rank", "d", drop=2),
        Column("condition", ".1e", drop=1),
    )
    rows: list[tuple[Cell, ...]] = [("", "zero-shot", "", None, start.value, Span(start.low, start.high), None, None)]
    for item in found:
        chosen = item.solution.chosen
        shown = ", ".join(f"{name} {value:g}" for name, value in chosen.parameters.items())
        rows.append(
            (
                item.kernel,
                item.solver,
                shown if chosen.converged else f"{shown} (stopped early)",
                chosen.validation,
                item.score.value,
                Span(item.score.low, item.score.high),
                item.solution.rank,
                item.solution.condition_number,
            )
        )
    best = max(found, key=lambda item: item.solution.chosen.validation)
    answer = (
        f"Best by validation: {best.solver} on {best.kernel}, test {metric} {best.score.value:.3f} "
        f"({best.score.low:.2f} - {best.score.high:.2f}); zero-shot {start.value:.3f}"
    )
    return Page(
        title=(
            f"{record.task['name']}: test {metric} with 95% interval ({sizes['train']} training, {sizes['validation']} "
            f"validation, {sizes['test']} test examples)"
        ),
        answer=answer,
        notes=tuple(notes),
        tables=(Table(columns, tuple(rows)),),
        kind="solve",
        data=data,
    )


def cost_fact(stages: Sequence[Stage]) -> Fact:
    """The seconds and the largest memory of all stages."""
    seconds, peak = sum(stage.seconds for stage in stages), max((stage.peak for stage in stages), default=0)
    return Fact("Cost", f"{seconds:,.1f} s, at most {peak / _MIB:,.0f} MiB of memory", 1)


def stage_table(stages: Sequence[Stage]) -> Table:
    """Seconds and memory of each stage."""
    columns = (
        Column("stage", words=True),
        Column("seconds", ".1f"),
        Column("peak memory (MiB)", ",.0f", drop=1),
        Column("above the start (MiB)", ",.0f", drop=2),
    )
    rows = tuple((stage.name, stage.seconds, stage.peak / _MIB, stage.above / _MIB) for stage in stages)
    return Table(columns, rows, "Cost", details=True)
