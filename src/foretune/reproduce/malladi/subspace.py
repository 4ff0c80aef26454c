"""How few dimensions keep the kernel (Malladi et al. 2023, Theorems E.2 and E.5).

IntrinsicDimension fine-tuning trains k numbers theta_hat with theta = theta_0 + Pi theta_hat, LoRA rank r matrices: both
have kernels that are random projections of the full one. Theorem E.2 bounds the largest deviation of an entry for k
dimensions (`analysis.johnson_lindenstrauss`); Theorem E.5 does so for LoRA of rank r, for single input vectors. Here both
deviations are measured; they should fall as k^-1/2 and r^-1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from foretune.analysis.johnson_lindenstrauss import JohnsonLindenstrauss, measured_deviation
from foretune.experiment.experiment import Experiment
from foretune.kernels.compute import kernels_of
from foretune.kernels.job import separate_job
from foretune.kernels.lora import LoRA
from foretune.kernels.projection import IntrinsicDimension
from foretune.kernels.sgd import SGD
from foretune.page import Curve, Figure, Page, Table, mean_and_spread
from foretune.reproduce.recipe import Defaults, Recipe, Study

DIMENSIONS = (16, 64, 256, 1024)
RANKS = (1, 4, 16, 64)
EXAMPLES = 16


@dataclass(frozen=True)
class ProjectedKernel:
    """How far a kernel of few dimensions is from the full one.

    Attributes:
        kind: `IntrinsicDimension`, or `LoRA`.
        size: k, or r.
        largest: max |K' - K| over max |K|.
        relative: ||K' - K|| / ||K|| in Frobenius norm.
        bound: of `largest`, with probability 0.95; infinite where the theorem says nothing, or needs other premises.
    """

    kind: str
    size: int
    largest: float
    relative: float
    bound: float


class Subspace(Recipe):
    """Deviations of projected kernels, beside the theorem's bound."""

    name: ClassVar[str] = "malladi-subspace"
    title: ClassVar[str] = "kernels of IntrinsicDimension and LoRA against the full kernel"
    source: ClassVar[str] = (
        "Malladi, Wettig, Yu, Chen and Arora 2023, A Kernel-Based View of Language Model Fine-Tuning, Theorems E.2 and E.5"
    )
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr",), ks=(8,), seeds=(13, 21), test=64)

    def page(self, study: Study) -> Page:
        """A table and a figure for each task."""
        tables, figures, findings = [], [], []
        output = "probed head" if study.lm.kind == "encoder" else "prompt"
        for task in study.tasks:
            for k in study.ks:
                cells = [study.cell(task, k, seed, output) for seed in study.seeds]
                found = [projected_kernels(cell, seed) for cell, seed in zip(cells, study.seeds, strict=True)]
                tables.append(_table(found, f"{task}, k = {k}: means (standard deviations) over {len(cells)} seed(s)"))
                figures.append(_figure(found, f"{task}-k{k}"))
                findings += [_finding(found, kind, f"{task}, k = {k}") for kind in ("IntrinsicDimension", "LoRA")]
        notes = (
            f"Source: {self.source}.",
            f"Model {study.lm.name}, {output}; at most {EXAMPLES} training examples; a seed draws examples and "
            "projections.",
            "Deviations are of all parameters for IntrinsicDimension, and of the adapted weights for LoRA, whose known "
            "scale E[K_LoRA] / K is divided out block by block. Over the largest entry: what the theorem bounds; relative: "
            "in Frobenius norm.",
            "The bound is that of Theorem E.2 with N C rows and probability 0.95. Theorem E.5 assumes one input vector per "
            "example and layer, not a text of many tokens, so that it is not evaluated for LoRA.",
        )
        title = f"Malladi et al. 2023: {self.title}"
        return Page(title, notes, tuple(tables), tuple(figures), tuple(findings))


def projected_kernels(cell: Experiment, seed: int) -> list[ProjectedKernel]:
    """Every size of both kinds on a cell's first training examples; kept."""
    key = {"dimensions": list(DIMENSIONS), "ranks": list(RANKS), "examples": EXAMPLES, "seed": seed}
    found = cell.value("subspace", key, lambda: {"kernels": [asdict(item) for item in _projected(cell, seed)]})
    return [ProjectedKernel(**item) for item in found["kernels"]]


def _projected(cell: Experiment, seed: int) -> list[ProjectedKernel]:
    outputs = cell.outputs
    job = separate_job(outputs, cell.split.train[:EXAMPLES], None, None)
    dimensions = [IntrinsicDimension(k, seed) for k in DIMENSIONS]
    ranks = [LoRA(rank, seed=seed) for rank in RANKS]
    kernels = kernels_of(job, [SGD(), *dimensions, *ranks], cell.work.memory)
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


def slope(found: Sequence[Sequence[ProjectedKernel]], kind: str) -> float:
    """Of the logarithm of the relative deviation against that of the size; -1/2 is what the theorems say."""
    chosen = [[item for item in seed if item.kind == kind] for seed in found]
    sizes = [item.size for item in chosen[0]]
    size = np.sqrt(np.mean([[item.relative**2 for item in seed] for seed in chosen], axis=0))
    return float(np.polyfit(np.log(sizes), np.log(size), 1)[0])


def _table(found: Sequence[Sequence[ProjectedKernel]], caption: str) -> Table:
    rows = []
    for place, first in enumerate(found[0]):
        every = [seed[place] for seed in found]
        bound = "says nothing" if first.kind == "IntrinsicDimension" else "-"
        if np.isfinite(first.bound):
            bound = f"{np.mean([item.bound for item in every]):.3f}"
        rows.append(
            (
                f"{first.kind}, {'k' if first.kind == 'IntrinsicDimension' else 'r'} = {first.size}",
                mean_and_spread([item.largest for item in every], 1.0, 3),
                bound,
                mean_and_spread([item.relative for item in every], 1.0, 3),
            )
        )
    return Table(("kernel", "largest deviation / largest entry", "bound", "relative deviation"), tuple(rows), caption)


def _figure(found: Sequence[Sequence[ProjectedKernel]], name: str) -> Figure:
    curves = []
    for kind in ("IntrinsicDimension", "LoRA"):
        chosen = [[item for item in seed if item.kind == kind] for seed in found]
        values = np.mean([[item.relative for item in seed] for seed in chosen], axis=0)
        curves.append(Curve(kind, values, np.array([item.size for item in chosen[0]], dtype=float)))
    title = f"Relative deviation of kernels of few dimensions, {name}"
    return Figure(f"subspace-{name}", title, "k, or rank r", "relative deviation", tuple(curves), logarithmic=True)


def _finding(found: Sequence[Sequence[ProjectedKernel]], kind: str, where: str) -> str:
    within = [item for seed in found for item in seed if item.kind == kind and np.isfinite(item.bound)]
    held = ""
    if within:
        kept = sum(item.largest <= item.bound for item in within)
        held = f"; the bound of Theorem E.2 holds in {kept} of the {len(within)} cases in which it says something"
    return f"{where}: the deviation of {kind} falls as the size to the power {slope(found, kind):.2f} (theory: -0.5){held}."
