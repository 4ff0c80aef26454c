"""One number for every row, task and seed of a table of Malladi et al. 2023, and the table in the paper's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretune.experiment.experiment import Experiment, load_experiment
from foretune.experiment.setting import PROMPT
from foretune.page import Curve, Figure, Quantity, Table, mean_and_spread
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Defaults, Study
from foretune.text.builtin import load_task

PAPER = "malladi"
METRIC_TITLES = {"f1": "F1", "matthews": "Matthews"}
MODEL = "RoBERTa-base"
"""Of the paper, in all tables but 5."""


@dataclass(frozen=True)
class WayToAsk:
    """How a cell asks the model.

    Attributes:
        name: what stands before the name of a row; may be empty.
        output: what answers, see `Question.answered_by`.
        prompt, pooling, first_piece: see `Question`.
    """

    name: str = ""
    output: str = PROMPT
    prompt: str | None = None
    pooling: str = "mean"
    first_piece: bool = False

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of `Study.cell` that it determines."""
        return {"output": self.output, "prompt": self.prompt, "pooling": self.pooling, "first_piece": self.first_piece}

    def row(self, name: str) -> str:
        """The name of a row that is measured so."""
        return f"{self.name}, {name}" if self.name else name

    def known(self, task: str) -> bool:
        """Whether a task has this prompt."""
        return self.prompt is None or self.prompt in load_task(task).prompts


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes:
        values: row -> task -> one number per seed; none where a task has no such row.
        k: examples per label.
    """

    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    k: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(next(iter(self.values.values())))

    def mean(self, row: str, task: str) -> float:
        """The mean over the seeds that did not fail; not a number where there is none."""
        finite = [value for value in self.values[row][task] if np.isfinite(value)]
        return float(np.mean(finite)) if finite else float("nan")

    def median(self, row: str, task: str) -> float:
        """The median over the seeds that did not fail; not a number where there is none."""
        finite = [value for value in self.values[row][task] if np.isfinite(value)]
        return float(np.median(finite)) if finite else float("nan")


def score_figure(name: str, heading: str, rows: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> Figure:
    """Scores of some rows beside each other, task by task.

    Args:
        name: of the file.
        heading: above the picture.
        rows: name -> a score between 0 and 1 for each task; one that is not a number has no point.
        tasks: in order.
    """
    curves = tuple(Curve(row, 100 * np.array(values, dtype=float)) for row, values in rows.items())
    ticks = tuple(map(measured_title, tasks))
    return Figure(name, heading, "task", "test score (%)", curves, points=True, ticks=ticks)


@dataclass(frozen=True)
class PrintedLayout:
    """How numbers are written, and where the paper prints its own.

    Attributes:
        table: number of the table in the paper.
        scale, digits: see `mean_and_spread`.
        corner: heading of the first column.
        by_metric: scores are in the metric of each task, which a heading names where it is not accuracy.
    """

    table: int
    scale: float = 100.0
    digits: int = 1
    corner: str = "Method"
    by_metric: bool = True

    def drawn(self, scores: Scores, caption: str, *, beside: bool) -> Table:
        """Rows as in the paper, each with the paper's own figures below it where the model is the same."""
        printed = self.printed(scores.k) if beside else {}
        rows = []
        for row, values in scores.values.items():
            rows.append((row, *(mean_and_spread(found, self.scale, self.digits) for found in values.values())))
            if row in printed:
                rows.append((f"paper: {row}", *(printed[row].get(task, "-") for task in values)))
        return Table(
            (self.corner, *map(measured_title if self.by_metric else title, scores.tasks)), tuple(rows), caption
        )

    def printed(self, k: int) -> Mapping[str, Mapping[str, Quantity]]:
        """Row -> task -> cell: the paper's figures at k, and those of the model before training."""
        tables = printed_figures(PAPER)["tables"][self.table]
        return {
            row: {task: self._cell(*figures) for task, figures in tasks.items()}
            for at in (0, k)
            for row, tasks in tables.get(at, {}).items()
        }

    def _cell(self, mean: float, spread: float | None = None) -> Quantity:
        return Quantity(mean, f".{self.digits}f", "" if spread is None else f"({spread:.{self.digits}f})")


