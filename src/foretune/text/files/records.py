"""JSON: objects in lines or in a list, a list inside an object, or columns as pandas writes them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from foretune.errors import DataError
from foretune.text.files.classes import Rows, class_names, named_classes
from foretune.text.files.content import Reading, file_text


def json_rows(path: Path, reading: Reading) -> Rows:
    """The rows of a .json file, in whatever shape it has.

    Raises:
        DataError: it is not JSON (the message names the line), or it has no rows.
    """
    text = file_text(path, reading)
    first, _, rest = text.strip().partition("\n")
    if first.startswith("{") and rest and _parses(first):
        return _line_rows(path, text)
    return _whole_rows(path, text) if first else []


def json_line_rows(path: Path, reading: Reading) -> Rows:
    """The rows of a .jsonl or .ndjson file: one object per line, or one list of objects after all.

    Raises:
        DataError: a line is not an object; the message names it.
    """
    text = file_text(path, reading)
    first, _, rest = text.strip().partition("\n")
    whole = first.startswith("[") and not (rest and _parses(first))
    return _whole_rows(path, text) if whole else _line_rows(path, text)


def _parses(line: str) -> bool:
    """Whether a line is JSON by itself."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _line_rows(path: Path, text: str) -> Rows:
    rows: Rows = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _parsed(
            line,
            lambda error, where=where: (
                f"{where}: not JSON ({_reason(error, lines=False)}). Expected one object per line."
            ),
        )
        if not isinstance(row, dict):
            raise DataError(f"{where}: a {_kind(row)}. Expected an object such as {{'text': ..., 'label': ...}}.")
        rows.append(row)
    return rows


def _parsed(text: str, message: Callable[[Exception], str]) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_exact)
    except (ValueError, RecursionError) as error:
        raise DataError(message(error)) from error


def _exact(text: str) -> float | Decimal:
    """A number with decimals or an exponent; those that a float would round to another whole number as they stand."""
    value = float(text)
    return Decimal(text) if 2**53 <= abs(value) < math.inf else value


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found


def _reason(error: Exception, *, lines: bool = True) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, " if lines else ""
        return f"{place}column {error.colno}: {error.msg}"
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply"
    if "integer string conversion" in str(error):
        return "a number has thousands of digits"
    return str(error)


def _whole_rows(path: Path, text: str) -> Rows:
    """The rows of a whole file: a list of objects, a list inside an object, columns, or one row."""
    value = _parsed(text, lambda error: f"{path} is not JSON: {_reason(error)}.")
    if isinstance(value, list):
        return _objects(path, value)
    if not isinstance(value, dict):
        raise _shapeless(path, f"a {_kind(value)}")
    if _split_orient(value):
        names = [str(name) for name in value["columns"]]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path} has the column {twice!r} twice. Rename one of them.")
        return [dict(zip(names, row, strict=True)) for row in value["data"]]
    if _viewer(value):
        return _viewer_rows(path, value)
    lists = {name: part for name, part in value.items() if isinstance(part, list) and part and _all_objects(part)}
    if len(lists) == 1:
        return _objects(path, next(iter(lists.values())))
    if len(lists) > 1:
        raise DataError(
            f"{path} holds several lists of rows: {', '.join(map(repr, lists))}. Write each to a file of its own, such as "
            "train.json and test.json in one folder, and pass the folder."
        )
    columns = list(value.values())
    if value and all(isinstance(row, dict) and name.isdecimal() for name, row in value.items()):
        return _objects(path, columns)  # pandas' orient="index"
    if columns and all(isinstance(column, list) for column in columns):
        return _columns(path, value, [list(range(len(column))) for column in columns])
    if columns and all(isinstance(column, dict) for column in columns):
        return _columns(path, value, [list(column) for column in columns])
    if any(isinstance(column, list | dict) for column in columns):
        raise _shapeless(path, f"an object with {', '.join(map(repr, list(value)[:5]))}")
    return [value]


def _split_orient(value: Mapping[str, Any]) -> bool:
    """Whether an object is what pandas' `to_json(orient="split")` writes."""
    names, data = value.get("columns"), value.get("data")
    return (
        isinstance(names, list)
        and isinstance(data, list)
        and all(isinstance(row, list) and len(row) == len(names) for row in data)
    )


def _viewer(value: Mapping[str, Any]) -> bool:
    """Whether an object is what the dataset viewer of the Hugging Face hub answers."""
    rows = value.get("rows")
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(r, dict) and isinstance(r.get("row"), dict) for r in rows)
    )


def _viewer_rows(path: Path, value: Mapping[str, Any]) -> Rows:
    """The rows of an answer of the dataset viewer, class numbers as names.

    Raises:
        DataError: a cell is cut, or a class number has no name.
    """
    for number, item in enumerate(value["rows"], 1):
        if item.get("truncated_cells"):
            raise DataError(
                f"{path}, row {number}: the dataset viewer has cut the cells {item['truncated_cells']}. Fetch the dataset "
                "itself, as Parquet for example."
            )
    features = value.get("features")
    names = {
        feature["name"]: known
        for feature in (features if isinstance(features, list) else [])
        if isinstance(feature, dict) and isinstance(feature.get("name"), str) and isinstance(feature.get("type"), dict)
        if (known := class_names(feature["type"].get("names")))
    }
    return named_classes(path, [item["row"] for item in value["rows"]], names)


def _columns(path: Path, value: Mapping[str, Any], places: Sequence[list]) -> Rows:
    """The rows of an object that holds one list, or one object by row, for each column."""
    if any(place != places[0] for place in places):
        sizes = ", ".join(f"{name!r} {len(column)}" for name, column in list(value.items())[:5])
        raise DataError(
            f"{path}: its columns have different lengths or rows ({sizes}). Expected one value per row in each."
        )
    return [{name: column[place] for name, column in value.items()} for place in places[0]]


def _objects(path: Path, rows: Sequence[object]) -> Rows:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: element {number} is a {_kind(row)}. Expected objects with named fields, such as "
                            "{'text': ..., 'label': ...}.")  # fmt: skip
    return list(rows)  # pyright: ignore[reportReturnType]


def _all_objects(rows: Sequence[object]) -> bool:
    return all(isinstance(row, dict) for row in rows)


def _shapeless(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} holds {what}. Expected a list of objects such as {{'text': ..., 'label': ...}}, one object per line, "
        "or one list for each column."
    )


def _kind(value: object) -> str:
    names = {list: "list", dict: "object", str: "string", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")
