"""How few dimensions keep the kernel (Malladi et al. 2023, Theorems E.2 and E.5).

IntrinsicDimension fine-tuning trains k numbers theta_hat with theta = theta_0 + Pi theta_hat, LoRA rank r matrices: both
have kernels that are random projections of the full one. Theorem E.2 bounds the largest deviation of an entry for k
dimensions (`analysis.johnson_lindenstrauss`); Theorem E.5 does so for LoRA of rank r, for single input vectors. Here both
deviations are measured; they should fall as k^-1/2 and r^-1/2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from foretune.analysis.johnson_lindenstrauss import JohnsonLindenstrauss, measured_deviation
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import KernelWork, StudyWork
from foretune.experiment.setting import PROBED_HEAD, PROMPT
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, separate_job
from foretune.kernels.lora import LoRA
from foretune.kernels.projection import IntrinsicDimension
from foretune.kernels.sgd import SGD
from foretune.page import Cell, Curve, Figure, Quantity, mean_and_spread
from foretune.papers.recipe import Defaults, Study
from foretune.papers.sections import Section, SectionedRecipe, TaskGroup, by_item, table_of

DIMENSIONS = (16, 64, 256, 1024)
RANKS = (1, 4, 16, 64)
EXAMPLES = 16


@dataclass(frozen=True)
class ProjectedKernel:
    """How far a kernel of few dimensions is from the full one.

    Attributes:
        kind: `IntrinsicDimension`, or `LoRA`.
        size: number of dimensions k, or rank r.
        largest: max |K' - K| over max |K|.
        relative: ||K' - K|| / ||K|| in Frobenius norm.
        bound: bound of `largest`, with probability 0.95; infinite where the theorem says nothing, or needs other
            premises.
    """

    kind: str
    size: int
    largest: float
    relative: float
    bound: float


Projected = Sequence[Sequence[ProjectedKernel]]
"""Of each seed, the same kernels in the same order."""
KINDS = ("IntrinsicDimension", "LoRA")
_VALUE = "subspace"


class Subspace(SectionedRecipe[Projected]):
    """Deviations of projected kernels, beside the theorem's bound."""

    authors: ClassVar[str] = "Malladi et al. 2023"
    name: ClassVar[str] = "malladi-subspace"
    title: ClassVar[str] = "kernels of IntrinsicDimension and LoRA against the full kernel"
    source: ClassVar[str] = (
        "Malladi, Wettig, Yu, Chen and Arora 2023, A Kernel-Based View of Language Model Fine-Tuning, Theorems E.2 and E.5"
    )
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr",), ks=(8,), seeds=(13, 21), test=64)

    def output_of(self, study: Study) -> str:
        """By a prompt, or with a head where the model cannot be prompted."""
        return PROBED_HEAD if study.lm.kind == "encoder" else PROMPT

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Projected:
        """Every size of both kinds; the seed of a cell draws the projections too."""
        return [projected_kernels(cell, cell.setting.seed) for cell in cells]

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """All kernels in one pass, unless their deviations are kept."""
        if cell.kept(_VALUE, _key(cell.setting.seed)) is not None:
            return StudyWork()
        return StudyWork(kernels=[KernelWork(_job(cell), [_formulas(cell.setting.seed)])])

    def section(self, study: Study, group: TaskGroup[Projected]) -> Section:
        """A table and a figure."""
        table = table_of(COLUMNS, by_item(group.found), group.caption)
        return Section((table,), (_figure(group),), tuple(_finding(group, kind) for kind in KINDS))

    def notes(self, study: Study, groups: Sequence[TaskGroup[Projected]]) -> tuple[str, ...]:
        """The kernels that are compared, and which theorem bounds what."""
        return (
            f"Source: {self.source}.",
            f"Model {study.lm.name}, {self.output_of(study)}; at most {EXAMPLES} training examples; a seed draws examples "
            "and projections.",
            "Deviations are of all parameters for IntrinsicDimension, and of the adapted weights for LoRA, whose known "
            "scale E[K_LoRA] / K is divided out block by block. Over the largest entry: what the theorem bounds; relative: "
            "in Frobenius norm.",
            "The bound is that of Theorem E.2 with N C rows and probability 0.95. Theorem E.5 assumes one input vector per "
            "example and layer, not a text of many tokens, so that it is not evaluated for LoRA.",
        )


def projected_kernels(cell: Experiment, seed: int) -> list[ProjectedKernel]:
    """Every size of both kinds on a cell's first training examples; kept."""
    found = cell.value(_VALUE, _key(seed), lambda: {"kernels": [asdict(item) for item in _projected(cell, seed)]})
    return [ProjectedKernel(**item) for item in found["kernels"]]


