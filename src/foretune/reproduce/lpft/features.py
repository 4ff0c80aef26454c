"""The feature table of LP-FT: does probing first spare the features? (Tomihari and Sato 2024, Features (F) analysis)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from foretune.page import Page, Table
from foretune.reproduce.lpft.measures import (
    AUTHORS,
    MEASURED,
    METHODS,
    SOURCE,
    Measures,
    finished,
    head_cell,
    method_grid,
    pretrained_measures,
    run_measures,
)
from foretune.reproduce.lpft.notes import TASKS, head_notes, one_seed_note, poster_table
from foretune.reproduce.recipe import Defaults, Recipe, Study

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

Measured = Mapping[tuple[str, str], Sequence[Measures]]
"""(Task, row of the table) -> one measurement a seed."""


class Features(Recipe):
    """CS, Diff and FDR of features, and norms of the classifier, for each method."""

    name: ClassVar[str] = "lpft-features"
    title: ClassVar[str] = "changes of features and classifier norms: FT, LoRA, and both after linear probing"
    source: ClassVar[str] = f"{SOURCE}, table of features (F) and classifier norms (C)"
    defaults: ClassVar[Defaults] = Defaults("minilm", TASKS, ks=(64,))

    def page(self, study: Study) -> Page:
        """One table for each k, and the poster's own."""
        tables, findings = [], []
        for k in study.ks:
            found = measured_rows(study, k)
            shots = f", k = {k}" if len(study.ks) > 1 else ""
            tables.append(_table(study, found, f"Mean over {len(study.seeds)} seed(s){shots}"))
            findings += [f"{line[:-1]}{shots}." for line in smaller_changes(found, study.tasks)]
        measured = (
            f"Features are those of at most {MEASURED} test examples; FDR has a ridge of 1e-6 tr(S_W) / i, because the "
            "poster gives no formula: compare its ratios within this table only. Norm(C) is the Frobenius norm of the "
            "classifier, as on the poster; the mean norm of its rows stands beside it."
        )
        notes = (*head_notes(self, study), measured, *one_seed_note(study))
        tables += poster_table("features", study.tasks, tuple(COLUMNS))
        return Page(f"{AUTHORS}: {self.title}", notes, tuple(tables), findings=tuple(findings))


def measured_rows(study: Study, k: int) -> Measured:
    """All rows of the table for all tasks."""
    found: dict[tuple[str, str], list[Measures]] = {}
    for task in study.tasks:
        for seed in study.seeds:
            cell = head_cell(study, task, k, seed)
            found.setdefault((task, PRETRAINED), []).append(pretrained_measures(cell))
            for name, method in METHODS.items():
                measures = run_measures(cell, method, method_grid(study.budget, method))
                found.setdefault((task, name), []).append(measures)
    return found


def mean(measures: Sequence[Measures], name: str) -> float:
    """The mean of a measure over the seeds whose runs did not fail; not a number where all did."""
    values = [getattr(one, name) for one in finished(measures)]
    return float(np.mean(values)) if values else float("nan")


def shown(value: float) -> str:
    """Three digits, as the poster has them; a dash for what is not a number."""
    return "-" if np.isnan(value) else f"{value:.3g}"


def _table(study: Study, found: Measured, caption: str) -> Table:
    rows = []
    for name in (PRETRAINED, *METHODS):
        row = [name]
        for task in study.tasks:
            values = {column: mean(found[task, name], field) for column, field in (COLUMNS | _ROW_NORM).items()}
            if name in (PRETRAINED, "LP"):
                values["Diff(F)"] = float("nan")  # the features are the pretrained ones
            row += [shown(value) for value in values.values()]
        rows.append(tuple(row))
    failed = sum(one.failure is not None for measures in found.values() for one in measures)
    what = f"{caption}; {failed} run(s) failed and are left out" if failed else caption
    header = ("Method", *(f"{task}: {column}" for task in study.tasks for column in (*COLUMNS, *_ROW_NORM)))
    return Table(header, tuple(rows), what)


def _difference(probed: Sequence[Measures], plain: Sequence[Measures]) -> str:
    """The mean difference over seeds with its 95% interval by Student's t, or that there is none."""
    from scipy import stats

    pairs = [a.difference - b.difference for a, b in zip(probed, plain, strict=True) if not (a.failure or b.failure)]
    if len(pairs) < 2:
        return " (one seed: no interval)"
    half = float(stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / np.sqrt(len(pairs)))
    low, high = np.mean(pairs) - half, np.mean(pairs) + half
    verdict = "" if low > 0 or high < 0 else ", which does not tell them apart"
    return f" (difference {np.mean(pairs):+.3g}, 95% interval {low:.3g} to {high:.3g} over {len(pairs)} seeds{verdict})"


def smaller_changes(found: Measured, tasks: Sequence[str]) -> list[str]:
    """Whether probing first made the features move less, for each task."""
    lines = []
    for task in tasks:
        for probed, plain in _PAIRS:
            first, second = (mean(found[task, name], "difference") for name in (probed, plain))
            if not np.isfinite([first, second]).all():
                continue
            word = "less" if first < second else "no less" if first == second else "more"
            norms = [shown(mean(found[task, name], "norm")) for name in (probed, plain)]
            lines.append(
                f"{probed} changes features {word} than {plain} on {task}: Diff {shown(first)} against {shown(second)}"
                f"{_difference(found[task, probed], found[task, plain])}, with classifier norms {norms[0]} against "
                f"{norms[1]}."
            )
    return lines
