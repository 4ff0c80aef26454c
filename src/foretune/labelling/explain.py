"""What a prediction rests on: the training rows that helped and hurt it most, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.example_kernel import Factors, kernel_factors
from foretune.analysis.influence import row_influences
from foretune.analysis.leave_one_out import ridge_left_out
from foretune.labelling.rows import Row, RowsToAsk
from foretune.labelling.tables import short_text
from foretune.page import Cell, Column, Fact, Page, Table
from foretune.progress import Stage

_SHOWN = 3


@dataclass(frozen=True)
class InfluentialRow(Row):
    """A training row, and what it does to a prediction.

    Attributes:
        removal: output for the predicted label less that of the fit without the row; above zero it helped.
        share: the row's term in that output.
    """

    removal: float
    share: float


@dataclass(frozen=True)
class Explained:
    """A prediction and what it rests on.

    Attributes:
        asked: the row that was asked about; a text from outside has row -1.
        predicted: label that the fit to all other rows gives.
        output: output for that label, about 1 for certainty and 0 for none.
        rows: all other rows, those that helped most first, those that hurt most last.
    """

    asked: Row
    predicted: str
    output: float
    rows: tuple[InfluentialRow, ...]


@dataclass(frozen=True, kw_only=True)
class ExplainData:
    """What predictions rest on, for programs.

    Attributes:
        model: model, as it was named.
        data: data, as they were named.
        task: name, labels and what a model is asked.
        kernel: what the kernel between rows is made of, `gradients` or `features`.
        explained: one for each row or text that was asked about.
        about: settings, versions and what was read.
        stages: seconds and memory of each stage.
    """

    model: str
    data: str
    task: Mapping[str, Any]
    kernel: str
    explained: Sequence[Explained]
    about: Mapping[str, Any]
    stages: Sequence[Stage]


def explained_rows(found: RowsToAsk, factors: Factors, asked: Sequence[Row]) -> tuple[Explained, ...]:
    """What the predictions for some rows rest on.

    Args:
        found: labelled rows.
        factors: of the kernel between them and then the texts from outside, in their order.
        asked: rows among them, then the texts from outside, whose row is -1.
    """
    kernel, y, classes = factors.matrix, found.y, len(found.labels)
    n = len(found.rows)
    ridge = ridge_left_out(kernel_factors(kernel[:n, :n]), y, classes).strength
    outside, made = iter(range(n, len(kernel))), []
    for each in asked:
        place = next(outside) if each.row < 0 else found.rows.index(each)
        kept = np.delete(np.arange(n), place) if place < n else np.arange(n)
        wanted = np.eye(classes)[y[kept]]
        influence = row_influences(kernel[np.ix_(kept, kept)], kernel[[place]][:, kept], wanted, ridge)
        label = int(influence.outputs[0].argmax())
        removals, shares = influence.removals[0, :, label], influence.shares[0, :, label]
        rows = tuple(
            InfluentialRow(**vars(found.rows[kept[i]]), removal=float(removals[i]), share=float(shares[i]))
            for i in np.argsort(-removals, kind="stable")
        )
        made.append(Explained(each, found.labels[label], float(influence.outputs[0, label]), rows))
    return tuple(made)


def explain_page(data: ExplainData, about: tuple[Fact, ...], notes: Sequence[str]) -> Page:
    """The page.

    Args:
        data: what was found.
        about: what was read and asked.
        notes: of how the texts were read.
    """
    first = data.explained[0]
    others = "rows" if first.asked.row < 0 else "other rows"
    return Page(
        title=f"What predictions on {data.data} rest on, asked of {data.model}",
        answer=(
            f"{_name(first)}: {first.predicted} by the {others}; row {first.rows[0].row} helped most, row "
            f"{first.rows[-1].row} hurt most"
        ),
        about=about,
        facts=tuple(
            Fact(_name(each), f"{each.predicted} ({each.output:.2f}){_given(each)}: {short_text(each.asked)}", 1)
            for each in data.explained
        ),
        notes=tuple(notes),
        tables=tuple(_table(each) for each in data.explained),
        kind="explain",
        data=data,
    )


def _name(each: Explained) -> str:
    return "Text" if each.asked.row < 0 else f"Row {each.asked.row}"


def _given(each: Explained) -> str:
    return "" if each.asked.label is None else f", given {each.asked.label}"


def _table(each: Explained) -> Table:
    columns = (
        Column("", words=True),
        Column("row", "d"),
        Column("label", words=True),
        Column("influence", "+.3f"),
        Column("text", words=True),
    )
    shown = 10
    helped, hurt = each.rows[:shown], tuple(reversed(each.rows[-shown:]))
    rows: list[tuple[Cell, ...]] = [
        (word, row.row, row.label, row.removal, short_text(row))
        for word, part in (("helped", helped), ("hurt", hurt))
        for row in part
        if (row.removal > 0) == (word == "helped")
    ]
    count = sum(row[0] == "helped" for row in rows)
    few = (*range(min(_SHOWN, count)), *range(count, min(count + _SHOWN, len(rows))))
    return Table(columns, tuple(rows), f"{_name(each)}: rows that helped and hurt {each.predicted!r}", few=few)
