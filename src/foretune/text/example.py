"""One labelled text, and where a list of them came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A text (or a pair of texts) and its label, which is a name."""

    text: str
    text2: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, row: Example | str | Mapping[str, object]) -> Example:
        """An example from an example, a plain string, or a mapping with `text`, `text2` and `label`."""
        if isinstance(row, Example):
            return row
        if isinstance(row, str):
            return cls(row)
        text2, label = row.get("text2"), row.get("label")
        return cls(str(row["text"]), None if text2 is None else str(text2), None if label is None else str(label))


@dataclass(frozen=True)
class Rows(Sequence[Mapping[str, object]]):
    """Rows read from a source: a list of mappings from column name to value, and the source's name."""

    rows: tuple[Mapping[str, object], ...]
    source: str

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
        """The column names of the first row."""
        return list(self.rows[0]) if self.rows else []
