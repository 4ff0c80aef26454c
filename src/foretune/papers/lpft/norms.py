"""Classifier norms: how training moves them, and what they do to the kernel and to features.

Tomihari and Sato 2024, "Increase in classifier norms": figures of the norms after training and against the change of
features; the split f_FT - f_0 = eta sum_i (P + F) delta_i, in which F grows with the square of the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.page import Curve, Figure, Table
from foretune.papers.lpft.kernels import EXAMPLES, Spectra, missing_spectra, pretrained_spectra, probed_spectra
from foretune.papers.lpft.measures import (
    MEASURED,
    SOURCE,
    ByMethod,
    finished,
    finished_mean,
    method_grids,
    method_measures,
    pretrained_measures,
)
from foretune.papers.lpft.page import HeadPage, one_seed_note, three_digits
from foretune.papers.lpft.slopes import (
    RowSlopes,
    pretrained_slopes,
    probed_slopes,
    slopes_finding,
    slopes_table,
)
from foretune.papers.recipe import Study
from foretune.papers.sections import Section, TaskGroup

_HEADER = ("Kernel", "||P|| before", "||F|| before", "F's share", "||P|| after LP", "||F|| after LP", "F's share after")


@dataclass(frozen=True)
class Growth:
    """What is measured for one task at one k.

    Attributes:
        runs: measures of the runs of every method.
        before: kernels with the random classifier, of the seeds whose linear probing did not fail.
        after: kernels after linear probing, of the same seeds.
        start: mean Norm(C) of the random classifier, of the same seeds.
        labels: names of the classes.
        slopes_before: derivatives by the norms of the random classifier's rows, of the same seeds.
        slopes_after: the derivatives after linear probing.
    """

    runs: ByMethod
    before: Sequence[Spectra]
    after: Sequence[Spectra]
    start: float
    labels: Sequence[str]
    slopes_before: Sequence[RowSlopes]
    slopes_after: Sequence[RowSlopes]


class Norms(HeadPage[Growth]):
    """Classifier norms along training and against feature changes, and the two parts of the kernel."""

    name: ClassVar[str] = "lpft-norms"
    title: ClassVar[str] = "classifier norms, feature changes, and the two parts of the kernel"
    source: ClassVar[str] = f"{SOURCE}, figures of classifier norms"

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Growth:
        """The runs of all methods, and the kernels before and after linear probing."""
        runs = method_measures(cells, study.budget)
        probed = [cell for cell, run in zip(cells, runs["LP"], strict=True) if run.failure is None]
        return Growth(
            runs,
            before=[pretrained_spectra(cell) for cell in probed],
            after=[probed_spectra(cell, study.budget) for cell in probed],
            start=finished_mean([pretrained_measures(cell) for cell in probed], "norm"),
            labels=cells[0].task.labels,
            slopes_before=[pretrained_slopes(cell) for cell in probed],
            slopes_after=[probed_slopes(cell, study.budget) for cell in probed],
        )

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The runs of all methods, and the kernels before and after linear probing."""
        return StudyWork(method_grids(study.budget), missing_spectra(cell, study.budget))

    def section(self, study: Study, group: TaskGroup[Growth]) -> Section:
        """Two figures and two tables."""
        found, where = group.found, group.where
        on = f"on at most {MEASURED} training examples"
        slopes = f"{where}: rows of the classifier and dL/d||v|| (nats per unit of norm) {on}"
        known = bool(found.slopes_before)
        caption = f"{where}: Frobenius norms on at most {EXAMPLES} training examples"
        return Section(
            (
                _table(found.before, found.after, caption),
                *([slopes_table(found.labels, found.slopes_before, found.slopes_after, slopes)] if known else []),
            ),
            (_along(found.runs, group), _against(found.runs, group)),
            (
                *_growth_findings(found.runs, where),
                *_kernel_findings(found, where),
                *_change_findings(found.runs, where),
                *([slopes_finding(found.slopes_before, where)] if known else []),
            ),
        )

    def remarks(self, study: Study, groups: Sequence[TaskGroup[Growth]]) -> tuple[str, ...]:
        """What the curves and points are."""
        return (
            *one_seed_note(study),
            "A classifier's norm is its Frobenius norm, Norm(C). Curves are means over seeds; LP-FT and LP-LoRA show both "
            "stages, the second from the best checkpoint of the first. Points are single runs, on the test examples.",
            "dL/d||v|| is the derivative of the mean cross-entropy by the norm of a class's row, its direction kept: where "
            "it is negative, gradient descent makes the row longer.",
        )


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
        rows.append((kernel, *map(three_digits, values)))
    return Table(_HEADER, tuple(rows), caption)


def _along(runs: ByMethod, group: TaskGroup[Growth]) -> Figure:
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
        f"norms-{group.name}",
        f"Classifier norms along training on {group.where}",
        "steps",
        "Norm(C), the Frobenius norm of the classifier",
        tuple(curves),
    )


def _against(runs: ByMethod, group: TaskGroup[Growth]) -> Figure:
    curves = []
    for name, measures in runs.items():
        done = finished(measures)
        if done and name != "LP":  # which leaves features as they are
            norms, changes = (np.array([getattr(one, field) for one in done]) for field in ("norm", "difference"))
            curves.append(Curve(name, changes, norms))
    return Figure(
        f"norms-against-changes-{group.name}",
        f"Classifier norm and change of features on {group.where}",
        "Norm(C), the Frobenius norm of the classifier",
        "Diff(F)",
        tuple(curves),
        points=True,
    )


def _kernel_findings(found: Growth, where: str) -> list[str]:
    if not found.after:
        return []
    growth = {kernel: _norms(found.after, kernel)[1] / _norms(found.before, kernel)[1] for kernel in ("FT", "LoRA")}
    start, probed = found.start, finished_mean(found.runs["LP"], "norm")
    square, tuned, adapted = map(three_digits, ((probed / start) ** 2, growth["FT"], growth["LoRA"]))
    return [
        f"{where}: linear probing takes the classifier's norm from {three_digits(start)} to {three_digits(probed)} (its "
        f"square times {square}) and multiplies ||F|| by {tuned} for FT and by {adapted} for LoRA."
    ]


def _growth_findings(runs: ByMethod, where: str) -> list[str]:
    """Which methods made the classifier longer, from the first step to the chosen checkpoint."""
    done = {name: finished(measures) for name, measures in runs.items()}
    growth = {
        name: finished_mean(measures, "norm") / float(np.mean([one.norms[0] for one in measures]))
        for name, measures in done.items()
        if measures
    }
    if not growth:
        return []
    longer = [name for name, factor in growth.items() if factor > 1]
    most = max(growth, key=lambda name: growth[name])
    return [
        f"{where}: the classifier's norm grows in {len(longer)} of {len(growth)} methods; most in {most}, times "
        f"{three_digits(growth[most])}."
    ]


def _change_findings(runs: ByMethod, where: str) -> list[str]:
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
