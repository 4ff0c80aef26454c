"""Tasks known by name, and the one place that turns a name, a folder, a file or a hub id into rows."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from foretune.errors import DataError, UsageError, nearest
from foretune.text.example import Rows
from foretune.text.hub import HubSource
from foretune.text.movies import movie_rows
from foretune.text.rows import SUFFIXES, read_rows
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


def load_rows(source: str | Path | Task, split: str | None = None, revision: str | None = None) -> Rows:
    """The training rows of a task, a file, or a hub dataset (see `read_rows`).

    Raises:
        UsageError, DataError, StorageError: see `read_rows` and `movie_rows`.
    """
    task = _task_of(source)
    if task is None:
        return read_rows(str(source), split or "train", revision)
    if task.name in _ROWS:
        return _ROWS[task.name]()
    return _hub_rows(task, split or _hub_of(task).train, revision)


def load_data(
    source: str | Path | Task, task: Task | None = None, split: str | None = None, revision: str | None = None
) -> tuple[Rows, Rows | None]:
    """Rows for training, and rows of their own for testing where the source has them.

    Args:
        source: a task or its name, a folder with `train.*` and perhaps `test.*` (files as in `read_rows`), one such
            file, or a hub dataset id. A task's name wins over a folder of that name: write `./name` for the folder.
        task: the task at hand; its own name as `source` means its own hub dataset.
        split: the split of a hub dataset to train on.
        revision: branch, tag or commit of a hub dataset.

    Raises:
        UsageError, DataError, StorageError: see `read_rows` and `movie_rows`; or a folder without `train.*`.
    """
    named = _task_of(task if task is not None and source == task.name else source)
    if named is None and Path(str(source)).is_dir():
        return _folder_rows(Path(str(source)))
    rows = load_rows(source if named is None else named, split, revision)
    if named is None or named.hub is None or named.hub.test is None:
        return rows, None
    return rows, _hub_rows(named, named.hub.test, revision)


def _task_of(source: str | Path | Task) -> Task | None:
    """The task that a source names, if it names one; files and hub ids name none."""
    if isinstance(source, Task):
        return source
    return TASKS.get(str(source)) or (read_task(Path(source)) if Path(source).suffix in _YAML else None)


def _hub_of(task: Task) -> HubSource:
    if task.hub is None:
        raise UsageError(
            f"Task {task.name!r} has no rows of its own. Pass a folder with train.* and test.*, a file "
            f"({', '.join(SUFFIXES)}) with the columns {_columns(task)}, or a hub dataset id."
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


def _folder_rows(folder: Path) -> tuple[Rows, Rows | None]:
    train, test = _folder_file(folder, "train"), _folder_file(folder, "test")
    if train is None:
        held = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise UsageError(
            f"{folder}: this folder holds no train file, but {held}. Expected train.* and test.* with one of "
            f"{', '.join(SUFFIXES)}."
        )
    return read_rows(train), None if test is None else read_rows(test)


def _folder_file(folder: Path, stem: str) -> Path | None:
    files = sorted(file for file in folder.iterdir() if file.stem == stem and file.suffix.lower() in SUFFIXES)
    if len(files) > 1:
        raise DataError(
            f"{folder} holds {len(files)} {stem} files: {', '.join(file.name for file in files)}. Expected one; "
            "remove the others, or pass one file."
        )
    return files[0] if files else None
