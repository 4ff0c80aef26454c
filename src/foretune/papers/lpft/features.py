"""The feature table of LP-FT: does probing first spare the features? (Tomihari and Sato 2024, Features (F) analysis)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.page import Table
from foretune.papers.lpft.measures import (
    MEASURED,
    METHODS,
    SOURCE,
    ByMethod,
    Measures,
    finished_mean,
    method_grids,
    method_measures,
    pretrained_measures,
)
from foretune.papers.lpft.page import HeadPage, one_seed_note, poster_table, three_digits
from foretune.papers.recipe import Study
from foretune.papers.sections import Section, TaskGroup

PRETRAINED = "Pre-trained"
COLUMNS: dict[str, str] = {
    "CS(F)": "similarity",
    "Diff(F)": "difference",
    "FDR(F)": "fisher",
    "Norm(C)": "norm",
}
"""The poster's columns; Norm(C) is the Frobenius norm of the classifier."""
_ROW_NORM = {"row norm": "row_norm"}
_PAIRS = (("LP-FT", "FT"), ("LP-LoRA", "LoRA"))


class Features(HeadPage[ByMethod]):
    """CS, Diff and FDR of features, and norms of the classifier, for each method."""

    name: ClassVar[str] = "lpft-features"
    title: ClassVar[str] = "changes of features and classifier norms: FT, LoRA, and both after linear probing"
    source: ClassVar[str] = f"{SOURCE}, table of features (F) and classifier norms (C)"

    def measure(self, study: Study, cells: Sequence[Experiment]) -> ByMethod:
        """What is measured of the pretrained model and of every method."""
        return {
            PRETRAINED: [pretrained_measures(cell) for cell in cells],
            **method_measures(cells, study.budget),
        }

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The runs of all methods."""
        return StudyWork(method_grids(study.budget))

    def sections(self, study: Study, groups: Sequence[TaskGroup[ByMethod]]) -> list[Section]:
        """One table for each k, with all tasks side by side as on the poster."""
        return [self._at(study, k, [group for group in groups if group.k == k]) for k in study.ks]

    def _at(self, study: Study, k: int, groups: Sequence[TaskGroup[ByMethod]]) -> Section:
        shots = f", k = {k}" if len(study.ks) > 1 else ""
        table = _table(groups, f"Mean over {len(study.seeds)} seed(s){shots}")
        return Section(
            (table,), (), tuple(f"{line[:-1]}{shots}." for group in groups for line in smaller_changes(group))
        )

    def remarks(self, study: Study, groups: Sequence[TaskGroup[ByMethod]]) -> tuple[str, ...]:
        """On which examples, and what the poster leaves open."""
        measured = (
            f"Features are those of at most {MEASURED} test examples; FDR has a ridge of 1e-6 tr(S_W) / i, because the "
            "poster gives no formula: compare its ratios within this table only. Norm(C) is the Frobenius norm of the "
            "classifier, as on the poster; the mean norm of its rows stands beside it."
        )
        return (measured, *one_seed_note(study))

    def printed(self, study: Study) -> Sequence[Table]:
        """The poster's table of these tasks."""
        return poster_table("features", study.tasks, tuple(COLUMNS))


def _table(groups: Sequence[TaskGroup[ByMethod]], caption: str) -> Table:
    rows = []
    for name in (PRETRAINED, *METHODS):
        row = [name]
        for group in groups:
            values = {title: finished_mean(group.found[name], field) for title, field in (COLUMNS | _ROW_NORM).items()}
            if name in (PRETRAINED, "LP"):
                values["Diff(F)"] = float("nan")  # the features are the pretrained ones
            row += [three_digits(value) for value in values.values()]
        rows.append(tuple(row))
    failed = sum(one.failure is not None for group in groups for measures in group.found.values() for one in measures)
    what = f"{caption}; {failed} run(s) failed and are left out" if failed else caption
    header = ("Method", *(f"{group.task}: {column}" for group in groups for column in (*COLUMNS, *_ROW_NORM)))
    return Table(header, tuple(rows), what)


def _difference(probed: Sequence[Measures], plain: Sequence[Measures]) -> str:
    """The mean difference over seeds with its 95% interval by Student's t, or that there is none."""
    from scipy import stats

    pairs = [a.difference - b.difference for a, b in zip(probed, plain, strict=True) if not (a.failure or b.failure)]
    if len(pairs) < 2:
        return " (one seed: no interval)"
    low, high = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    verdict = "" if low > 0 or high < 0 else ", not significant"
    return f" (difference {np.mean(pairs):+.3g}, 95% interval {low:.3g} to {high:.3g} over {len(pairs)} seeds{verdict})"


def smaller_changes(group: TaskGroup[ByMethod]) -> list[str]:
    """Whether probing first made the features move less."""
    lines = []
    for probed, plain in _PAIRS:
        first, second = (finished_mean(group.found[name], "difference") for name in (probed, plain))
        if not np.isfinite([first, second]).all():
            continue
        word = "less" if first < second else "no less" if first == second else "more"
        norms = [three_digits(finished_mean(group.found[name], "norm")) for name in (probed, plain)]
        lines.append(
            f"{probed} changes features {word} than {plain} on {group.task}: Diff {three_digits(first)} against "
            f"{three_digits(second)}{_difference(group.found[probed], group.found[plain])}, with classifier norms "
            f"{norms[0]} against {norms[1]}."
        )
    return lines
