"""From options to a task and its data: rows read, labels found or named, and split."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from foretune.cli.options import DataOptions, OutputOptions
from foretune.cli.ranges import items
from foretune.errors import DataError, UsageError
from foretune.text.account import Account, account_of
from foretune.text.builtin import TASKS, Data, load_data, load_rows, load_task
from foretune.text.cells import LabelColumn, label_column, label_name, refuse_targets
from foretune.text.example import Example
from foretune.text.files.content import Reading
from foretune.text.quoted import pieces, unquoted
from foretune.text.rows import require_columns
from foretune.text.split import Split, few_shot_split, full_split
from foretune.text.task import Task

_MOST_LABELS = 100


@dataclass(frozen=True)
class Problem:
    """A task and its data.

    Attributes:
        task, split: what is asked, of which examples.
        account: what was read.
    """

    task: Task
    split: Split
    account: Account

    @property
    def rows(self) -> int:
        """Rows read for training."""
        return self.account.rows["training"]


@dataclass(frozen=True)
class Parts:
    """Examples by what they are for; None where there are none of their own."""

    train: list[Example]
    validation: list[Example] | None
    test: list[Example] | None


Splitter = Callable[[Task, DataOptions, Parts], Split]


def few_shot(task: Task, data: DataOptions, parts: Parts) -> Split:
    """K examples per label for training, k others for validation."""
    return few_shot_split(parts.train, task.labels, data.k, data.seed, data.test, parts.test, parts.validation)


def full_data(task: Task, data: DataOptions, parts: Parts) -> Split:
    """All examples for training but those that validate or test."""
    return full_split(parts.train, task.labels, data.k, data.seed, data.test, parts.test, parts.validation)


def problem(data: DataOptions, output: OutputOptions, splitter: Splitter = few_shot) -> Problem:
    """Read the rows and split them.

    Raises:
        UsageError, DataError: wrong options, or rows that cannot be used.
    """
    named = _named_task(data, output)
    if named is not None and output.prompt is not None:
        named = named.prompted(output.prompt)
    read = _read(data, named)
    listed = None if data.labels is None else [label_name(item) for item in items("--labels", data.labels, "bad,good")]
    if listed is not None and len(listed) < 2:
        raise UsageError(
            f"--labels names {listed[0]!r} only. Expected two or more labels, as in --labels bad,good; or leave it out."
        )
    columns = {key: value for key in ("text", "text2", "label") if (value := getattr(data, key)) is not None}
    column = columns.get("label", "label" if named is None else named.label)
    for name, rows in read.parts.items():
        if name == "testing" and column in read.train.columns and column not in rows.columns:
            raise DataError(
                f"{rows.source} has no column {column!r}, so that nothing can be tested on it. Name another file with "
                "--test-data; or pass the training file alone as DATA, and a part of it is kept for testing."
            )
        require_columns(rows, [column])
    known = listed if listed is not None or named is None else list(named.labels)
    labels = _labels(read, column, known)
    if known is None:
        known = _found_labels(labels, read, column, data.max_labels or _MOST_LABELS)
    if listed is not None:
        _refuse_absent(listed, labels, read)
    task = _task(output, named, columns, known, data.data)
    for rows in read.parts.values():
        require_columns(rows, [name for name in (task.text, task.text2) if name is not None])
    examples = {name: task.examples(rows) for name, rows in read.parts.items()}
    if not any(example.text.strip() for example in examples["training"]):
        raise DataError(f"Column {task.text!r} of {read.train.source} is empty in every row. Name another with --text.")
    unlisted: list[str] = []
    if listed is not None:
        unlisted = [name for name in labels.names if name is not None and name not in listed]
        examples = {
            name: [example for example in part if example.label is None or example.label in listed]
            for name, part in examples.items()
        }
    task.check_labels(example for part in examples.values() for example in part)
    parts = Parts(examples["training"], examples.get("validation"), examples.get("testing"))
    split = splitter(task, data, parts)
    empty = sum(not example.text.strip() for part in examples.values() for example in part)
    return Problem(task, split, account_of(read, labels, unlisted, empty, split))


def _read(data: DataOptions, named: Task | None) -> Data:
    """The rows, those for validation and testing from files of their own where they are named."""
    reading = Reading(data.delimiter, data.encoding)
    found = load_data(data.data, named, data.data_split, data.data_revision, reading)
    for part, source in (("validation", data.validation_data), ("test", data.test_data)):
        if source is not None:
            rows = load_rows(source, data.data_split, data.data_revision, reading)
            found = replace(found, **{part: rows})
    return found


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


def _named_task(data: DataOptions, output: OutputOptions) -> Task | None:
    """The task that an option or DATA itself names."""
    name = output.task
    if name is None and (data.data in TASKS or Path(data.data).suffix in (".yaml", ".yml")):
        name = data.data
    if name is None and output.prompt is not None:
        raise UsageError("--prompt chooses among the prompts of a task: name one with --task, or write a --template.")
    return None if name is None else load_task(name)


def _task(output: OutputOptions, named: Task | None, columns: dict[str, str], labels: list[str], source: str) -> Task:
    """The named task with these labels, or one made from the options."""
    changes: dict[str, object] = {} if output.metric is None else {"metric": output.metric}
    if output.template is not None:
        changes |= {"template": output.template, "causal_template": None}
    if output.words is not None:
        changes["words"] = label_words(output.words)
    if named is not None:
        changes.setdefault("words", {label: word for label, word in named.words.items() if label in labels})
        if labels != list(named.labels):
            changes["variants"] = {}  # their words are for the task's own labels
        return replace(named, labels=labels, **columns, **changes)
    changes.setdefault(
        "template", "{text} {text2} This is {mask} ." if "text2" in columns else "{text} This is {mask} ."
    )
    return Task(name=source, labels=labels, **columns, **changes)  # pyright: ignore[reportArgumentType]


def label_words(text: str) -> dict[str, str]:
    """Label -> word, as `--words` has them (see `foretune.text.quoted`).

    Raises:
        UsageError: an item is not LABEL=WORD, or a label has two words.
    """
    words: dict[str, str] = {}
    for item in pieces(text, ","):
        label, *rest = pieces(item, "=")
        label, word = label_name(unquoted(label)), unquoted("=".join(rest))
        if not label or not word:
            raise UsageError(
                f"--words {item.strip()!r}: expected LABEL=WORD, as in negative=terrible,positive=great. A label with a "
                "comma or an equals sign stands in double quotes: --words '\"a, b\"=WORD'."
            )
        if label in words:
            raise UsageError(f"--words gives the label {label!r} two words, {words[label]!r} and {word!r}. Keep one.")
        words[label] = word
    return words
