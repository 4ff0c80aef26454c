"""Tasks known by name, and the one place that turns a name, a folder, a file or a hub id into rows."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from foretune.errors import DataError, UsageError, nearest
from foretune.text.example import Rows
from foretune.text.files.content import Reading
from foretune.text.files.folders import Layout, folder_layout
from foretune.text.hub import HubSource
from foretune.text.movies import movie_rows
from foretune.text.rows import SUFFIXES, file_rows, read_rows, saved_folder
from foretune.text.task import Task
from foretune.text.task_file import parsed_task, read_task

_ROWS: dict[str, Callable[[], Rows]] = {"movies": movie_rows}
_FOLDER = importlib.resources.files("foretune.text") / "tasks"
_YAML = (".yaml", ".yml")


class _BuiltinTasks(Mapping[str, Task]):
    """The tasks of the package by name, each read when it is first asked for."""

    def __init__(self) -> None:
        self._names = sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if ".yaml" in file.name)

    def __getitem__(self, name: str) -> Task:
        if name not in self._names:
            raise KeyError(name)
        return _builtin_task(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@cache
def _builtin_task(name: str) -> Task:
    file = _FOLDER / f"{name}.yaml"
    return parsed_task(file.read_text(encoding="utf-8"), file.name, name)


TASKS = _BuiltinTasks()


def load_task(name: str | Path) -> Task:
    """The built-in task `name`, or the task of a YAML file (see `foretune.text.task_file`).

    Raises:
        UsageError: there is no such task or file (the message names the nearest), or the file holds no task.
    """
    if Path(name).suffix in _YAML:
        return read_task(Path(name))
    if str(name) not in TASKS:
        raise UsageError(
            f"There is no task {str(name)!r}. Known: {', '.join(TASKS)}, or the path of a .yaml file."
            f"{nearest(str(name), TASKS)}"
        )
    return TASKS[str(name)]


@dataclass(frozen=True)
class Data:
    """Rows by what they are for.

    Attributes:
        train: rows for training, and for what has no rows of its own.
        validation, test: rows of their own, where the source has them.
        unused: names of files in the same folder that are not read.
    """

    train: Rows
    validation: Rows | None = None
    test: Rows | None = None
    unused: Sequence[str] = ()

    @property
    def parts(self) -> dict[str, Rows]:
        """What it is for -> the rows, of those that are there."""
        parts = {"training": self.train, "validation": self.validation, "testing": self.test}
        return {name: rows for name, rows in parts.items() if rows is not None}


def load_rows(
    source: str | Path | Task, split: str | None = None, revision: str | None = None, reading: Reading | None = None
) -> Rows:
    """The training rows of a task, a file, or a hub dataset (see `read_rows`).

    Raises:
        UsageError, DataError, StorageError: see `read_rows` and `movie_rows`.
    """
    task = _task_of(source)
    if task is None:
        return read_rows(source, split or "train", revision, reading)  # pyright: ignore[reportArgumentType]
    if task.name in _ROWS:
        return _ROWS[task.name]()
    return _hub_rows(task, split or _hub_of(task).train, revision)


def load_data(
    source: str | Path | Task,
    task: Task | None = None,
    split: str | None = None,
    revision: str | None = None,
    reading: Reading | None = None,
) -> Data:
    """Rows for training, and rows of their own for validation and testing where the source has them.

    Args:
        source: a task or its name, a file (as in `read_rows`), a hub dataset id, or a folder: `train.*` and perhaps
            `validation.*` (or `dev.*`) and `test.*`, a clone of a hub dataset, or what `save_to_disk` wrote. A task's name
            wins over a folder of that name: write `./name` for the folder.
        task: the task at hand; its own name as `source` means its own hub dataset.
        split: the split of a hub dataset to train on.
        revision: branch, tag or commit of a hub dataset.
        reading: how files of text are read.

    Raises:
        UsageError, DataError, StorageError: see `read_rows` and `movie_rows`; or a folder without `train.*`.
    """
    named = _task_of(task if task is not None and source == task.name else source)
    if named is None and str(source).strip() and _is_folder(source):
        return _folder_data(Path(str(source)), reading or Reading())
    rows = load_rows(source if named is None else named, split, revision, reading)
    if named is None or named.hub is None or named.hub.test is None:
        return Data(rows)
    return Data(rows, test=_hub_rows(named, named.hub.test, revision))


def _is_folder(source: object) -> bool:
    try:
        return Path(str(source)).is_dir()
    except OSError:  # a name that is too long, for example
        return False


def _task_of(source: str | Path | Task) -> Task | None:
    """The task that a source names, if it names one; files and hub ids name none."""
    if isinstance(source, Task):
        return source
    if not isinstance(source, str | Path):
        return None
    return TASKS.get(str(source)) or (read_task(Path(source)) if Path(source).suffix in _YAML else None)


def _hub_of(task: Task) -> HubSource:
    if task.hub is None:
        raise UsageError(
            f"Task {task.name!r} has no rows of its own. Pass a folder with train.* and test.*, a file "
            f"(.csv or .jsonl for example) with the columns {_columns(task)}, or a hub dataset id."
        )
    return task.hub


def _columns(task: Task) -> str:
    return ", ".join(name for name in (task.text, task.text2, task.label) if name is not None)


def _hub_rows(task: Task, split: str, revision: str | None) -> Rows:
    hub = _hub_of(task)
    rows = read_rows(hub.name, split, revision or hub.revision)
    roles = {"text": task.text, "text2": task.text2, "label": task.label}
    columns = {role: column for role, column in roles.items() if column is not None}
    return Rows(tuple(hub.renamed(rows, columns, task.labels)), f"{hub.name} ({split})")


def _folder_data(folder: Path, reading: Reading) -> Data:
    layout = folder_layout(folder, SUFFIXES)
    read = {role: _part_rows(files, layout, reading) for role, files in layout.parts.items()}
    return Data(read["train"], read.get("validation"), read.get("test"), layout.unused)


def _part_rows(files: Sequence[Path], layout: Layout, reading: Reading) -> Rows:
    """The rows of one part of a folder: a file, shards, or a saved dataset.

    Raises:
        UsageError, DataError: see `file_rows`; or there are no rows.
    """
    if layout.saved:
        return saved_folder(files[0])
    found = [file_rows(file, reading, layout.names) for file in files]
    source = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    rows = tuple(row for rows, _ in found for row in rows)
    if not rows:
        raise DataError(f"{source} holds no rows. Expected one labelled text per row.")
    return Rows(rows, source, tuple(dict.fromkeys(note for _, notes in found for note in notes)))
