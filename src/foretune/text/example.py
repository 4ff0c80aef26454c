"""One labelled text, and where a list of them came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foretune.errors import UsageError
from foretune.naming import shown
from foretune.text.cells import label_column, text_of
from foretune.text.containers import row_list


@dataclass(frozen=True)
class Example:
    """A text (or a pair of texts) and its label, which is a name.

    Raises:
        UsageError: a text is not a string.
    """

    text: str
    text2: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not isinstance(self.text2, str | None):
            raise UsageError(f"The texts of an example are {self.text!r} and {self.text2!r}; expected strings.")

    @classmethod
    def of(cls, row: Example | str | Mapping[str, object], number: int = 1) -> Example:
        """An example from an example, a plain string, or a mapping with `text`, `text2` and `label`.

        Args:
            row: what is read.
            number: of the row, from 1, for messages.

        Raises:
            UsageError: it is something else, or has no `text`.
            DataError: its text is missing, a list, a mapping or bytes.
        """
        if isinstance(row, Example):
            return row
        if isinstance(row, str):
            return cls(text_of(row, lambda _: f"Row {number}", 0))
        columns = mapping_of(row, number)
        if "text" not in columns:
            raise UsageError(
                f"Row {number} has no 'text'; its columns are {', '.join(map(repr, columns))}. Expected 'text' and perhaps "
                "'text2' and 'label'. Read other columns with task.examples(rows)."
            )
        text2, label = columns.get("text2"), columns.get("label")
        return cls(
            text_of(columns["text"], lambda _: f"Row {number}, column 'text',", 0),
            None if text2 is None else text_of(text2, lambda _: f"Row {number}, column 'text2',", 0),
            None if label is None else label_column([label], None, lambda _: f"Row {number}, column 'label',").names[0],
        )


def mapping_of(row: object, number: int) -> Mapping[str, object]:
    """The row, if it maps column names to values.

    Raises:
        UsageError: it does not.
    """
    if not isinstance(row, Mapping):
        raise UsageError(
            f"Row {number} is {shown(row)}; expected an Example, a string, or a mapping such as {{'text': ...}}."
        )
    return row


AnyRows = Any
"""Rows in any container: a list of examples, texts or mappings, a data frame, a table, a data set or a slice of one."""


def as_examples(rows: AnyRows) -> list[Example]:
    """The rows of any container (see `foretune.text.containers`) as examples.

    Raises:
        UsageError, DataError: see `row_list` and `Example.of`.
    """
    return [Example.of(row, number) for number, row in enumerate(row_list(rows), 1)]


@dataclass(frozen=True)
class Rows(Sequence[Mapping[str, object]]):
    """Rows read from a source.

    Attributes:
        rows: mappings from column name to value.
        source: name of where the rows come from.
        notes: how it was read, where that is not plain.
    """

    rows: tuple[Mapping[str, object], ...]
    source: str
    notes: tuple[str, ...] = ()

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - int or slice, as for every sequence
        """The row, or a tuple of rows."""
        return self.rows[index]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        """The rows in order."""
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which rows have them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))
