"""The data folder of a study: looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from foretune.errors import UsageError


def check_data_folder(data: Path | None, tasks: tuple[str, ...]) -> None:
    """See that a folder has a folder for each task.

    Raises:
        UsageError: it has not.
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
