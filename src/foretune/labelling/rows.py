"""All labelled rows of the data, each with its place in its file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.errors import DataError
from foretune.experiment.data import Drawn, Found
from foretune.shapes import Int
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task

LEAST = 4
"""Examples of a label below which leaving one out says nothing."""


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        source: file that holds the row.
        row: number in the file, from 0.
        text: what is labelled.
        text2: the second text of a pair; null for none.
        label: label as it is given; null for none.
    """

    source: str
    row: int
    text: str
    text2: str | None
    label: str | None

    @property
    def example(self) -> Example:
        """What a model reads of it."""
        return Example(self.text, self.text2, self.label)


@dataclass(frozen=True)
class RowsToAsk:
    """Rows that have a label, training rows first.

    Attributes:
        rows: rows in the order of their files.
        task: what is asked of them.
    """

    rows: tuple[Row, ...]
    task: Task

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.task.labels)

    @property
    def y(self) -> Int[np.ndarray, " n"]:
        """Class numbers."""
        return np.array(self.task.targets([row.example for row in self.rows]), dtype=int)

    @property
    def fewest(self) -> tuple[str, int]:
        """The label with the fewest rows, and how many it has."""
        counts = {label: sum(row.label == label for row in self.rows) for label in self.labels}
        return min(counts.items(), key=lambda each: each[1])


def labelled_rows(found: Found) -> RowsToAsk:
    """All rows with a label, those for training, validation and testing alike.

    Raises:
        DataError: a label has too few rows.
    """
    rows = RowsToAsk(tuple(row for row in every_row(found) if row.label is not None), found.task)
    label, count = rows.fewest
    if count < LEAST:
        others = "" if len(rows.labels) == 2 else ", or leave it out by naming the other labels with --labels"
        raise DataError(
            f"Label {label!r} has {count} row{'s' * (count != 1)}; expected {LEAST} or more of each label, so that "
            f"each row can be compared with others of its label. Add rows{others}."
        )
    return rows


def as_training(found: Found, rows: RowsToAsk) -> Drawn:
    """The task with all these rows for training."""
    return found.drawn(Split([row.example for row in rows.rows], [], []))


def every_row(found: Found) -> tuple[Row, ...]:
    """All rows, in the order of their files."""
    return tuple(
        Row(found.read.parts[part].source, place, example.text, example.text2, example.label)
        for part, examples in found.examples.items()
        for place, example in zip(found.places[part], examples, strict=True)
    )