def measured_scores(
    study: Study,
    k: int,
    rows: Sequence[str],
    measure: Callable[[Experiment], Mapping[str, float]],
    asked: Sequence[WayToAsk] = (WayToAsk(),),
) -> Scores:
    """The numbers of all tasks and seeds at one k.

    Args:
        study: tasks, seeds and data.
        k: examples per label.
        rows: names of what `measure` gives.
        measure: the numbers of one cell by row.
        asked: ways to ask; each has all rows.
    """
    values: dict[str, dict[str, tuple[float, ...]]] = {each.row(row): {} for each in asked for row in rows}
    for task in study.tasks:
        for each in asked:
            seeds = study.seeds if each.known(task) else ()
            found = [measure(study.cell(task, k, seed, **each.how)) for seed in seeds]
            for row in rows:
                values[each.row(row)][task] = tuple(numbers[row] for numbers in found)
    return Scores(values, k)


def words_in_pieces(study: Study, asked: Sequence[WayToAsk] = (WayToAsk(),)) -> tuple[str, ...]:
    """See that every task has its data, its prompts and their words, before hours of training.

    Returns:
        What a page says of words that answer with their first piece; empty where all are one token.

    Raises:
        UsageError, DataError, ModelError: see `load_experiment`.
    """
    found: list[str] = []
    for task in study.tasks:
        for each in asked:
            if each.output != PROMPT or not each.known(task):
                continue
            setting = study.setting(task, max(study.ks), study.seeds[0], **each.how)
            outputs: Any = load_experiment(setting, study.lm).outputs
            found += [f"{word!r} by {piece!r} ({each.row(title(task))})" for word, piece in outputs.pieces.items()]
    pieces = list(dict.fromkeys(found))
    return (f"Words of several tokens answer with their first piece: {', '.join(pieces)}.",) if pieces else ()


def title(task: str) -> str:
    """The paper's name of a task."""
    return printed_figures(PAPER)["titles"].get(task, task)


def measured_title(task: str) -> str:
    """The paper's name of a task, with its metric where that is not accuracy."""
    metric = METRIC_TITLES.get(load_task(task).metric)
    return title(task) if metric is None else f"{title(task)} ({metric})"


def own_model(study: Study, *others: str) -> bool:
    """Whether the model is the paper's, by the last part of its name."""
    return Path(study.lm.name).name.lower() in {name.lower() for name in (MODEL, *others)}


def difference_notes(study: Study, paper: Defaults, source: str, *models: str) -> tuple[str, ...]:
    """What a page says on top: where it comes from, the settings, and what differs from the paper.

    Args:
        study: the settings.
        paper: the paper's.
        source: paper and table.
        models: of the paper, besides RoBERTa-base.
    """
    found = ["examples are sampled otherwise"]
    if not own_model(study, *models):
        found.append(f"the model is {study.lm.name} ({' and '.join((MODEL, *models))} there; its figures are left out)")
    if study.ks != paper.ks:
        found.append(f"k = {', '.join(map(str, study.ks))} ({', '.join(map(str, paper.ks))} there)")
    if len(study.seeds) != len(paper.seeds):
        found.append(f"{len(study.seeds)} seed(s) ({len(paper.seeds)} there)")
    if study.test != paper.test:
        found.append(f"at most {study.test} test examples ({paper.test} there)")
    if missing := [title(task) for task in paper.tasks if task not in study.tasks]:
        found.append(f"without {', '.join(missing)}")
    beside = ("Rows that begin with `paper:` are printed there.",) if own_model(study, *models) else ()
    return (f"Source: {source}.", *study.notes, f"What differs from it: {'; '.join(found)}.", *beside)
