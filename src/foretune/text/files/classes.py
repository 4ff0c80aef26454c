"""The names of class numbers, as files and READMEs of datasets give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from foretune.errors import DataError

Rows = list[dict[str, object]]
LabelNames = Mapping[str, Sequence[str]]
"""Column -> the names of its numbers."""


def class_names(names: object) -> list[str]:
    """Names in the order of their numbers: of a list, or of a mapping from 0, 1, ...; empty where it is neither."""
    if isinstance(names, Mapping):
        numbers = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        complete = len(numbers) == len(names) and sorted(numbers) == list(range(len(numbers)))
        names = [numbers[number] for number in sorted(numbers)] if complete else []
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        return []
    return [str(name) for name in names]


def named_classes(path: Path, rows: Rows, names: LabelNames) -> Rows:
    """The rows with class names instead of their numbers, and None where a number is -1.

    Raises:
        DataError: a number has no name.
    """
    for column, known in names.items():
        for number, row in enumerate(rows, 1):
            value = row.get(column)
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            if value >= len(known):
                count = "is 1 name" if len(known) == 1 else f"are {len(known)} names"
                raise DataError(f"{path}, row {number}: {column!r} is {value}, but there {count} only.")
            row[column] = known[value] if value >= 0 else None
    return rows
