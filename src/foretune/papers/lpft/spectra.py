"""Singular values of the kernels of FT and LoRA (Tomihari and Sato 2024, NTK matrix of LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.finetune.methods import LoRATuning
from foretune.page import Curve, Figure, Quantity, Table
from foretune.papers.lpft.kernels import EXAMPLES, PARTS, Spectra, mean_spectra, missing_spectra, pretrained_spectra
from foretune.papers.lpft.measures import SOURCE
from foretune.papers.lpft.page import HeadPage, three_digits
from foretune.papers.recipe import Study
from foretune.papers.sections import Section, TaskGroup

_FIRST = 10
_CURVES = (("FT", "P + F"), ("FT", "F"), ("LoRA", "P + F"), ("LoRA", "F"))
_HEADER = ("Kernel", "Part", "largest", "Frobenius norm", f"share of the first {_FIRST}, %")


class SingularValuesOfKernels(HeadPage[Spectra]):
    """How alike the kernels of FT and LoRA are, by their singular values."""

    name: ClassVar[str] = "lpft-singular-values"
    title: ClassVar[str] = "singular values of the kernels of FT and LoRA, pretrained"
    source: ClassVar[str] = f"{SOURCE}, figure of singular values"

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Spectra:
        """The mean singular values of the pretrained kernels."""
        return mean_spectra([pretrained_spectra(cell) for cell in cells])

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The kernels before training."""
        return StudyWork(kernels=missing_spectra(cell))

    def section(self, study: Study, group: TaskGroup[Spectra]) -> Section:
        """A table and a figure."""
        count = len(group.found["FT", "F"].values)
        table = _table(group.found, f"{group.where}: {count} singular values")
        return Section((table,), (_figure(group),), (_finding(group),))

    def remarks(self, study: Study, groups: Sequence[TaskGroup[Spectra]]) -> tuple[str, ...]:
        """What the kernels are made of."""
        formula = LoRATuning().formula
        return (
            f"Kernels of at most {EXAMPLES} training examples; nothing is trained. Values are means over seeds. P is the "
            "same for FT and LoRA: both train the classifier. F of LoRA is that of adapters of rank "
            f"{formula.rank} with B = 0, scaled by alpha / r = {formula.scaling:g}.",
        )


def _table(found: Spectra, caption: str) -> Table:
    rows = []
    for kernel in ("FT", "LoRA"):
        for part in PARTS:
            values = found[kernel, part]
            share = values.cumulative[:_FIRST][-1]
            rows.append(
                (
                    kernel,
                    part,
                    three_digits(values.values[0]),
                    three_digits(values.frobenius),
                    Quantity(100 * share, ".1f"),
                )
            )
    return Table(_HEADER, tuple(rows), caption)


def _figure(group: TaskGroup[Spectra]) -> Figure:
    curves = tuple(Curve(f"{kernel}: {part}", group.found[kernel, part].values) for kernel, part in _CURVES)
    return Figure(
        f"singular-values-{group.name}",
        f"Singular values on {group.where}",
        "number",
        "singular value",
        curves,
        logarithmic=True,
    )


def _finding(group: TaskGroup[Spectra]) -> str:
    tuned, adapted = (group.found[kernel, "F"] for kernel in ("FT", "LoRA"))
    apart = float(np.abs(tuned.cumulative - adapted.cumulative).max())
    ratio = tuned.frobenius / adapted.frobenius if adapted.frobenius else float("nan")
    return (
        f"{group.where}: the cumulative shares of the singular values of F for FT and for LoRA differ by at most "
        f"{100 * apart:.1f} points; ||F|| of FT is {three_digits(ratio)} times that of LoRA."
    )
