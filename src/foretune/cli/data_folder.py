"""The data folder of a study: looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from foretune.errors import UsageError
from foretune.text.builtin import load_data, load_task
from foretune.text.rows import require_columns


def check_data_folder(data: Path | None, tasks: tuple[str, ...]) -> None:
    """See that a folder has a folder for each task, with rows that can be used.

    Raises:
        UsageError: it has not.
        DataError: rows are damaged, or have no label of the task.
    """
    if data is None:
        return
    if not data.is_dir():
        raise UsageError(
            f"--data {data} is not a folder; expected one with a folder for each task, {tasks[0]} for example."
        )
    missing = [task for task in tasks if not (data / task).is_dir()]
    if missing:
        found = ", ".join(sorted(folder.name for folder in data.iterdir() if folder.is_dir())) or "none"
        raise UsageError(
            f"--data {data} has no folder {missing[0]!r}; its folders are {found}. Choose among them with --tasks, or add "
            f"{data / missing[0]} with train.jsonl and test.jsonl."
        )
    for name in tasks:
        task = load_task(name)
        for rows in load_data(data / name, task).parts.values():
            require_columns(rows, [column for column in (task.text, task.text2, task.label) if column is not None])
            task.check_labels(task.examples(rows))
