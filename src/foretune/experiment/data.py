"""From a setting to a task and its sample: rows read, labels found or named, and split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foretune.errors import DataError, UsageError
from foretune.experiment.sample import FewShot, Full, Parts, Sample
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.text.account import Account, account_of
from foretune.text.builtin import TASKS, Data, load_data, load_rows, load_task
from foretune.text.cells import LabelColumn, label_column, label_name, refuse_targets
from foretune.text.containers import row_list
from foretune.text.example import Example, Rows, mapping_of
from foretune.text.rows import require_columns
from foretune.text.split import Split
from foretune.text.task import Task

_MOST_LABELS = 100
_IN_MEMORY = "rows in memory"


@dataclass(frozen=True)
class Drawn:
    """A task and the examples that were drawn for it.

    Attributes:
        task: what is asked.
        split: the examples that were drawn.
        account: what was read.
        origins: example -> its file, and its place there from 0.
    """

    task: Task
    split: Split
    account: Account
    origins: Mapping[Example, tuple[str, int]]


@dataclass(frozen=True)
class Found:
    """The rows of a setting as examples, before a sample is drawn.

    Attributes:
        task: what is asked.
        examples: `training`, `validation`, `testing` -> an example for each row that may be used.
        places: `training`, `validation`, `testing` -> the place of each of these rows in its file, from 0.
        read: the rows themselves.
        labels: labels of all rows.
        unlisted: the label of each row that was left out because the labels that were asked for do not name it.
    """

    task: Task
    examples: Mapping[str, list[Example]]
    places: Mapping[str, list[int]]
    read: Data
    labels: LabelColumn
    unlisted: list[str]

    def drawn(self, split: Split) -> Drawn:
        """The task with a split of the examples."""
        empty = sum(not example.text.strip() for part in self.examples.values() for example in part)
        account = account_of(self.read, self.labels, self.unlisted, empty, split)
        origins: dict[Example, tuple[str, int]] = {}
        for part, examples in self.examples.items():
            for place, example in zip(self.places[part], examples, strict=True):
                origins.setdefault(example, (self.read.parts[part].source, place))
        return Drawn(self.task, split, account, origins)


def drawn(setting: Setting) -> Drawn:
    """Read the rows of a setting and draw its sample.

    Raises:
        UsageError, DataError: a wrong choice, or rows that cannot be used.
    """
    found = found_examples(setting)
    examples = found.examples
    parts = Parts(examples["training"], examples.get("validation"), examples.get("testing"))
    return found.drawn(setting.sample.split(parts, found.task.labels, setting.seed, setting.test))


def found_examples(setting: Setting) -> Found:
    """Read the rows of a setting.

    Raises:
        UsageError, DataError: a wrong choice, or rows that cannot be used.
    """
    source, question = setting.source, setting.question
    named = _named_task(source, question)
    if named is not None and question.prompt is not None:
        named = named.prompted(question.prompt)
    read = _read(source, named)
    listed = None if source.labels is None else [label_name(item) for item in source.labels]
    columns = source.columns
    column = columns.get("label", "label" if named is None else named.label)
    for name, rows in read.parts.items():
        if name == "testing" and column in read.train.columns and column not in rows.columns:
            raise DataError(
                f"{rows.source} has no column {column!r}, so it cannot be used for testing. Name another file with "
                "--test-data, or give the training file alone: a part of it is then kept for testing."
            )
        require_columns(rows, [column])
    known = listed if listed is not None or named is None else list(named.labels)
    labels = _labels(read, column, known)
    if known is None:
        known = _found_labels(labels, read, column, source.max_labels or _MOST_LABELS)
    if listed is not None:
        _refuse_absent(listed, labels, read)
    task = _task(question, named, columns, known, read.train.source if _in_memory(source.rows) else str(source.rows))
    for rows in read.parts.values():
        require_columns(rows, [name for name in (task.text, task.text2) if name is not None])
    examples = {name: task.examples(rows) for name, rows in read.parts.items()}
    if not any(example.text.strip() for example in examples["training"]):
        raise DataError(f"Column {task.text!r} of {read.train.source} is empty in every row. Name another with --text.")
    places = {name: list(range(len(part))) for name, part in examples.items()}
    unlisted: list[str] = []
    if listed is not None:
        unlisted = [name for name in labels.names if name is not None and name not in listed]
        known_labels = {None, *listed}
        for name, part in examples.items():
            places[name] = [place for place, example in enumerate(part) if example.label in known_labels]
            examples[name] = [part[place] for place in places[name]]
    task.check_labels(example for part in examples.values() for example in part)
    return Found(task, examples, places, read, labels, unlisted)


def usual_sample(source: DataSource, k: int) -> Sample:
    """k examples per label of a task; all of them where a label is too rare for that.

    Raises:
        UsageError, DataError: no such task, or rows that cannot be used.
    """
    task = _task_of(source)
    texts = {example for example in task.examples(_read(source, task).train) if example.label is not None}
    counts = Counter(example.label for example in texts)
    fewest = min(counts[label] for label in task.labels)
    return FewShot(k) if fewest >= 2 * k else Full()


def check_rows(source: DataSource) -> None:
    """See that the rows of a task have its columns and labels.

    Raises:
        UsageError, DataError: no such task, or rows that cannot be used.
    """
    task = _task_of(source)
    for rows in _read(source, task).parts.values():
        require_columns(rows, [column for column in (task.text, task.text2, task.label) if column is not None])
        task.check_labels(task.examples(rows))


def _task_of(source: DataSource) -> Task:
    task = _named_task(source, Question())
    if task is None:
        raise UsageError("These rows need a task that says what their labels are. Name one.")
    return task


def _in_memory(rows: Any) -> bool:
    return not isinstance(rows, str | Path | Task)


def _read(source: DataSource, named: Task | None) -> Data:
    """The rows, those for validation and testing from elsewhere where that is named."""
    if _in_memory(source.rows):
        found = Data(_memory_rows(source.rows))
    else:
        found = load_data(source.rows, named, source.split, source.revision, source.reading)
    for part, rows in (("validation", source.validation), ("test", source.test)):
        if rows is None:
            continue
        if _in_memory(rows):
            found = replace(found, **{part: _memory_rows(rows)})
        else:
            found = replace(found, **{part: load_rows(rows, source.split, source.revision, source.reading)})
    return found


def _memory_rows(rows: Any) -> Rows:
    """Rows in memory as mappings.

    Raises:
        UsageError: they are none, or something else than rows (see `row_list`).
    """
    found = [
        {name: value for name, value in vars(row).items() if value is not None}
        if isinstance(row, Example)
        else mapping_of(row, number)
        for number, row in enumerate(row_list(rows), 1)
    ]
    if not found:
        raise UsageError(f"There are no {_IN_MEMORY}; expected at least a few labelled ones.")
    return Rows(tuple(found), _IN_MEMORY)


def _labels(read: Data, column: str, known: list[str] | None) -> LabelColumn:
    """The labels of all rows, by one rule."""
    places = [(rows, place) for rows in read.parts.values() for place in range(len(rows))]

    def where(index: int) -> str:
        rows, place = places[index]
        return f"{rows.source}, row {place + 1}, column {column!r}"

    values = [rows[place].get(column) for rows, place in places]
    if known is None:
        refuse_targets(values, column, read.train.source)
    return label_column(values, known, where)


def _found_labels(labels: LabelColumn, read: Data, column: str, most: int) -> list[str]:
    """The labels that the rows have, in the order of numbers or of the alphabet.

    Raises:
        DataError: none, one, or more than a few.
    """
    source = read.train.source
    names = labels.names[: len(read.train)]
    found = sorted({name for name in names if name is not None})
    if all(re.fullmatch(r"-?\d+", name) for name in found):
        found = sorted(found, key=int)
    if not found:
        marks = ", ".join(labels.unlabelled)
        raise DataError(f"No row of {source} has a label in column {column!r} ({marks}). Name another with --label.")
    if len(found) < 2:
        raise DataError(
            f"Column {column!r} of {source} has one label only, {found[0]!r}. Expected at least two to tell apart."
        )
    if len(found) > max(10, len(names) // 2):
        raise DataError(
            f"Column {column!r} of {source} has {len(found)} different values in {len(names)} rows: these are texts rather "
            "than labels. Name the label column with --label."
        )
    if len(found) > most:
        raise DataError(
            f"Column {column!r} of {source} has {len(found)} different values in {len(names)} rows, {found[0]!r} "
            f"for example. If these are labels, allow as many with --max-labels {len(found)}: time and memory grow with "
            "their square. If not, name the label column with --label."
        )
    return found


def _refuse_absent(listed: list[str], labels: LabelColumn, read: Data) -> None:
    """See that rows have the labels that were asked for.

    Raises:
        DataError: none has one of them; the message names those that rows have.
    """
    found = sorted({name for name in labels.names if name is not None})
    absent = next((name for name in listed if name not in found), None)
    if absent is not None:
        shown = ", ".join(map(repr, found[:20])) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
        raise DataError(
            f"--labels names {absent!r}, but no row of {read.train.source} has it; their labels are {shown}."
        )


def _named_task(source: DataSource, question: Question) -> Task | None:
    """The task that is named, or that the rows themselves name."""
    if isinstance(source.task, Task):
        return source.task
    name, rows = source.task, source.rows
    if name is None and isinstance(rows, Task):
        return rows
    if name is None and not _in_memory(rows) and (str(rows) in TASKS or Path(rows).suffix in (".yaml", ".yml")):
        name = rows
    if name is None and question.prompt is not None:
        raise UsageError("--prompt chooses among the prompts of a task: name one with --task, or write a --template.")
    return None if name is None else load_task(name)


def _task(question: Question, named: Task | None, columns: dict[str, str], labels: list[str], name: str) -> Task:
    """The named task with these labels, or one made from the question."""
    changes: dict[str, object] = {} if question.metric is None else {"metric": question.metric}
    if question.template is not None:
        changes |= {"template": question.template, "causal_template": None}
    if question.words is not None:
        changes["words"] = question.words
    if named is not None:
        changes.setdefault("words", {label: word for label, word in named.words.items() if label in labels})
        if labels != list(named.labels):
            changes["variants"] = {}  # their words are for the task's own labels
        return replace(named, labels=labels, **columns, **changes)
    changes.setdefault(
        "template", "{text} {text2} This is {mask} ." if "text2" in columns else "{text} This is {mask} ."
    )
    return Task(name=name, labels=labels, **columns, **changes)  # pyright: ignore[reportArgumentType]
