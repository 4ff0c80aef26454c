"""The page of the labels: which look wrong, how many are wrong, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.labelling.budget import LabelBudget
from foretune.labelling.next_rows import NextRows
from foretune.labelling.rows import Row
from foretune.labelling.suspicious import Suspicion, SuspiciousRow, WrongLabels
from foretune.labelling.twins import Twins
from foretune.page import Cell, Column, Curve, Fact, Figure, Page, Span, Table
from foretune.progress import Stage

_SHOWN, _LISTED = 5, 50
_TEXT = 60
_LITTLE = 0.05
"""Agreement less the most frequent label's share, below which the rows say little about each other's labels."""


@dataclass(frozen=True, kw_only=True)
class LabelsData:
    """What was found of the labels, for programs.

    Attributes:
        model: model, as it was named.
        data: data, as they were named.
        task: name, labels and what a model is asked.
        wrong: how many labels are wrong.
        agreement: share of the rows whose given label is the one that the others make the most likely, 0 to 1.
        majority: share of the most frequent label.
        kernel: what the kernel between rows is made of, `gradients` or `features`.
        strength: ridge of the fit, over the mean diagonal of the kernel.
        suspicious: how many rows have a likely label that is more likely right than the given one.
        rows: all labelled rows, the most suspicious first.
        twins: pairs of rows with nearly one text and two labels.
        budget: accuracy by the number of labels; null for more rows than a square kernel suits.
        next_rows: unlabelled rows to label next, in their order; null where none were given.
        written: the corrected copy; null for none.
        about: settings, versions and what was read.
        stages: seconds and memory of each stage.
    """

    model: str
    data: str
    task: Mapping[str, Any]
    wrong: WrongLabels
    agreement: float
    majority: float
    kernel: str
    strength: float
    suspicious: int
    rows: Sequence[SuspiciousRow]
    twins: Sequence[Twins]
    budget: LabelBudget | None
    next_rows: NextRows | None
    written: str | None
    about: Mapping[str, Any]
    stages: Sequence[Stage]


def labels_page(
    result: Suspicion, data: LabelsData, about: tuple[Fact, ...], notes: Sequence[str], following: Sequence[str]
) -> Page:
    """The page.

    Args:
        result: what was found.
        data: the same for programs.
        about: what was read and asked.
        notes: of how the texts were read.
        following: commands that go on from here.
    """
    facts = [Fact("How many are wrong", _count(result)), Fact("How sure", _agreement(result))]
    if data.budget is not None:
        facts += budget_facts(data.budget)
    if result.twins:
        facts.append(Fact("Contradictions", _contradictions(result.twins)))
    if data.written is not None:
        facts.append(Fact("Written", f"{data.written}: {data.suspicious} labels changed, everything else as it was", 1))
    return Page(
        title=f"Labels of {data.data}, asked of {data.model}",
        answer=_answer(result),
        about=about,
        facts=tuple(facts),
        notes=(*_notes(result), *notes),
        tables=(
            _suspicious_table(result.rows),
            *_twin_tables(result.twins),
            *_next_tables(data.next_rows),
            *_budget_tables(data.budget),
        ),
        figures=_budget_figures(data.budget),
        next=tuple(following),
        kind="labels",
        data=data,
    )


def _answer(result: Suspicion) -> str:
    n, found = len(result.rows), len(result.suspicious)
    if not found:
        return f"None of {n} labels looks wrong"
    return f"{found} of {n} labels look{'s' * (found == 1)} wrong"


def _count(result: Suspicion) -> str:
    wrong = result.wrong
    if not wrong.can_tell:
        return f"cannot tell: {wrong.low} to {wrong.high} of {len(result.rows)} with 95% confidence"
    return f"about {wrong.count} of {len(result.rows)}, {wrong.low} to {wrong.high} with 95% confidence"


def _agreement(result: Suspicion) -> str:
    return (
        f"{result.agreement:.0%} of the labels are those that the other rows would give; always answering with the most "
        f"frequent label would agree with {result.majority:.0%}"
    )


def _contradictions(twins: Sequence[Twins]) -> str:
    same = sum(pair.same for pair in twins)
    return f"{same} pairs of rows have the same text and different labels, {len(twins) - same} nearly the same text"


def _notes(result: Suspicion) -> tuple[str, ...]:
    if result.agreement - result.majority >= _LITTLE:
        return ()
    return (
        "The rows say little about each other's labels: this ranking is hardly better than chance. Try another model, "
        "or see that texts and labels belong together.",
    )


def _suspicious_table(rows: Sequence[SuspiciousRow]) -> Table:
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
    return Table(columns, tuple(shown), "The most suspicious labels", few=few)


def _twin_tables(twins: Sequence[Twins]) -> tuple[Table, ...]:
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
    return (Table(columns, rows, "Nearly the same text with different labels", few=few),)


def budget_facts(budget: LabelBudget) -> list[Fact]:
    """What more labels would bring, and what they would change."""
    now = next(point for point in budget.points if point.times == 1)
    more = [point for point in budget.points if point.times > 1]
    told = [
        f"{point.accuracy:.2f} ({point.low:.2f} to {point.high:.2f}) with {point.times:g} times as many"
        for point in more[:2]
    ]
    if not all(point.can_tell for point in more[:2]):
        text = f"{now.accuracy:.2f} now; cannot tell what more would bring: {told[0]}"
    else:
        text = f"{now.accuracy:.2f} now, {', '.join(told)}"
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


def _next_tables(found: NextRows | None) -> tuple[Table, ...]:
    if found is None:
        return ()
    columns = (Column("row", "d"), Column("teaches", ".1%"), Column("text", words=True))
    rows = tuple((row.row, row.gain, short_text(row)) for row in found.rows)
    few = tuple(range(min(_SHOWN, len(rows))))
    return (Table(columns, rows, f"To label next, of {found.unlabelled}", few=few),)


def _budget_tables(budget: LabelBudget | None) -> tuple[Table, ...]:
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
            ("rows there are" if point.measured else "continued") + ("" if point.can_tell else ", cannot tell"),
        )
        for point in budget.points
    ]
    return (Table(columns, tuple(rows), "Accuracy by the number of labels", details=True),)


def _budget_figures(budget: LabelBudget | None) -> tuple[Figure, ...]:
    if budget is None:
        return ()
    at = np.array([float(point.rows) for point in budget.points])
    curves = [
        Curve(name, np.array([getattr(point, part) for point in budget.points]), at)
        for name, part in (("accuracy", "accuracy"), ("lower end", "low"), ("upper end", "high"))
    ]
    return (Figure("label-budget", "Accuracy by the number of labels", "labelled rows", "accuracy", tuple(curves)),)


def short_text(row: Row) -> str:
    """The text of a row, cut to the width of a table."""
    text = " ".join(row.text.split() if row.text2 is None else f"{row.text} | {row.text2}".split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 3]}..."
