"""A page of a study as Markdown, as CSV, on the terminal, and as a folder.

page.md         notes, findings and tables, with the command that makes them on top; its last line, a comment, says which
                files are the page's, so that nothing else is ever replaced
table-1.csv     one file a table
NAME.svg        one file a figure
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from foretune.errors import UsageError
from foretune.page import Page, Table
from foretune.pages.layout import Column, faint, strong, table
from foretune.pages.svg import svg
from foretune.store.atomic import moving, names_in, replacing_folder
from foretune.store.kept import checksum, file_checksum

_FILE = "page.md"
_MARK = "<!-- foretune page "
_COMMAND = re.compile(r"^```\n.*?\n```\n\n", re.MULTILINE | re.DOTALL)
_OUT = re.compile(r" --out ('[^']*'|\S+)")


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
    texts = {f"table-{number}.csv": csv_text(each) for number, each in enumerate(page.tables, 1)}
    texts |= {f"{figure.name}.svg": svg(figure) for figure in page.figures}
    made = {
        "of": _command_hash(command),
        "page": checksum(markdown(page).encode()),
        "files": {name: checksum(text.encode()) for name, text in texts.items()},
    }
    texts[_FILE] = markdown(page, command) + f"\n{_MARK}{json.dumps(made)} -->\n"
    with replacing_folder(folder) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")


def page_folder(root: Path, name: str, command: str) -> Path:
    """Where the page of a command goes: `root/name`, or a folder beside it where another command's page stands.

    Raises:
        UsageError: the folder holds something that is not a page, or a page that was changed.
    """
    folder = root / name
    refuse_other(folder)
    if not names_in(folder) or _made(folder)["of"] == _command_hash(command):
        return folder
    beside = root / f"{name}-{_command_hash(command)[:8]}"
    refuse_other(beside)
    return beside


def refuse_other(folder: Path) -> None:
    """See that what a page will replace is a page that foretune wrote, as it wrote it.

    Raises:
        UsageError: the folder holds anything else.
    """
    found = set(names_in(folder))
    if not found:
        return
    remedy = f"Choose another --out, or move that folder: {moving(folder)}"
    if _FILE not in found:
        raise UsageError(f"{folder} is not a page of a study: it holds {min(found)!r}. {remedy}")
    odd = [name for name in found if (folder / name).is_symlink() or not (folder / name).is_file()]
    if odd:
        raise UsageError(f"{folder} is not a page of a study: {min(odd)!r} in it is not a regular file. {remedy}")
    made = _made(folder)
    strangers = found - {_FILE, *made["files"]}
    if strangers:
        raise UsageError(f"{folder} is not a page of a study: it holds {min(strangers)!r}. {remedy}")
    page = _COMMAND.sub("", (folder / _FILE).read_text(encoding="utf-8").rpartition(f"\n{_MARK}")[0], count=1)
    changed = [name for name in found - {_FILE} if file_checksum(folder / name) != made["files"][name]]
    if changed or checksum(page.encode()) != made["page"]:
        raise UsageError(f"{folder / (changed or [_FILE])[0]} was changed after foretune wrote it. {remedy}")


def _made(folder: Path) -> dict[str, Any]:
    """What the last line of a page says: of which command it is, and the checksums of its files.

    Raises:
        UsageError: it does not say so.
    """
    try:
        text = (folder / _FILE).read_text(encoding="utf-8")
        made = json.loads(text.rpartition(f"\n{_MARK}")[2].removesuffix(" -->\n"))
        return {"of": str(made["of"]), "page": str(made["page"]), "files": dict(made["files"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{folder / _FILE} is not a page that this version of foretune wrote: its last line does not say so. Choose "
            f"another --out, or move that folder: {moving(folder)}"
        ) from error


def _command_hash(command: str | None) -> str:
    return checksum(_OUT.sub("", command or "").encode())


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
