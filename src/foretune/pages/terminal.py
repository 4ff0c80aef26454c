"""A page on the terminal: the answer in a screen of 24 lines, everything with all details.

title
what was read and asked
the answer in facts, or in sentences
notes, as many as there is room for
tables
what comes next
the answer again: it is the last line of a long page
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from foretune.naming import visible
from foretune.page import Fact, Page
from foretune.pages.layout import draw, faint, folded, note, strong

SCREEN = 24
"""Lines of a terminal that a short page may fill."""
_GAP = 2
_ROOM = 12
"""Columns that the text beside a long name keeps at least."""
_LINES = 2
_Level = tuple[int | None, int | None]
_LEVELS: tuple[_Level, ...] = ((None, None), (1, None), (1, 2), (1, 1))
"""Lines for each fact of the question and of the answer, from what they ask for to the least; a number is never cut off."""
_QUOTED = ("Prompt", "Words", "Example", "Note")
"""Facts that quote the user, whose numbers may be cut off."""
_UNIT = 20
"""Characters of a last line that may belong to the number on the line before: `nats expected).`"""
_DIGIT = re.compile(r"\d")
_NEXT = "Next: "


def print_page(console: Console, page: Page, *, details: bool = False, where: str = "") -> None:
    """Print a page.

    Args:
        console: where to.
        page: what to print.
        details: everything, with tables and sentences that a short view leaves out.
        where: what shows the details, a command or an option; empty where they cannot be had.
    """
    for part in _long(console, page) if details else _short(console, page, where):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


def _long(console: Console, page: Page) -> Iterator[RenderableType]:
    """Everything."""
    yield from _head(console, page, whole=True)
    yield from _shown_notes(page.notes)
    for each in page.tables:
        yield from ("", draw(console, each))
    yield from _after(page)
    for text in page.details:
        yield Text(visible(text))
    for listing in page.listings:
        yield from ("", strong(listing.title), listing.text)
    yield from _end(console, page, "")


def _short(console: Console, page: Page, where: str) -> Iterator[RenderableType]:
    """One screen, where the page has facts; the tables of a study are its answer."""
    hint = where if page.has_details or page.notes else ""
    behind: list[RenderableType] = []
    for each in page.tables:
        behind += [] if each.details else ["", draw(console, each, elsewhere=where)]
    behind += [*_after(page), *_end(console, page, hint)]
    if not page.facts:
        yield from (*_head(console, page), *_shown_notes(page.notes), *behind)
        return
    taken = sum(_height(console, part) for part in behind)
    for level in _LEVELS:
        before = list(_head(console, page, level))
        free = SCREEN - taken - sum(_height(console, part) for part in before)
        notes = _fitting(console, page.notes, free)
        if len(notes) <= free:
            break
    parts = [*before, *notes, *behind]
    if sum(_height(console, part) for part in parts) > SCREEN:  # the notes stand among the details
        parts = [part for part in (*before, *behind) if part != ""]
    yield from parts


def _fitting(console: Console, notes: Sequence[str], free: int) -> list[RenderableType]:
    """The first notes that there is room for, and how many more there are."""
    parts: list[RenderableType] = [note(text) for text in notes]
    heights = [_height(console, part) for part in parts]
    if sum(heights) <= free:
        return parts
    kept = max((count for count in range(len(parts)) if sum(heights[:count]) + 1 <= free), default=0)
    left = len(parts) - kept
    return [*parts[:kept], note(f"{left}{' more' if kept else ''} note{'s' if left > 1 else ''} among the details.")]


def _head(
    console: Console, page: Page, level: _Level = (None, None), *, whole: bool = False
) -> Iterator[RenderableType]:
    """Title, question and answer; at most so many lines for each fact of the question, and of the answer."""
    title = visible(page.title)
    cut = level[0] is not None and cell_len(title) > console.width
    yield Text(_shortened(title, console.width) if cut else title, style="bold")
    yield from _beside(console, page.about, "dim", level[0], whole=whole)
    if page.facts:
        yield ""
        yield from _beside(console, page.facts, "bold", level[1], whole=whole)
    elif page.answer:
        yield from ("", strong(page.answer))
    if page.notes:
        yield ""


def _shown_notes(notes: Sequence[str]) -> Iterator[RenderableType]:
    for text in notes:
        yield note(text)


def _after(page: Page) -> Iterator[RenderableType]:
    if page.findings:
        yield ""
    for finding in page.findings:
        yield Text(visible(f"- {finding}"))


def _end(console: Console, page: Page, where: str) -> Iterator[RenderableType]:
    """Commands that go on, and the answer as the last line; a command that needs many lines is among the details."""
    shows = where.startswith("foretune")
    commands = [each for each in page.next if not shows or cell_len(each) + len(_NEXT) <= _LINES * console.width]
    commands += [where] if shows else []
    if (commands or where) and not (page.facts and page.notes):
        yield ""
    for place, command in enumerate(commands):
        yield f"{_NEXT if place == 0 else ' ' * len(_NEXT)}{command}"
    if where and not shows:
        yield faint(f"Details: {where}.")
    if page.facts and page.answer:
        yield strong(page.answer)


def _beside(
    console: Console, facts: Sequence[Fact], style: str, most: int | None, *, whole: bool
) -> Iterator[RenderableType]:
    """Names in front, texts beside them."""
    names = max((cell_len(fact.name) for fact in facts), default=0) + _GAP
    room = max(console.width - names, _ROOM)
    for fact in facts:
        lines, limit = folded(visible(fact.text), room).split("\n"), min(most or fact.lines, fact.lines)
        if fact.name not in _QUOTED:
            limit = max([limit, *(at for at, line in enumerate(lines, 1) if _DIGIT.search(line))])
            ends = len(lines) - limit == 1 and cell_len(lines[-1]) <= _UNIT and bool(_DIGIT.search(lines[-2]))
            limit += ends and most != 1
        if not whole and len(lines) > limit:
            lines = [*lines[: limit - 1], _whole_numbers(lines[limit - 1], _shortened(lines[limit - 1], room))]
        name = f"{visible(fact.name)}{' ' * (names - cell_len(fact.name))}"
        beside = f"\n{' ' * names}".join(lines)
        yield Text.assemble((name, style), beside)


def _shortened(line: str, room: int) -> str:
    """A line with ` ...` behind its last whole word that fits."""
    while cell_len(line) + 4 > room and " " in line:
        line = line.rpartition(" ")[0]
    return f"{line} ..." if cell_len(line) + 4 <= room else "..."


def _whole_numbers(line: str, shortened: str) -> str:
    """The line itself where shortening it for the sign of a cut would take a number."""
    return line if len(_DIGIT.findall(shortened)) < len(_DIGIT.findall(line)) else shortened


def _height(console: Console, part: RenderableType) -> int:
    """Lines on the terminal; a text without style is broken by the terminal, so that it can be copied."""
    if isinstance(part, str):
        return max(1, -(-cell_len(part) // console.width))
    return len(console.render_lines(part))