def _key(seed: int) -> dict[str, object]:
    return {"dimensions": list(DIMENSIONS), "ranks": list(RANKS), "examples": EXAMPLES, "seed": seed}


def _job(cell: Experiment) -> Job:
    return separate_job(cell.outputs, cell.split.train[:EXAMPLES], None, None)


def _formulas(seed: int) -> list[Formula]:
    return [SGD(), *(IntrinsicDimension(k, seed) for k in DIMENSIONS), *(LoRA(rank, seed=seed) for rank in RANKS)]


def _projected(cell: Experiment, seed: int) -> list[ProjectedKernel]:
    outputs = cell.outputs
    dimensions = [IntrinsicDimension(k, seed) for k in DIMENSIONS]
    ranks = [LoRA(rank, seed=seed) for rank in RANKS]
    kernels = kernels_of(_job(cell), _formulas(seed), cell.work.memory)
    full = kernels[SGD().label]
    of_block = dict(zip(full.names, full.array, strict=True))
    n, c = full.array.shape[1:3]

    def deviation(kind: str, size: int, whole: np.ndarray, projected: np.ndarray) -> ProjectedKernel:
        premises = JohnsonLindenstrauss(n * c, c=float(np.abs(whole).max()))
        measured = measured_deviation(whole, projected, size, premises)
        bound = measured.bound / premises.c if kind == "IntrinsicDimension" else float("inf")
        return ProjectedKernel(kind, size, measured.largest / premises.c, measured.relative, bound)

    inputs = {name: tensor.shape[-1] for name, tensor in outputs.parameters().items() if tensor.dim() == 2}
    adapted = kernels[ranks[0].label].names
    weights = np.sum([of_block[name] for name in adapted], axis=0)
    found = [deviation("IntrinsicDimension", d.k, full.total(), kernels[d.label].total()) for d in dimensions]
    for lora in ranks:
        blocks = zip(adapted, kernels[lora.label].array, strict=True)
        scaled = np.sum([values / lora.expected_ratio(inputs[name]) for name, values in blocks], axis=0)
        found.append(deviation("LoRA", lora.rank, weights, scaled))
    return found


def slope(found: Projected, kind: str) -> float:
    """Of the logarithm of the relative deviation against that of the size; -1/2 is what the theorems say."""
    chosen = [[item for item in seed if item.kind == kind] for seed in found]
    sizes = [item.size for item in chosen[0]]
    size = np.sqrt(np.mean([[item.relative**2 for item in seed] for seed in chosen], axis=0))
    return float(np.polyfit(np.log(sizes), np.log(size), 1)[0])


def _bound(every: Sequence[ProjectedKernel]) -> Quantity:
    known = np.isfinite(every[0].bound)
    missing = "says nothing" if every[0].kind == "IntrinsicDimension" else "-"
    return Quantity(float(np.mean([item.bound for item in every])) if known else None, ".3f", missing=missing)


COLUMNS: Mapping[str, Callable[[Sequence[ProjectedKernel]], Cell]] = {
    "kernel": lambda every: f"{every[0].kind}, {'r' if every[0].kind == 'LoRA' else 'k'} = {every[0].size}",
    "largest deviation / largest entry": lambda every: mean_and_spread([item.largest for item in every], 1.0, 3),
    "bound": _bound,
    "relative deviation": lambda every: mean_and_spread([item.relative for item in every], 1.0, 3),
}
"""Of the table: heading -> the text for one kernel on all seeds."""


def _figure(group: TaskGroup[Projected]) -> Figure:
    curves = []
    for kind in KINDS:
        chosen = [[item for item in seed if item.kind == kind] for seed in group.found]
        values = np.mean([[item.relative for item in seed] for seed in chosen], axis=0)
        curves.append(Curve(kind, values, np.array([item.size for item in chosen[0]], dtype=float)))
    title = f"Relative deviation of kernels of few dimensions, {group.name}"
    return Figure(
        f"subspace-{group.name}", title, "k, or rank r", "relative deviation", tuple(curves), logarithmic=True
    )


def _finding(group: TaskGroup[Projected], kind: str) -> str:
    within = [item for seed in group.found for item in seed if item.kind == kind and np.isfinite(item.bound)]
    held = ""
    if within:
        kept = sum(item.largest <= item.bound for item in within)
        held = f"; the bound of Theorem E.2 holds in {kept} of the {len(within)} cases in which it says something"
    power = f"{slope(group.found, kind):.2f} (theory: -0.5)"
    return f"{group.where}: the deviation of {kind} falls as the size to the power {power}{held}."
