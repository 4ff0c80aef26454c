"""Tasks known by name, and the one place that turns a name, a file or a hub id into rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foretune.errors import UsageError, nearest
from foretune.text.example import Rows
from foretune.text.movies import movie_rows
from foretune.text.rows import read_rows
from foretune.text.task import Task

TASKS: dict[str, Task] = {
    "movies": Task(
        name="movies",
        labels=("negative", "positive"),
        template="{text} It was {mask} .",
        words={"negative": "terrible", "positive": "great"},
    ),
}
_ROWS: dict[str, Callable[[], Rows]] = {"movies": movie_rows}


def load_task(name: str) -> Task:
    """The built-in task `name`.

    Raises:
        UsageError: there is no such task; the message names the nearest.
    """
    if name not in TASKS:
        raise UsageError(f"There is no task {name!r}. Known: {', '.join(TASKS)}.{nearest(name, TASKS)}")
    return TASKS[name]


def load_rows(source: str | Path | Task, split: str = "train", revision: str | None = None) -> Rows:
    """The rows of a built-in task, a file, or a hub dataset (see `read_rows`).

    Raises:
        UsageError, DataError, StorageError: see `read_rows` and `movie_rows`.
    """
    name = source.name if isinstance(source, Task) else str(source)
    if name in _ROWS:
        return _ROWS[name]()
    if isinstance(source, Task):
        raise UsageError(f"Task {name!r} has no rows of its own; pass a file or a hub dataset id.")
    return read_rows(source, split, revision)
