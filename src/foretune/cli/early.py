"""What is said before torch and transformers are imported, which takes seconds: what is wrong with places and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from foretune.cli.console import progress_console
from foretune.cli.data import Problem, Splitter, few_shot, full_data, problem
from foretune.cli.data_folder import check_data_folder
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions, ReportOptions
from foretune.cli.places import Places
from foretune.cli.progress import busy
from foretune.cli.ranges import items
from foretune.progress import Stages
from foretune.text.builtin import load_task


@dataclass
class _Read:
    """What was read early, until the command that needs it takes it.

    Attributes:
        found: of which options -> the task with its data, and how long that took.
    """

    found: dict[tuple[DataOptions, OutputOptions, Splitter], tuple[Problem, Stages]] = field(default_factory=dict)


_READ = _Read()


def read_early(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    report: ReportOptions,
    out: Path | None,
    *,
    full: bool = False,
) -> None:
    """Look at the places to write to, as far as that is quick, then read the data; `read_problem` hands it over.

    Raises:
        UsageError, DataError, StorageError: a wrong place, wrong options, or rows that cannot be used.
    """
    Places(report.json, () if out is None else (out,)).check(read_by(model, data, outputs))
    splitter = full_data if full else few_shot
    _READ.found[data, outputs, splitter] = _problem(data, outputs, splitter, progress_console(quiet=report.quiet))


def read_problem(
    data: DataOptions, outputs: OutputOptions, splitter: Splitter, errors: Console
) -> tuple[Problem, Stages]:
    """The task with its data, and the stage that it took: as it was read early, or read now.

    Raises:
        UsageError, DataError, StorageError: see `read_early`.
    """
    return _READ.found.pop((data, outputs, splitter), None) or _problem(data, outputs, splitter, errors)


def _problem(data: DataOptions, outputs: OutputOptions, splitter: Splitter, errors: Console) -> tuple[Problem, Stages]:
    stages = Stages()
    with stages.stage("read the data"), busy(errors, "read the data (the first time it is downloaded)"):
        return problem(data, outputs, splitter), stages


def read_by(model: ModelOptions, data: DataOptions, outputs: OutputOptions) -> list[str | Path | None]:
    """The files and folders that are read, where the options name such."""
    return [model.model, data.data, data.test_data, data.validation_data, outputs.task]


def check_tasks_early(data: Path | None, tasks: str | None) -> None:
    """See that the rows of a study's data folder can be used, where it is named with its tasks.

    Raises:
        UsageError, DataError: they cannot.
    """
    if data is not None and tasks is not None:
        check_data_folder(data, tuple(load_task(task).name for task in items("--tasks", tasks, "mr,sst2")))
