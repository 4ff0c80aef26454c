"""The page of the labels: which look wrong, how many are wrong, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foretune.labelling.budget import LabelBudget
from foretune.labelling.next_rows import NextRows
from foretune.labelling.suspicious import Suspicion, SuspiciousRow, WrongLabels
from foretune.labelling.tables import (
    budget_facts,
    budget_figures,
    budget_tables,
    says_little,
    short_text,
    suspicious_table,
    twin_tables,
)
from foretune.labelling.twins import Twins
from foretune.page import Column, Fact, Page, Table
from foretune.progress import Stage

_SHOWN = 5


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
            suspicious_table(result.rows, details=not result.suspicious),
            *twin_tables(result.twins),
            *_next_tables(data.next_rows),
            *budget_tables(data.budget),
        ),
        figures=budget_figures(data.budget),
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
    return f"pairs of rows with different labels: {same} with the same text, {len(twins) - same} with nearly the same"


def _notes(result: Suspicion) -> tuple[str, ...]:
    if not says_little(result.agreement, result.majority):
        return ()
    return (
        "The rows say little about each other's labels: this ranking is hardly better than chance. Try another model, "
        "or see that texts and labels belong together.",
    )


def _next_tables(found: NextRows | None) -> tuple[Table, ...]:
    if found is None:
        return ()
    columns = (Column("row", "d"), Column("teaches", ".1%"), Column("text", words=True))
    rows = tuple((row.row, row.gain, short_text(row)) for row in found.rows)
    few = tuple(range(min(_SHOWN, len(rows))))
    return (Table(columns, rows, f"Rows to label next, the first {len(found.rows)} of {found.unlabelled}", few=few),)
