"""A page of a study as a folder.

page.json       the same for programs, with the numbers behind it; `foretune show` reads it
report.html     the page as one file for a browser (foretune.pages.html)
page.md         notes, findings and tables, with the command that makes them on top; its last line, a comment, says which
                files are the page's, so that nothing else is ever replaced
table-1.csv     one file per table
NAME.svg        one file per figure
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from foretune.errors import UsageError
from foretune.page import Page
from foretune.pages.html import REPORT, html
from foretune.pages.json import document
from foretune.pages.markdown import csv_text, markdown
from foretune.pages.svg import svg
from foretune.store.atomic import move_command, names_in, replacing_folder
from foretune.store.json import json_text
from foretune.store.kept import checksum, file_checksum

PAGE = "page.md"
JSON = "page.json"
_MARK = "<!-- foretune page "
_COMMAND = re.compile(r"^```\n.*?\n```\n\n", re.MULTILINE | re.DOTALL)
_OUT = re.compile(r" --out ('[^']*'|\S+)")


def write_page(folder: Path, page: Page, command: str | None = None, version: str = "") -> None:
    """Write a folder, whole or not at all; an older page there is replaced.

    Args:
        folder: where to.
        page: what to write.
        command: what makes it, if that is to be told.
        version: of foretune; without one there is no page.json and no report.html.

    Raises:
        UsageError: the folder holds something else.
        StorageError: the disk is full or the folder cannot be written.
    """
    refuse_other(folder)
    texts = {f"table-{number}.csv": csv_text(each) for number, each in enumerate(page.tables, 1)}
    texts |= {f"{figure.name}.svg": svg(figure) for figure in page.figures}
    if version:
        texts[JSON] = json_text(document(page, version, command or ""))
        texts[REPORT] = html(page, version, command or "")
    made = {
        "of": _command_hash(command),
        "page": checksum(markdown(page).encode()),
        "files": {name: checksum(text.encode()) for name, text in texts.items()},
    }
    texts[PAGE] = markdown(page, command) + f"\n{_MARK}{json.dumps(made)} -->\n"
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
    remedy = f"Choose another --out, or move that folder: {move_command(folder)}"
    if PAGE not in found:
        raise UsageError(f"{folder} is not a page of a study: it holds {min(found)!r}. {remedy}")
    odd = [name for name in found if (folder / name).is_symlink() or not (folder / name).is_file()]
    if odd:
        raise UsageError(f"{folder} is not a page of a study: {min(odd)!r} in it is not a regular file. {remedy}")
    made = _made(folder)
    strangers = found - {PAGE, *made["files"]}
    if strangers:
        raise UsageError(f"{folder} is not a page of a study: it holds {min(strangers)!r}. {remedy}")
    page = _COMMAND.sub("", (folder / PAGE).read_text(encoding="utf-8").rpartition(f"\n{_MARK}")[0], count=1)
    changed = [name for name in found - {PAGE} if file_checksum(folder / name) != made["files"][name]]
    if changed or checksum(page.encode()) != made["page"]:
        raise UsageError(f"{folder / (changed or [PAGE])[0]} was changed after foretune wrote it. {remedy}")


def _made(folder: Path) -> dict[str, Any]:
    """What the last line of a page says: of which command it is, and the checksums of its files.

    Raises:
        UsageError: it does not say so.
    """
    try:
        text = (folder / PAGE).read_text(encoding="utf-8")
        made = json.loads(text.rpartition(f"\n{_MARK}")[2].removesuffix(" -->\n"))
        return {"of": str(made["of"]), "page": str(made["page"]), "files": dict(made["files"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{folder / PAGE} is not a page that this version of foretune wrote: its last line does not say so. Choose "
            f"another --out, or move that folder: {move_command(folder)}"
        ) from error


def _command_hash(command: str | None) -> str:
    return checksum(_OUT.sub("", command or "").encode())
