"""Commands and code as they are printed in the README and the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOT_OURS = ("results", "_build", "reference/generated")
"""Folders of docs/ with measured pages, which name the command that makes them, and with pages made from the code."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_PROGRAMS = re.compile(r"(?:Next: )?(?:[A-Z_]+=\S+ )*((?:foretune|python|make|pip|uv|docker|ray) .*)")
_FENCE = re.compile(r"^```(\{code-block\} )?(\w+)[^\n]*\n(?::caption: (\S+)\n)?(.*?)^```", re.MULTILINE | re.DOTALL)
_LOOP = re.compile(r"^for (\w+) in (.*?); do (.*); done$")


@dataclass(frozen=True)
class Step:
    """What a reader types or runs.

    Attributes:
        kind: a shell command, a block of Python, or a file to write.
        text: the command, the code, or what stands in the file.
        file: name of the file.
    """

    kind: Literal["command", "python", "file"]
    text: str
    file: str = ""


def pages() -> list[Path]:
    """The README and the pages of the documentation that a person wrote."""
    found = sorted(page for page in DOCS.rglob("*.md") if not page.relative_to(DOCS).as_posix().startswith(NOT_OURS))
    return [ROOT / "README.md", *found]


def steps(page: Path) -> list[Step]:
    """What is printed on a page to be typed, in order."""
    found = []
    for _, language, caption, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if caption:
            found.append(Step("file", text, caption))
        elif language == "console":
            typed = [line.removeprefix("$ ").partition("  #")[0] for line in text.splitlines() if line.startswith("$ ")]
            found += [Step("command", each) for line in typed for each in unrolled(line.strip())]
        elif language == "python":
            found.append(Step("python", text))
    return found


def mentions(page: Path) -> list[str]:
    """The commands that a page names where they are not to be typed in order: in its text, and in blocks of text."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line for language, block in _BLOCK.findall(text) if language in ("", "text") for line in block.splitlines()
    ]
    bare = _BLOCK.sub("", _FENCE.sub("", text))
    spans = [" ".join(span.split()) for span in _INLINE.findall(bare)]
    typed = [found[1] for each in (*lines, *spans) if (found := _PROGRAMS.fullmatch(each.strip()))]
    return [part.strip() for each in typed for part in each.partition("  #")[0].split(" && ")]


def measured_pages() -> list[Path]:
    """The pages of results, and what stands beside the documentation."""
    return [ROOT / "CONTRIBUTING.md", *sorted((DOCS / "results").rglob("*.md"))]


def unrolled(line: str) -> Iterator[str]:
    """The commands of a shell loop one after another; any other line as it is."""
    loop = _LOOP.match(line)
    if loop is None:
        yield re.sub(r"\$\(basename (\S+) (\S+)\)", lambda found: found[1].removesuffix(found[2]), line)
        return
    name, values, body = loop.groups()
    for value in values.split():
        yield from unrolled(body.replace(f"${name}", value))


def words(command: str) -> list[str]:
    """A command as the shell splits it."""
    return shlex.split(command)
