"""What pages say of labels: suspicious rows, contradictions and the learning curve as facts, tables and a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretune.labelling.budget import BudgetPoint, LabelBudget
from foretune.labelling.rows import Row
from foretune.labelling.suspicious import SuspiciousRow
from foretune.labelling.twins import Twins
from foretune.page import Cell, Column, Curve, Fact, Figure, Span, Table

_SHOWN, _LISTED = 5, 50
_TEXT = 60
_LITTLE = 0.05
"""Agreement less the most frequent label's share, below which the rows say little about each other's labels."""


def says_little(agreement: float, majority: float) -> bool:
    """Whether the rows say so little of each other's labels that a ranking by them is hardly better than chance.

    Args:
        agreement: share of the rows whose given label is the one that the others make the most likely, 0 to 1.
        majority: share of the most frequent label.
    """
    return agreement - majority < _LITTLE


def suspicious_table(rows: Sequence[SuspiciousRow], *, details: bool = False) -> Table:
    """Rows by suspicion, the first of them; `details` keeps it out of a short screen."""
    several = len({row.source for row in rows}) > 1
    columns = (
        *((Column("file", words=True),) if several else ()),
        Column("row", "d"),
        Column("given", words=True),
        Column("likely", words=True),
        Column("wrong with", ".0%"),
        Column("text", words=True),
    )
    shown: list[tuple[Cell, ...]] = [
        (
            *((row.source,) if several else ()),
            row.row,
            row.label,
            row.likely,
            row.probability,
            short_text(row),
        )
        for row in rows[:_LISTED]
    ]
    few = tuple(range(min(_SHOWN, len(shown))))
    return Table(columns, tuple(shown), "The most suspicious labels", few=few, details=details)


def twin_tables(twins: Sequence[Twins], *, details: bool = False) -> tuple[Table, ...]:
    """Rows that contradict each other; none where no rows do."""
    if not twins:
        return ()
    columns = (
        Column("rows", words=True),
        Column("labels", words=True),
        Column("the same", ".0%"),
        Column("text", words=True),
    )
    rows = tuple(
        (
            f"{pair.first.row}, {pair.second.row}",
            f"{pair.first.label}, {pair.second.label}",
            1.0 if pair.same else pair.similarity,
            short_text(pair.first),
        )
        for pair in twins[:_LISTED]
    )
    few = tuple(range(min(2, len(rows))))
    return (Table(columns, rows, "Nearly the same text with different labels", few=few, details=details),)


def budget_facts(budget: LabelBudget) -> list[Fact]:
    """What more labels would bring, and what they would change."""
    now = next(point for point in budget.points if point.times == 1)
    more = [point for point in budget.points if point.times > 1][:2]
    told = [f"{_with_interval(point)} with {point.times:g} times as many" for point in more]
    fit = f"a fit to the features ({now.accuracy:.2f} now)"
    if budget.kernel == "gradients":
        start, end = f"by gradients, training would reach {_with_interval(now)} now", ""
    else:
        start, end = f"{now.accuracy:.2f} now by a fit to the features", "; training can reach more"
    if not budget.tells:
        text = f"cannot tell: with more than two labels, training can be far above {fit}"
    elif not all(point.can_tell for point in more):
        text = f"{start}; cannot tell what more would bring: {told[0]}"
    else:
        text = f"{start}, {', '.join(told)}{end}"
    found = [Fact("More labels", text)]
    if budget.adapting:
        words = {"adapting": "beats", "probe": "loses to", "cannot tell": "cannot be told from"}
        first, later = budget.adapting[0], next(each for each in budget.adapting if each.times == 4)
        found.append(
            Fact(
                "Adapting",
                f"training the weights {words[first.better]} a probe now ({first.gain:+.2f}), and {words[later.better]} it "
                f"with 4 times as many labels ({later.low:+.2f} to {later.high:+.2f})",
            )
        )
    return found


def _with_interval(point: BudgetPoint) -> str:
    return f"{point.accuracy:.2f} ({point.low:.2f} to {point.high:.2f})"


def budget_tables(budget: LabelBudget | None) -> tuple[Table, ...]:
    """The learning curve as numbers; none without one."""
    if budget is None:
        return ()
    columns = (
        Column("labels", "d"),
        Column("accuracy", ".2f"),
        Column("95% interval", words=False),
        Column("from", words=True),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            point.rows,
            point.accuracy,
            Span(point.low, point.high),
            ("rows there are" if point.measured else "continued")
            + ("" if point.can_tell or not budget.tells else ", cannot tell"),
        )
        for point in budget.points
    ]
    return (Table(columns, tuple(rows), _curve_title(budget), details=True),)


def budget_figures(budget: LabelBudget | None) -> tuple[Figure, ...]:
    """The learning curve as a picture; none without one."""
    if budget is None:
        return ()
    at = np.array([float(point.rows) for point in budget.points])
    curves = [
        Curve(name, np.array([getattr(point, part) for point in budget.points]), at)
        for name, part in (("accuracy", "accuracy"), ("lower end", "low"), ("upper end", "high"))
    ]
    return (Figure("label-budget", _curve_title(budget), "labelled rows", "accuracy", tuple(curves)),)


def _curve_title(budget: LabelBudget) -> str:
    """With what the accuracies are of."""
    fit = "a fit to the features" + ", not training" * (not budget.tells)
    basis = fit if budget.kernel == "features" else "training, by fits to gradients and features"
    return f"Accuracy by the number of labels: {basis}"


def short_text(row: Row) -> str:
    """The text of a row, cut to the width of a table."""
    text = " ".join(row.text.split() if row.text2 is None else f"{row.text} | {row.text2}".split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 3]}..."
