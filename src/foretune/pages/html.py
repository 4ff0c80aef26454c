"""A page as one file of HTML, which people forward: no network, no framework, everything inside.

The file forbids itself whatever it does not need (Content-Security-Policy: no requests, only the script and the styles
whose hashes it names). Jinja2 escapes every text, and `foretune.naming.visible` shows characters that would turn the
direction of writing. Its last line holds a checksum, by which a file that was changed is known.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from foretune.naming import visible
from foretune.page import Cell, Estimate, HeatMap, Page, Quantity, Repeats, Span, Table, rounded
from foretune.pages.glossary import glossary
from foretune.pages.inline_svg import inline_svg
from foretune.pages.json import document
from foretune.pages.made import made
from foretune.pages.signed import is_signed, signed
from foretune.pages.what_if import what_if
from foretune.store.atomic import write_text

REPORT = "report.html"
"""Its name in a folder of results."""
_MARK = "\n<!-- foretune report "
_FOLDER = "web"
_SHADES = 8
_CELLS, _PICTURES = 7000, 200_000
"""Cells of tables, and bytes of figures, that one page holds at most: it stays under 500 KB."""
_FILTERED, _SHORT = 8, 18
"""A table of more rows can be filtered; a text of so many characters is not folded."""


@dataclass(frozen=True)
class ShownCell:
    """A cell of a table: its text, and its number where sorting needs one."""

    text: str
    number: str | None = None

    @property
    def short(self) -> bool:
        """Whether it stays on one line."""
        return len(self.text) <= _SHORT


@dataclass(frozen=True)
class ShownTable:
    """A table, and how many of its rows there was no room for."""

    table: Table
    rows: tuple[tuple[bool, tuple[ShownCell, ...]], ...]
    left_out: int

    @property
    def name_at(self) -> int | None:
        """The column that names the row: the first of words with a heading."""
        return next((at for at, each in enumerate(self.table.columns) if each.words and each.heading), None)

    @property
    def filtered(self) -> bool:
        """Whether it can be filtered."""
        return len(self.rows) > _FILTERED


def html(page: Page, version: str = "", command: str = "") -> str:
    """The page as the text of a self-contained .html file.

    Args:
        page: what to draw.
        version: of foretune.
        command: what made the page; empty where that is not told.
    """
    values = document(page, version, command)
    pictures, too_many = _pictures(page)
    tables = _tables(page.tables)
    words = " ".join([page.answer, *page.notes, *(fact.text for fact in page.facts), *page.details, *_headings(page)])
    text = (
        _environment()
        .get_template("report.html")
        .render(
            page=page,
            verdict=str(values.get("verdict", "")).partition(" ")[0],
            pictures=pictures,
            too_many=too_many,
            tables=tables,
            maps=[(each, _shades(each)) for each in page.maps],
            asked=what_if(page.kind, values),
            made=made(values),
            glossary=glossary(words),
            style=Markup(_asset("report.css")),  # noqa: S704 - files of this package
            script=Markup(_asset("report.js")),  # noqa: S704
            hashes={name: _hash(_asset(name)) for name in ("report.css", "report.js")},
        )
    )
    return signed(text, _MARK)


def fragment(page: Page) -> str:
    """The answer of a page as a piece of HTML that stands in a notebook: no script, no style sheet, all text escaped.

    Args:
        page: what to draw; tables that only a view with all details shows are left out.
    """
    tables = [table for table in page.tables if not table.details]
    return _environment().get_template("fragment.html").render(page=page, tables=tables)


def write_html(path: Path, page: Page, version: str, command: str = "") -> None:
    """Write the page, whole or not at all; see first that nothing else stands there (`is_written_html`).

    Raises:
        UsageError: `path` is a folder.
        StorageError: the disk is full or the folder cannot be written.
    """
    write_text(path, html(page, version, command))


def is_written_html(path: Path) -> bool:
    """Whether a file is a page as `write_html` wrote it, and so may be replaced; an empty one is nothing yet."""
    return is_signed(path, _MARK)


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("foretune.pages", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["json_in_script"] = _json_in_script
    return made


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _json_in_script(value: object) -> Markup:
    """JSON that ends no script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing in it is markup any more


@functools.cache
def _asset(name: str) -> str:
    return resources.files("foretune.pages").joinpath(_FOLDER, name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _pictures(page: Page) -> tuple[list[tuple[str, Markup]], list[str]]:
    """Titles and figures, and the titles of those that there is no room for."""
    found, left, size = [], [], 0
    for number, figure in enumerate(page.figures, 1):
        drawn = inline_svg(figure, f"figure-{number}") if not left else ""
        size += len(drawn)
        if left or size > _PICTURES:
            left.append(figure.title)
        else:
            found.append((figure.title, Markup(drawn)))  # noqa: S704 - serialised by ElementTree, which escapes
    return found, left


def _tables(tables: Sequence[Table]) -> list[ShownTable]:
    """The tables, what a short view shows first; all cells together as many as there is room for."""
    room, found = _CELLS, []
    for table in sorted(tables, key=lambda table: table.details):
        kept = replace(table, rows=table.rows[: max(room // max(len(table.header), 1), 0)])
        room -= len(kept.rows) * len(table.header)
        shown = tuple(
            (_is_picked(row), tuple(map(_cell, row, texts))) for row, texts in zip(kept.rows, kept.texts, strict=True)
        )
        found.append(ShownTable(kept, shown, len(table.rows) - len(kept.rows)))
    return found


def _is_picked(row: Sequence[Cell]) -> bool:
    """Whether a row is marked as the one that is chosen."""
    return bool(row) and (str(row[0]).startswith("*") or row[-1] == "chosen")


def _cell(value: Cell, text: str) -> ShownCell:
    number = _number(value)
    plain = number is None or text == f"{number:g}"
    return ShownCell(text, None if plain else f"{number:.6g}")


def _number(value: Cell) -> float | None:
    """What a cell is sorted by; None for its text."""
    if isinstance(value, Quantity):
        value = value.value
    elif isinstance(value, Estimate):
        value = value.estimate
    elif isinstance(value, Span):
        value = value.low
    elif isinstance(value, Repeats):
        kept = [each for each in value.values if math.isfinite(each)]
        value = sum(kept) / len(kept) if kept else None
    return None if value is None or isinstance(value, str) or not math.isfinite(value) else float(value)


def _shades(found: HeatMap) -> list[list[tuple[str, int]]]:
    """The texts of the cells, each with a shade from 0 to 8; the largest value has the last."""
    known = [value for row in found.values for value in row if value is not None and math.isfinite(value)]
    top = max([*known, 0.0])

    def shaded(value: float | None) -> tuple[str, int]:
        if value is None:
            return "", 0
        share = value / top if top > 0 and math.isfinite(value) else 0.0
        return rounded(value, found.form), round(_SHADES * min(max(share, 0.0), 1.0))

    return [[shaded(value) for value in row] for row in found.values]


def _headings(page: Page) -> list[str]:
    return [column.heading for table in page.tables for column in table.columns] + [
        table.caption for table in page.tables
    ]
