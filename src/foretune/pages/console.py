"""The one place that makes consoles: text of others reaches the terminal as text.

Names, paths, labels, prompts and messages may hold square brackets, which rich would take for markup, and control
characters, which the terminal would obey. Here plain strings are never markup, and control characters are shown as
escapes; styles come from `rich.text.Text`, made in `pages` only.
"""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.text import Text

from foretune.naming import visible

_PIPED = 120
"""Columns where standard output is a file or a pipe."""


class PlainConsole(Console):
    """A console whose strings are plain text.

    Args:
        verbose: whether progress is told in more lines.
        options: as of `rich.console.Console`.
    """

    def __init__(self, *, verbose: bool = False, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        self.verbose = verbose

    def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The text, with control characters as escapes."""
        return super().render_str(visible(text), **options)


def console() -> Console:
    """Standard output; wide enough for most tables where it is a file or a pipe."""
    made = PlainConsole()
    return made if made.is_terminal or "COLUMNS" in os.environ else PlainConsole(width=_PIPED)


def progress_console(*, quiet: bool, verbose: bool = False) -> PlainConsole:
    """Standard error, for progress: none, one line per stage and per minute, or more lines and the end of each stage."""
    return PlainConsole(stderr=True, quiet=quiet, verbose=verbose)
