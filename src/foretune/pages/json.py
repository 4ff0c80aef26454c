"""A page as JSON, and pages read from JSON.

    foretune    version that wrote it
    format      number of the layout: a reader that knows it knows the fields
    kind        of the result, which names the schema (`foretune schema KIND`)
    command     what made it
    page        the page itself: answer, facts, tables and figures, with unrounded values and their formats
    ...         the fields of the kind: every number behind the page, unrounded

Infinities are the strings "inf" and "-inf", what is not a number is null. `pages.schema` says what each field means.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import UsageError
from foretune.page import (
    Cell,
    Column,
    Curve,
    Estimate,
    Fact,
    Figure,
    HeatMap,
    Listing,
    Page,
    Quantity,
    Repeats,
    Span,
    Table,
)
from foretune.store.json import plain, write_json

FORMAT = 1
OF_PAGE = ("kind", "data")
"""Fields of a page that stand beside it, not in it."""
_CELLS = {"estimate": Estimate, "value": Quantity, "low": Span, "values": Repeats}
"""By its first field a cell that is an object is known."""


def document(page: Page, version: str, command: str = "") -> dict[str, Any]:
    """The page and the numbers behind it, as plain values.

    Args:
        page: what to write.
        version: of foretune.
        command: what made the page; empty where that is not told.
    """
    data: Any = plain(page.data)
    shown: Any = plain({field.name: getattr(page, field.name) for field in dataclasses.fields(page)})
    for name in OF_PAGE:
        del shown[name]
    return {"foretune": version, "format": FORMAT, "kind": page.kind, "command": command, **data, "page": shown}


def write_page_json(path: Path, page: Page, version: str, command: str = "") -> None:
    """Write the document, whole or not at all.

    Raises:
        UsageError: `path` is a folder.
        StorageError: the disk is full or the folder cannot be written.
    """
    write_json(path, document(page, version, command))


def read_page(path: Path) -> Page:
    """The page of a document, with the numbers behind it as plain values.

    Raises:
        UsageError: the file holds no page of this format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UsageError(
                f"{path} has format {found['format']}, written by foretune {found.get('foretune', '?')}; expected "
                f"format {FORMAT}. Repeat the command that made it."
            )
        shown = found.pop("page")
        return _page(shown, found["kind"], found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not a result of foretune: it holds no page. Expected a folder that a command made, or a .json "
            "file with its result."
        ) from error


def _page(values: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> Page:
    return Page(
        title=values["title"],
        notes=tuple(values["notes"]),
        tables=tuple(map(_table, values["tables"])),
        figures=tuple(_figure(each) for each in values["figures"]),
        findings=tuple(values["findings"]),
        answer=values["answer"],
        about=tuple(Fact(**each) for each in values["about"]),
        facts=tuple(Fact(**each) for each in values["facts"]),
        details=tuple(values["details"]),
        listings=tuple(Listing(**each) for each in values["listings"]),
        next=tuple(values["next"]),
        maps=tuple(map(_map, values["maps"])),
        kind=kind,
        data=data,
    )


def _table(values: Mapping[str, Any]) -> Table:
    header = tuple(each if isinstance(each, str) else Column(**each) for each in values["header"])
    rows = tuple(tuple(map(_cell, row)) for row in values["rows"])
    few = None if values["few"] is None else tuple(values["few"])
    rest = {name: values[name] for name in ("caption", "details", "headings")}
    return Table(header, rows, few=few, **rest)


def _cell(value: Any) -> Cell:
    if not isinstance(value, dict):
        return value
    kind = next(made for name, made in _CELLS.items() if name in value)
    return kind(**{name: _number(item) for name, item in value.items()})


def _number(value: Any) -> Any:
    """A number, or a sequence of them, as it was before it was written."""
    if isinstance(value, list):
        return tuple(map(_number, value))
    if value is None:
        return float("nan")
    return float(value) if value in ("inf", "-inf") else value


def _figure(values: Mapping[str, Any]) -> Figure:
    curves = tuple(
        Curve(each["name"], _array(each["y"]), None if each["x"] is None else _array(each["x"]))
        for each in values["curves"]
    )
    return Figure(**{**values, "curves": curves, "ticks": tuple(values["ticks"])})


def _map(values: Mapping[str, Any]) -> HeatMap:
    numbers = tuple(tuple(None if each is None else _number(each) for each in row) for row in values["values"])
    return HeatMap(**{**values, "rows": tuple(values["rows"]), "columns": tuple(values["columns"]), "values": numbers})


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array([_number(value) for value in values], dtype=float)
