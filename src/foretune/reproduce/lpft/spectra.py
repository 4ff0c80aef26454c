"""Singular values of the kernels of FT and LoRA (Tomihari and Sato 2024, NTK matrix of LoRA)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from foretune.finetune.methods import LoRATuning
from foretune.page import Curve, Figure, Page, Table
from foretune.reproduce.lpft.features import shown
from foretune.reproduce.lpft.kernels import EXAMPLES, PARTS, Spectra, mean_spectra, pretrained_spectra
from foretune.reproduce.lpft.measures import AUTHORS, SOURCE, head_cell
from foretune.reproduce.lpft.notes import TASKS, head_notes
from foretune.reproduce.recipe import Defaults, Recipe, Study

_FIRST = 10
_CURVES = (("FT", "P + F"), ("FT", "F"), ("LoRA", "P + F"), ("LoRA", "F"))
_HEADER = ("Kernel", "Part", "largest", "Frobenius norm", f"share of the first {_FIRST}")


class SingularValuesOfKernels(Recipe):
    """How alike the kernels of FT and LoRA are, by their singular values."""

    name: ClassVar[str] = "lpft-singular-values"
    title: ClassVar[str] = "singular values of the kernels of FT and LoRA, pretrained"
    source: ClassVar[str] = f"{SOURCE}, figure of singular values"
    defaults: ClassVar[Defaults] = Defaults("minilm", TASKS, ks=(64,))

    def page(self, study: Study) -> Page:
        """A figure and a table for each task and k."""
        tables: list[Table] = []
        figures: list[Figure] = []
        findings: list[str] = []
        for task in study.tasks:
            for k in study.ks:
                found = mean_spectra([pretrained_spectra(head_cell(study, task, k, seed)) for seed in study.seeds])
                count = len(found["FT", "F"].values)
                tables.append(_table(found, f"{task}, k = {k}: {count} singular values"))
                figures.append(_figure(found, task, k))
                findings.append(_finding(found, f"{task}, k = {k}"))
        formula = LoRATuning().formula
        notes = (
            *head_notes(self, study),
            f"Kernels of at most {EXAMPLES} training examples; nothing is trained. Values are means over seeds. P is the "
            "same for FT and LoRA: both train the classifier. F of LoRA is that of adapters of rank "
            f"{formula.rank} with B = 0, scaled by alpha / r = {formula.scaling:g}.",
        )
        return Page(f"{AUTHORS}: {self.title}", notes, tuple(tables), tuple(figures), tuple(findings))


def _table(found: Spectra, caption: str) -> Table:
    rows = []
    for kernel in ("FT", "LoRA"):
        for part in PARTS:
            values = found[kernel, part]
            share = values.cumulative[:_FIRST][-1]
            rows.append((kernel, part, shown(values.values[0]), shown(values.frobenius), f"{100 * share:.1f}%"))
    return Table(_HEADER, tuple(rows), caption)


def _figure(found: Spectra, task: str, k: int) -> Figure:
    curves = tuple(Curve(f"{kernel}: {part}", found[kernel, part].values) for kernel, part in _CURVES)
    return Figure(
        f"singular-values-{task}-k{k}",
        f"Singular values on {task}, k = {k}",
        "number",
        "singular value",
        curves,
        logarithmic=True,
    )


def _finding(found: Spectra, where: str) -> str:
    tuned, adapted = (found[kernel, "F"] for kernel in ("FT", "LoRA"))
    apart = float(np.abs(tuned.cumulative - adapted.cumulative).max())
    ratio = tuned.frobenius / adapted.frobenius if adapted.frobenius else float("nan")
    return (
        f"{where}: the cumulative shares of the singular values of F for FT and for LoRA differ by at most "
        f"{100 * apart:.1f} points; ||F|| of FT is {shown(ratio)} times that of LoRA."
    )
