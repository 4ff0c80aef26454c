"""What is said before torch and transformers are imported, which takes seconds: what is wrong with places and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foretune.cli.data import asked_setting, check_data_folder
from foretune.cli.held import named_places
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions, ReportOptions
from foretune.cli.places import Places
from foretune.cli.ranges import items
from foretune.errors import UsageError
from foretune.experiment.data import Drawn, drawn
from foretune.experiment.setting import Setting
from foretune.pages.console import Console, progress_console
from foretune.pages.progress import busy
from foretune.progress import Stages
from foretune.text.builtin import load_task


@dataclass(frozen=True)
class Read:
    """Rows that were read before the model.

    Attributes:
        setting: what was asked for.
        found: the task and its examples.
        stages: what reading them took.
    """

    setting: Setting
    found: Drawn
    stages: Stages


@dataclass(frozen=True)
class _Waiting:
    """What was read early, until the command that needs it takes it."""

    found: dict[tuple[DataOptions, OutputOptions], Read] = field(default_factory=dict)


_WAITING = _Waiting()


def read_early(
    model: ModelOptions, data: DataOptions, outputs: OutputOptions, report: ReportOptions, out: Path | None
) -> None:
    """Look at what is asked, then at the places to write to, as far as that is quick, then read the data.

    `read_data` hands the rows over.

    Raises:
        UsageError, DataError, StorageError: a wrong place, wrong options, or rows that cannot be used.
    """
    setting = asked_setting(data, outputs)
    Places(report.json, () if out is None else (out,)).check(read_by(model, data, outputs))
    _WAITING.found[data, outputs] = _read(setting, progress_console(quiet=report.quiet, verbose=report.verbose))


def read_data(data: DataOptions, outputs: OutputOptions, errors: Console) -> Read:
    """The task with its examples: as they were read early, or read now.

    Raises:
        UsageError, DataError, StorageError: see `read_early`.
    """
    return _WAITING.found.pop((data, outputs), None) or _read(asked_setting(data, outputs), errors)


def _read(setting: Setting, errors: Console) -> Read:
    stages = Stages()
    with stages.stage("read the data"), busy(errors, "read the data (the first time it is downloaded)"):
        return Read(setting, drawn(setting), stages)


def read_by(model: ModelOptions, data: DataOptions, outputs: OutputOptions) -> list[str | Path | None]:
    """The files and folders that are read, where the options name such."""
    return named_places(model.model, data.data, data.test_data, data.validation_data, outputs.task)


def refuse_half_weights(model: ModelOptions) -> None:
    """See that weights that are to be trained keep small steps.

    Raises:
        UsageError: they do not.
    """
    if model.dtype in ("bfloat16", "float16"):
        raise UsageError(
            f"--dtype {model.dtype} would train weights in which small steps are rounded away. Leave --dtype out; "
            "--precision bf16 computes the passes in bfloat16 and keeps the weights in float32."
        )


def check_tasks_early(data: Path | None, tasks: str | None) -> None:
    """See that the rows of a study's data folder can be used, where it is named with its tasks.

    Raises:
        UsageError, DataError: they cannot.
    """
    if data is not None and tasks is not None:
        check_data_folder(data, tuple(load_task(task).name for task in items("--tasks", tasks, "mr,sst2")))
