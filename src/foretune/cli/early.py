"""What is said before torch and transformers are imported, which takes seconds: what is wrong with places and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foretune.cli.data import asked_setting, check_data_folder, every_row_setting
from foretune.cli.held import named_places
from foretune.cli.labels_options import LabelsOptions
from foretune.cli.options import AnswerOptions, DataOptions, ModelOptions, OutputOptions, ReportOptions, RowOptions
from foretune.cli.places import Places, refuse_within_inputs
from foretune.cli.ranges import items
from foretune.errors import UsageError
from foretune.experiment.data import Drawn, Found, drawn, found_examples
from foretune.experiment.setting import Setting
from foretune.labelling.corrected import refuse_copy
from foretune.labelling.rows import RowsToAsk, labelled_rows
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
class ReadRows:
    """All labelled rows that were read before the model.

    Attributes:
        found: all rows, as examples.
        rows: the rows with a label.
        stages: what reading them took.
    """

    found: Found
    rows: RowsToAsk
    stages: Stages


@dataclass(frozen=True)
class _Waiting:
    """What was read early, until the command that needs it takes it."""

    found: dict[tuple[DataOptions, OutputOptions], Read] = field(default_factory=dict)
    rows: dict[tuple[RowOptions, AnswerOptions], ReadRows] = field(default_factory=dict)


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


def read_rows_early(
    model: ModelOptions, data: RowOptions, answer: AnswerOptions, wanted: LabelsOptions, report: ReportOptions
) -> None:
    """Look at the places to write to, then read all rows; `asked_rows` hands them over.

    Raises:
        UsageError, DataError, StorageError: a wrong place, wrong options, or rows that cannot be used.
    """
    places = Places(report.json, () if wanted.out is None else (wanted.out,))
    places.check(read_by(model, data, answer))
    if wanted.write is not None:
        refuse_within_inputs(wanted.write, "--write", read_by(model, data, answer))
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    _WAITING.rows[data, answer] = _read_rows(data, answer, errors, wanted.write)


def asked_rows(data: RowOptions, answer: AnswerOptions, errors: Console, write: Path | None = None) -> ReadRows:
    """All labelled rows: as they were read early, or read now. Raises as `read_rows_early`.

    Args:
        data, answer: which rows, and how a model is asked.
        errors: where progress is shown.
        write: where a corrected copy is to go.
    """
    return _WAITING.rows.pop((data, answer), None) or _read_rows(data, answer, errors, write)


def _read_rows(data: RowOptions, answer: AnswerOptions, errors: Console, write: Path | None) -> ReadRows:
    stages = Stages()
    with stages.stage("read the data"), busy(errors, "read the data (the first time it is downloaded)"):
        found = found_examples(every_row_setting(data, answer))
        if write is not None:
            refuse_copy(write, found)
        return ReadRows(found, labelled_rows(found), stages)


def read_by(model: ModelOptions, data: RowOptions, outputs: AnswerOptions) -> list[str | Path | None]:
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
