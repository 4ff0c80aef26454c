"""Tables and styled text that fit the terminal: a number is printed in full or not at all.

A column of numbers keeps its width. Columns of words are folded when there is no room; then columns are left out, the
least important first, and the caption names them; and where even that does not fit, each row becomes a few lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as Drawing
from rich.text import Text

from foretune.naming import visible
from foretune.page import Column, Table

_NARROWEST = 12
"""Columns of the terminal that a column of words keeps at least, if its words are that wide."""
_BORDER = 3
_PARTS = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?|[^\W\d_]+|.")
"""Numbers, runs of letters, and single other characters."""


def note(text: str) -> Text:
    """A note for readers."""
    return Text.assemble(("Note:", "yellow"), " ", visible(text))


def strong(text: str) -> Text:
    """What is to be read first."""
    return Text(visible(text), style="bold")


def faint(text: str) -> Text:
    """What is to be read last."""
    return Text(visible(text), style="dim")


def draw(console: Console, table: Table, *, elsewhere: str = "") -> RenderableType:
    """A table of a page that fits.

    Args:
        console: what it will be printed on.
        table: of the page.
        elsewhere: where what is left out can be found, such as `--json has all`.
    """
    rows = table.texts if table.few is None else [table.texts[place] for place in table.few]
    left = f" ({len(rows)} of {len(table.rows)} rows; --json has all)" if len(rows) < len(table.rows) else ""
    title = f"{table.caption}{left}".lstrip()
    return fitting_table(console, title, table.columns, rows, headings=table.headings, elsewhere=elsewhere)


def fitting_table(
    console: Console,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    headings: bool = True,
    elsewhere: str = "",
) -> RenderableType:
    """A table that fits.

    Args:
        console: what it will be printed on.
        title: above it.
        columns: from left to right.
        rows: a cell for each column.
        headings: whether the columns have any.
        elsewhere: where the columns that are left out can be found, such as `--json has all`.
    """
    kept = list(range(len(columns)))
    shown = [[visible(cell) for cell in row] for row in rows]
    named = [visible(column.heading) for column in columns]
    widths = [
        max([cell_len(line) for cell in (heading if headings else "", *cells) for line in cell.split("\n")] or [0])
        for heading, cells in zip(named, _columns(shown, len(columns)), strict=True)
    ]
    least = [min(width, _NARROWEST) if column.words else width for column, width in zip(columns, widths, strict=True)]

    def taken(sizes: Sequence[int]) -> int:
        return sum(sizes[place] + _BORDER for place in kept) + 1

    while taken(least) > console.width and any(columns[place].drop for place in kept):
        kept.remove(max(kept, key=lambda place: columns[place].drop))
    if taken(least) > console.width:
        return _records(title, named, shown, console.width)
    while taken(widths) > console.width:
        widest = max((place for place in kept if widths[place] > least[place]), key=lambda place: widths[place])
        widths[widest] -= 1
    return _drawn(title, columns, shown, kept, widths, headings=headings, elsewhere=elsewhere)


def _drawn(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    kept: Sequence[int],
    widths: Sequence[int],
    *,
    headings: bool,
    elsewhere: str,
) -> Drawing:
    left_out = [visible(columns[place].heading) for place in range(len(columns)) if place not in kept]
    caption = (
        f"Left out at this width: {', '.join(left_out)}{f' ({elsewhere})' if elsewhere else ''}." if left_out else ""
    )
    made = Drawing(
        title=_text(title, "italic"),
        title_justify="left",
        caption=_text(caption, "dim"),
        caption_justify="left",
        show_header=headings,
    )
    for place in kept:
        column = columns[place]
        made.add_column(
            Text(visible(column.heading)),
            justify="left" if column.words else "right",
            width=widths[place],
            no_wrap=not column.words,
            overflow="fold",
        )
    for row in rows:
        cells = (folded(row[place], widths[place]) if columns[place].words else row[place] for place in kept)
        made.add_row(*map(Text, cells))
    return made


def folded(text: str, width: int) -> str:
    """Lines of at most `width` columns, broken at blanks, within long words between their parts, never within a number."""
    return "\n".join(line for given in text.split("\n") for line in _lines(given, width))


def _lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in re.findall(r"\s+|\S+", text):
        parts = [word] if cell_len(word) <= width else _PARTS.findall(word)
        for part in parts:
            if cell_len(lines[-1]) + cell_len(part.rstrip()) <= width:
                lines[-1] += part
            else:
                lines.append(part.lstrip())
    return [line.rstrip() if place else line for place, line in enumerate(lines)]


def _text(text: str, style: str) -> Text | None:
    return Text(visible(text), style=style) if text else None


def _records(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """The rows below each other, a line for each cell that is not empty."""
    parts = [Text(visible(title), style="italic")] if title else []
    for row in rows:
        lines = [f"{heading}: {cell}" if heading else cell for heading, cell in zip(headings, row, strict=True) if cell]
        parts.append(Text("\n".join(folded(line, width) for line in lines) + "\n"))
    return Group(*parts)


def _columns(rows: Sequence[Sequence[str]], count: int) -> list[list[str]]:
    return [[row[place] for row in rows] for place in range(count)]
