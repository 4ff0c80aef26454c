"""Rows as people hold them in memory: lists, generators, tables of pandas, polars or Arrow, datasets and their slices.

A table is read by rows. One text, one row or bytes are refused: their parts would be read as rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foretune.errors import UsageError
from foretune.naming import shown

_EXPECTED = "Expected a list of texts or of rows such as {'text': ..., 'label': ...}"


def row_list(rows: Any) -> list[Any]:
    """The rows of a container, one element a row.

    Args:
        rows: a sequence or generator of rows; a data frame, a table or a dataset; or a mapping of columns, as a slice of a
            dataset is.

    Raises:
        UsageError: it is one text, one row, several datasets, or holds no rows at all.
    """
    if isinstance(rows, str):
        raise UsageError(
            f"These rows are one text, {shown(rows)}. {_EXPECTED}: write [text]. A file is read by load_rows(path)."
        )
    if isinstance(rows, bytes | bytearray | set | frozenset):
        what = "a set, which has no order" if isinstance(rows, set | frozenset) else "bytes"
        raise UsageError(f"These rows are {what}. {_EXPECTED}.")
    for method, options in (("to_dicts", ()), ("to_pylist", ()), ("to_dict", ("records",))):  # polars, Arrow, pandas
        if hasattr(rows, method) and hasattr(rows, "columns"):
            return _class_names(rows, list(getattr(rows, method)(*options)))
    if isinstance(rows, Mapping):
        return _from_columns(rows)
    try:
        return _class_names(rows, list(rows))
    except TypeError as error:  # an array without a dimension also says that it can be iterated
        raise UsageError(f"These rows are {type(rows).__name__}. {_EXPECTED}.") from error


def _from_columns(columns: Mapping[Any, Any]) -> list[Any]:
    """The rows of a mapping from column names to values."""
    values = list(columns.values())
    if values and all(hasattr(value, "column_names") for value in values):
        first = next(iter(columns))
        raise UsageError(
            f"These rows are several datasets, {', '.join(map(repr, columns))}. Pass one: rows[{first!r}]."
        )
    if not values or any(isinstance(value, str | Mapping) or not isinstance(value, Iterable) for value in values):
        raise UsageError(f"These rows are one mapping with {', '.join(map(repr, columns))}. {_EXPECTED}: write [row].")
    lists = [list(value) for value in values]
    if len({len(value) for value in lists}) > 1:
        sizes = ", ".join(f"{name!r} {len(value)}" for name, value in zip(columns, lists, strict=True))
        raise UsageError(
            f"The columns of these rows have different lengths: {sizes}. Expected one value per row in each."
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _class_names(rows: Any, read: list[Any]) -> list[Any]:
    """Rows of a dataset with the names of its classes instead of their numbers, None for -1."""
    features = getattr(rows, "features", None)
    if not isinstance(features, Mapping):
        return read
    names = {column: feature.names for column, feature in features.items() if hasattr(feature, "int2str")}
    if not names:
        return read
    return [{column: _named(value, names.get(column)) for column, value in row.items()} for row in read]


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or not isinstance(value, int):
        return value
    return names[value] if value >= 0 else None
