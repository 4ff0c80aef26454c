"""Options that hold several values, and the data folder of a study: read and checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from foretune.cli.setup import listed
from foretune.errors import UsageError

Number = TypeVar("Number", int, float)


def names(option: str, text: str, example: str) -> list[str]:
    """The items of an option, without repeats.

    Raises:
        UsageError: there is none.
    """
    items = list(dict.fromkeys(listed(text)))
    if not items:
        raise UsageError(f"{option} is empty; expected {example} for example.")
    return items


def whole_numbers(option: str, text: str, least: int, example: str) -> tuple[int, ...]:
    """Whole numbers, without repeats.

    Raises:
        UsageError: none, no number, or one below `least`.
    """
    numbers = _numbers(option, text, int, f"whole numbers, {example} for example")
    for number in numbers:
        if number < least:
            raise UsageError(f"{option} has {number}; expected numbers of at least {least}, {example} for example.")
    return numbers


def positive_numbers(option: str, text: str, expected: str) -> tuple[float, ...]:
    """Finite numbers above zero, without repeats.

    Args:
        option, text: what was typed.
        expected: in words, for messages.

    Raises:
        UsageError: none, no number, or one out of range.
    """
    numbers = _numbers(option, text, float, expected)
    for number in numbers:
        if not 0 < number < math.inf:
            raise UsageError(f"{option} has {number:g}; expected positive {expected}.")
    return numbers


def at_least_one(option: str, value: int) -> None:
    """Refuse a number below one.

    Raises:
        UsageError: it is.
    """
    if value < 1:
        raise UsageError(f"{option} is {value}; expected at least 1.")


def check_data_folder(data: Path | None, tasks: tuple[str, ...]) -> None:
    """See that a folder has a folder for each task.

    Raises:
        UsageError: it has not.
    """
    if data is None:
        return
    if not data.is_dir():
        raise UsageError(
            f"--data {data} is no folder; expected one with a folder for each task, {tasks[0]} for example."
        )
    missing = [task for task in tasks if not (data / task).is_dir()]
    if missing:
        found = ", ".join(sorted(folder.name for folder in data.iterdir() if folder.is_dir())) or "none"
        raise UsageError(
            f"--data {data} has no folder {missing[0]!r}; its folders are {found}. Choose among them with --tasks, or add "
            f"{data / missing[0]} with train.jsonl and test.jsonl."
        )


def _numbers(option: str, text: str, kind: Callable[[str], Number], expected: str) -> tuple[Number, ...]:
    try:
        return tuple(dict.fromkeys(kind(item) for item in names(option, text, expected)))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: expected {expected}.") from error
