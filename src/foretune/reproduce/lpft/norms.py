"""Classifier norms: how training moves them, and what they do to the kernel and to features.

Tomihari and Sato 2024, "Increase in classifier norms": figures of the norms after training and against the change of
features; the split f_FT - f_0 = eta sum_i (P + F) delta_i, in which F grows with the square of the norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from foretune.page import Curve, Figure, Page, Table
from foretune.reproduce.lpft.features import mean, shown
from foretune.reproduce.lpft.kernels import EXAMPLES, Spectra, pretrained_spectra, probed_spectra
from foretune.reproduce.lpft.measures import (
    AUTHORS,
    SOURCE,
    Measures,
    finished,
    head_cell,
    method_measures,
    pretrained_measures,
)
from foretune.reproduce.lpft.notes import TASKS, head_notes, one_seed_note
from foretune.reproduce.recipe import Defaults, Recipe, Study

_HEADER = ("Kernel", "||P|| before", "||F|| before", "F's share", "||P|| after LP", "||F|| after LP", "F's share after")


class Norms(Recipe):
    """Classifier norms along training and against feature changes, and the two parts of the kernel."""

    name: ClassVar[str] = "lpft-norms"
    title: ClassVar[str] = "classifier norms, feature changes, and the two parts of the kernel"
    source: ClassVar[str] = f"{SOURCE}, figures of classifier norms"
    defaults: ClassVar[Defaults] = Defaults("minilm", TASKS, ks=(64,))

    def page(self, study: Study) -> Page:
        """Two figures and a table for each task and k."""
        tables: list[Table] = []
        figures: list[Figure] = []
        findings: list[str] = []
        for task in study.tasks:
            for k in study.ks:
                where = f"{task}, k = {k}"
                cells = [head_cell(study, task, k, seed) for seed in study.seeds]
                runs = method_measures(cells, study.budget)
                probed = [cell for cell, run in zip(cells, runs["LP"], strict=True) if run.failure is None]
                before = [pretrained_spectra(cell) for cell in probed]
                after = [probed_spectra(cell, study.budget) for cell in probed]
                start = mean([pretrained_measures(cell) for cell in probed], "norm")
                tables.append(
                    _table(before, after, f"{where}: Frobenius norms on at most {EXAMPLES} training examples")
                )
                figures += [_along(runs, task, k), _against(runs, task, k)]
                findings += [
                    *_growth_findings(runs, where),
                    *_kernel_findings(before, after, start, mean(runs["LP"], "norm"), where),
                    *_change_findings(runs, where),
                ]
        notes = (
            *head_notes(self, study),
            *one_seed_note(study),
            "A classifier's norm is its Frobenius norm, Norm(C). Curves are means over seeds; LP-FT and LP-LoRA show both "
            "stages, the second from the best checkpoint of the first. Points are single runs, on the test examples.",
        )
        return Page(f"{AUTHORS}: {self.title}", notes, tuple(tables), tuple(figures), tuple(findings))


def _norms(spectra: Sequence[Spectra], kernel: str) -> tuple[float, float, float]:
    """Mean ||P|| and ||F||, and the mean share ||F|| / (||P|| + ||F||)."""
    if not spectra:
        return float("nan"), float("nan"), float("nan")
    pairs = np.array([[one[kernel, part].frobenius for part in ("P", "F")] for one in spectra])  # (seeds, 2)
    p, f = pairs.mean(0)
    return float(p), float(f), float((pairs[:, 1] / pairs.sum(1)).mean())


def _table(before: Sequence[Spectra], after: Sequence[Spectra], caption: str) -> Table:
    rows = []
    for kernel in ("FT", "LoRA"):
        values = [*_norms(before, kernel), *_norms(after, kernel)]
        rows.append((kernel, *map(shown, values)))
    return Table(_HEADER, tuple(rows), caption)


def _along(runs: Mapping[str, list[Measures]], task: str, k: int) -> Figure:
    curves = []
    for name, measures in runs.items():
        done = finished(measures)
        if done:
            shortest = min(len(one.steps) for one in done)  # the first stage ends at the checkpoint of each seed
            steps, norms = (
                np.mean([getattr(one, field)[-shortest:] for one in done], axis=0) for field in ("steps", "norms")
            )
            curves.append(Curve(name, norms, steps))
    return Figure(
        f"norms-{task}-k{k}",
        f"Classifier norms along training on {task}, k = {k}",
        "steps",
        "Norm(C), the Frobenius norm of the classifier",
        tuple(curves),
    )


def _against(runs: Mapping[str, list[Measures]], task: str, k: int) -> Figure:
    curves = []
    for name, measures in runs.items():
        done = finished(measures)
        if done and name != "LP":  # which leaves features as they are
            norms, changes = (np.array([getattr(one, field) for one in done]) for field in ("norm", "difference"))
            curves.append(Curve(name, changes, norms))
    return Figure(
        f"norms-against-changes-{task}-k{k}",
        f"Classifier norm and change of features on {task}, k = {k}",
        "Norm(C), the Frobenius norm of the classifier",
        "Diff(F)",
        tuple(curves),
        points=True,
    )


def _kernel_findings(
    before: Sequence[Spectra], after: Sequence[Spectra], start: float, probed: float, where: str
) -> list[str]:
    if not after:
        return []
    growth = {kernel: _norms(after, kernel)[1] / _norms(before, kernel)[1] for kernel in ("FT", "LoRA")}
    return [
        f"{where}: linear probing takes the classifier's norm from {shown(start)} to {shown(probed)} (its square times "
        f"{shown((probed / start) ** 2)}) and multiplies ||F|| by {shown(growth['FT'])} for FT and by "
        f"{shown(growth['LoRA'])} for LoRA."
    ]


def _growth_findings(runs: Mapping[str, list[Measures]], where: str) -> list[str]:
    """Which methods made the classifier longer, from the first step to the chosen checkpoint."""
    done = {name: finished(measures) for name, measures in runs.items()}
    growth = {
        name: mean(measures, "norm") / float(np.mean([one.norms[0] for one in measures]))
        for name, measures in done.items()
        if measures
    }
    if not growth:
        return []
    longer = [name for name, factor in growth.items() if factor > 1]
    most = max(growth, key=lambda name: growth[name])
    return [
        f"{where}: the classifier's norm grows in {len(longer)} of {len(growth)} methods; most in {most}, times "
        f"{shown(growth[most])}."
    ]


def _change_findings(runs: Mapping[str, list[Measures]], where: str) -> list[str]:
    from scipy.stats import spearmanr

    points = [
        (one.norm, one.difference) for name, measures in runs.items() for one in finished(measures) if name != "LP"
    ]
    if min((len(set(values)) for values in zip(*points, strict=True)), default=0) < 3:
        return []
    found: Any = spearmanr(np.array(points))
    return [
        f"{where}: over {len(points)} runs the rank correlation of the classifier's norm and the change of features is "
        f"{found.statistic:.2f}{_interval(found.statistic, len(points))}."
    ]


def _interval(correlation: float, n: int) -> str:
    """The 95% interval by Fisher's transformation with the variance of Bonett and Wright 2000; none of few points."""
    least = 5
    if n < least or abs(correlation) >= 1:
        return f" ({n} runs: no interval)"
    half = 1.96 * np.sqrt((1 + correlation**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(correlation) + np.array([-half, half]))
    return f" (95% interval {low:.2f} to {high:.2f})"
