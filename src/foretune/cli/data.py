"""From options to a setting: rows, sample and question; and the data folder of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from foretune.cli.held import released
from foretune.cli.options import AnswerOptions, DataOptions, OutputOptions, RowOptions
from foretune.cli.ranges import label_words, listed
from foretune.errors import UsageError
from foretune.experiment.data import check_rows
from foretune.experiment.sample import FewShot, Full, Sample, Sampled
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.text.files.content import Reading

_USUAL_K = 16


class SampleOptions(Protocol):
    """Options that choose a sample."""

    @property
    def k(self) -> int | None:
        """Examples per label."""
        ...

    @property
    def n(self) -> int | None:
        """Examples."""
        ...

    @property
    def full_data(self) -> bool:
        """Whether all are meant."""
        ...


def asked_setting(data: DataOptions, output: OutputOptions) -> Setting:
    """The setting that the options ask for.

    Raises:
        UsageError: options that contradict each other, or a list that cannot be read.
    """
    question = replace(_question(output), metric=output.metric, head=output.head, difference=output.difference)
    sample = chosen_sample(data, FewShot(_USUAL_K), Full(_USUAL_K))
    return Setting(_source(data, output), sample, data.seed, data.test, question)


def every_row_setting(data: RowOptions, output: AnswerOptions) -> Setting:
    """The setting of all rows, whose labels nothing is fitted to: a head is drawn at random.

    Raises:
        UsageError: a list that cannot be read.
    """
    return Setting(_source(data, output), test=None, question=replace(_question(output), head="random"))


def _source(data: RowOptions, output: AnswerOptions) -> DataSource:
    return DataSource(
        released(data.data),
        released(data.validation_data),
        released(data.test_data),
        released(output.task),
        data.text,
        data.text2,
        data.label,
        labels=listed(data, "labels") or None,
        max_labels=data.max_labels,
        split=data.data_split,
        revision=data.data_revision,
        reading=Reading(data.delimiter, data.encoding),
    )


def _question(output: AnswerOptions) -> Question:
    return Question(
        output=output.output,
        prompt=output.prompt,
        template=output.template,
        words=None if output.words is None else label_words(output.words),
        first_piece=output.first_piece,
        pooling=output.pooling,
        max_length=output.max_length,
    )


def chosen_sample(options: SampleOptions, usual: Sample, full: Full) -> Sample:
    """The sample that the options choose.

    Args:
        options: --k, --n and --full-data; with --full-data, --k is the number of validation examples per label.
        usual: what is meant where none of them is given.
        full: what --full-data alone means.

    Raises:
        UsageError: options that contradict each other.
    """
    others = ["--k"] if options.k is not None else ["--full-data"] if options.full_data else []
    if options.n is not None and others:
        raise UsageError(f"--n and {others[0]} contradict each other; expected one of --n, --k and --full-data.")
    if options.full_data:
        return full if options.k is None else Full(options.k)
    if options.n is not None:
        return Sampled(options.n)
    return usual if options.k is None else FewShot(options.k)


def check_data_folder(data: Path | None, tasks: tuple[str, ...]) -> None:
    """See that a folder has a folder for each task, with rows that can be used.

    Raises:
        UsageError: it has not.
        DataError: rows are damaged, or have a label that is none of the task's.
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
        check_rows(DataSource(data / name, task=name))
