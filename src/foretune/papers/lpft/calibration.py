"""Calibration with and without temperature scaling (Tomihari and Sato 2024, Temperature scaling at test time)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from foretune.analysis.calibration import BINS
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.page import Curve, Figure, Quantity, Table, mean_and_spread
from foretune.papers.lpft.measures import SOURCE, Bins, ByMethod, Measures, method_grids, method_measures
from foretune.papers.lpft.page import HeadPage
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Study
from foretune.papers.sections import Section, TaskGroup
from foretune.shapes import Float64

ERRORS = ("ECE", "MCE")
ROWS = ("FT", "LP-FT", "LoRA", "LP-LoRA")
_HEADER = ("Metric (%)", "Method", "w/o TS", "w/ TS", "Imp.")


class Calibrations(HeadPage[ByMethod]):
    """ECE and MCE of FT, LoRA, and both after linear probing, before and after temperature scaling."""

    name: ClassVar[str] = "lpft-calibration"
    title: ClassVar[str] = "calibration errors without and with temperature scaling (TS)"
    source: ClassVar[str] = f"{SOURCE}, table of ECE and MCE"

    def measure(self, study: Study, cells: Sequence[Experiment]) -> ByMethod:
        """What is measured of the four methods."""
        return method_measures(cells, study.budget, ROWS)

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The runs of the four methods."""
        return StudyWork(method_grids(study.budget, ROWS))

    def section(self, study: Study, group: TaskGroup[ByMethod]) -> Section:
        """One table and a reliability diagram of each method."""
        caption = f"{group.where}: mean (sd) over {len(study.seeds)} seed(s)"
        figures = tuple(figure for name in ROWS if (figure := _diagram(group, name)) is not None)
        return Section((_table(group.found, caption),), figures, tuple(_findings(group.found, group.where)))

    def remarks(self, study: Study, groups: Sequence[TaskGroup[ByMethod]]) -> tuple[str, ...]:
        """How the errors are made, and how many runs have no temperature."""
        limits = sum(one.separated for group in groups for measures in group.found.values() for one in measures)
        method = (
            f"{BINS} bins by the probability of the predicted class, on all test examples. The temperature minimises the "
            "cross-entropy on the validation examples, which also chose the checkpoint. The diagrams pool the seeds."
        )
        at_limit = f"{limits} run(s) have every validation example right, or a temperature at the limit of its search."
        return (method, *((at_limit,) if limits else ()))

    def printed(self, study: Study) -> Sequence[Table]:
        """The poster's table."""
        return (_poster(),)


def _errors(measures: Sequence[Measures], error: str) -> list[tuple[float, ...]]:
    """(Without, with) scaling for each seed; not numbers for a run that failed."""
    return [
        tuple(float("nan") if bins is None else getattr(bins, error.lower()) for bins in (one.without, one.scaled))
        for one in measures
    ]


def _table(found: ByMethod, caption: str) -> Table:
    rows = []
    for error in ERRORS:
        for name in ROWS:
            pairs = _errors(found[name], error)
            columns = ([a for a, _ in pairs], [b for _, b in pairs], [a - b for a, b in pairs])
            rows.append((error, name, *(mean_and_spread(values, digits=2) for values in columns)))
    return Table(_HEADER, tuple(rows), caption)


def _diagram(group: TaskGroup[ByMethod], name: str) -> Figure | None:
    """The reliability diagram of a method, without and with scaling; None where all runs failed."""
    done = [one for one in group.found[name] if one.without is not None and one.scaled is not None]
    if not done:
        return None
    curves = tuple(
        Curve(f"{name} {label}", *_pooled([bins for one in done if (bins := getattr(one, part)) is not None]))
        for label, part in (("w/o TS", "without"), ("w/ TS", "scaled"))
    )
    return Figure(
        f"reliability-{group.name}-{name.lower()}",
        f"Reliability of {name} on {group.where}",
        "confidence",
        "accuracy",
        curves,
        diagonal=True,
    )


def _pooled(bins: Sequence[Bins]) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Accuracy and confidence of the bins that have examples, over all runs."""
    count = np.array([one.count for one in bins], dtype=float)  # (runs, bins)
    total = count.sum(0)
    used = total > 0
    accuracy, confidence = (
        (np.nan_to_num(np.array([getattr(one, name) for one in bins], dtype=float)) * count).sum(0)[used] / total[used]
        for name in ("accuracy", "confidence")
    )
    return accuracy, confidence


def _findings(found: ByMethod, where: str) -> list[str]:
    lines = []
    for error in ERRORS:
        finite = {
            name: [pair for pair in _errors(measures, error) if np.isfinite(pair).all()]
            for name, measures in found.items()
        }
        means = {name: 100 * np.mean(pairs, axis=0) for name, pairs in finite.items() if pairs}
        if not means:
            continue
        better = [name for name, (without, scaled) in means.items() if scaled < without]
        line = f"{where}: temperature scaling lowers the {error} of {len(better)} of {len(means)} methods"
        if better:
            most = max(better, key=lambda name: means[name][0] - means[name][1])
            line += f"; {most} gains most, from {means[most][0]:.1f}% to {means[most][1]:.1f}%"
        lines.append(f"{line}.")
    return lines


def _poster() -> Table:
    printed = printed_figures("tomihari")["calibration"]
    rows = tuple(
        (error, name, *(Quantity(value, ".2f") for value in printed[error][name])) for error in ERRORS for name in ROWS
    )
    return Table(_HEADER, rows, "The poster's own figures, of its model on full data; it does not name the task")
