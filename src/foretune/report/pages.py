"""A page of a study as Markdown, as CSV, on the terminal, and as a folder.

page.md         notes, findings and tables, with the command that makes them on top
table-1.csv     one file a table
NAME.svg        one file a figure
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rich.console import Console

from foretune.errors import UsageError
from foretune.report.figures import svg
from foretune.report.layout import Column, faint, strong, table
from foretune.store.atomic import replacing_folder
from foretune.study.page import Page, Table

_FILE = "page.md"
_SUFFIXES = (".md", ".csv", ".svg")


def markdown(page: Page, command: str | None = None) -> str:
    """The page as Markdown; figures are named as files beside it.

    Args:
        page: what to write.
        command: what makes the page, if it is to be told.
    """
    parts = [f"# {page.title}"]
    if command is not None:
        parts.append(f"```\n{command}\n```")
    parts += [_list(lines) for lines in (page.notes, page.findings) if lines]
    for each in page.tables:
        parts.append("\n\n".join(([f"**{each.caption}**"] if each.caption else []) + [_rows(each)]))
    parts += [f"![{figure.title}]({figure.name}.svg)" for figure in page.figures]
    return "\n\n".join(parts) + "\n"


def csv_text(table: Table) -> str:
    """Header and rows, as CSV; the caption is left out."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows([table.header, *table.rows])
    return made.getvalue()


def write_page(folder: Path, page: Page, command: str | None = None) -> None:
    """Write a folder, whole or not at all; an older page there is replaced.

    Raises:
        UsageError: the folder holds something else.
        StorageError: the disk is full or the folder cannot be written.
    """
    refuse_other(folder)
    texts = {_FILE: markdown(page, command)}
    texts |= {f"table-{number}.csv": csv_text(each) for number, each in enumerate(page.tables, 1)}
    texts |= {f"{figure.name}.svg": svg(figure) for figure in page.figures}
    with replacing_folder(folder) as temporary:
        temporary.chmod(0o755)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")


def refuse_other(folder: Path) -> None:
    """See that what a page will replace is a page.

    Raises:
        UsageError: the folder holds anything else.
    """
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    strangers = [file.name for file in found if file.is_dir() or file.suffix not in _SUFFIXES]
    if strangers or (found and not (folder / _FILE).is_file()):
        raise UsageError(
            f"{folder} is no page of a study: it holds {(strangers or [found[0].name])[0]!r}. Choose another --out, or "
            "move that folder."
        )


def print_page(console: Console, page: Page) -> None:
    """Print title, notes, tables and findings; figures are in the folder only."""
    console.print()
    console.print(strong(page.title))
    console.print()
    for text in page.notes:
        console.print(faint(text))
    for each in page.tables:
        columns = [Column(heading, words=left) for heading, left in zip(each.header, _left(each), strict=True)]
        console.print()
        console.print(table(console, each.caption or "", columns, each.rows))
    if page.findings:
        console.print()
    for finding in page.findings:
        console.print(f"- {finding}")


def _left(table: Table) -> list[bool]:
    """Which columns hold words."""
    return [
        place == 0 or not any(character.isdigit() for row in table.rows for character in row[place])
        for place in range(len(table.header))
    ]


def _list(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rows(table: Table) -> str:
    alignment = ["---" if left else "---:" for left in _left(table)]
    lines = [map(_cell, table.header), alignment, *(map(_cell, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
