"""A model or rows in memory, in the place of the name that a command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Held:
    """What a function of the library was given instead of a name.

    Args:
        value: a language model, or rows.
        name: what results call it.
    """

    def __init__(self, value: Any, name: str) -> None:
        self.value, self.name = value, name

    def __str__(self) -> str:
        return self.name


def released(given: Any) -> Any:
    """The model or the rows themselves; a name as it is."""
    return given.value if isinstance(given, Held) else given


def named_places(*given: object) -> list[str | Path | None]:
    """The names among what was given: what is in memory is in no file."""
    return [each for each in given if isinstance(each, str | Path)]
