"""Texts whose last line, a comment, holds a checksum of the rest, by which a file that was changed is known."""

from __future__ import annotations

import os
from pathlib import Path

from foretune.store.kept import checksum

_END = " -->\n"


def signed(text: str, mark: str) -> str:
    """A text with its checksum behind it.

    Args:
        text: without the last line.
        mark: the beginning of the last line, and what parts it from the text.
    """
    return f"{text}{mark}{checksum(text.encode())}{_END}"


def is_signed(path: Path, mark: str) -> bool:
    """Whether a file is as `signed` made it, and so may be replaced; an empty one is nothing yet."""
    if not os.path.isfile(path):  # noqa: PTH113 - never an error; a pipe would be waited for
        return False
    try:
        written = path.read_bytes()
    except OSError:
        return False
    text, found, end = written.rpartition(mark.encode())
    return not written or (bool(found) and end == f"{checksum(text)}{_END}".encode())
