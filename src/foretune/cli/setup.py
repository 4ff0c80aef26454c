"""From settings to objects: task, rows, split, model, outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from foretune.cli.settings import Settings
from foretune.errors import DataError, UsageError, nearest
from foretune.text.builtin import TASKS, load_rows, load_task
from foretune.text.example import Rows
from foretune.text.rows import require_columns
from foretune.text.task import Split, Task

if TYPE_CHECKING:
    from foretune.model.load import LanguageModel
    from foretune.model.outputs import Outputs

OUTPUTS = ("auto", "prompt", "head")
_MOST_LABELS = 100


@dataclass(frozen=True)
class Problem:
    """A task and its few-shot data."""

    task: Task
    split: Split
    rows: int


def problem(settings: Settings) -> Problem:
    """Read the rows and split them.

    Raises:
        UsageError, DataError: wrong options, or rows that cannot be used.
    """
    if settings.output not in OUTPUTS:
        raise UsageError(
            f"--output {settings.output!r}: expected {', '.join(OUTPUTS)}.{nearest(settings.output, OUTPUTS)}"
        )
    for name, value in (("--k", settings.k), ("--test", settings.test)):
        if value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1.")
    rows = load_rows(settings.data, settings.data_split, settings.data_revision)
    task = _task(settings, rows)
    require_columns(rows, [name for name in (task.text, task.text2, task.label) if name is not None])
    return Problem(task, task.few_shot(rows, settings.k, settings.seed, settings.test), len(rows))


def _task(settings: Settings, rows: Rows) -> Task:
    """The named task, or one made from the options and the labels found in the rows."""
    name = settings.task or (settings.data if settings.data in TASKS else None)
    columns = {key: value for key in ("text", "text2", "label") if (value := getattr(settings, key)) is not None}
    changes = {key: value for key in ("template", "metric") if (value := getattr(settings, key)) is not None}
    if settings.words is not None:
        changes["words"] = _words(settings.words)
    if name is not None:
        named = load_task(name)
        labels = _listed(settings.labels) if settings.labels else list(named.labels)
        changes.setdefault("words", {label: word for label, word in named.words.items() if label in labels})
        return replace(named, labels=labels, **columns, **changes)
    label = columns.get("label", "label")
    require_columns(rows, [label])
    labels = _listed(settings.labels) if settings.labels else _found_labels(rows, label)
    if "template" not in changes:
        changes["template"] = "{text} {text2} This is {mask} ." if "text2" in columns else "{text} This is {mask} ."
    return Task(name=settings.data, labels=labels, **columns, **changes)


def _found_labels(rows: Rows, column: str) -> list[str]:
    labels = sorted({str(row[column]) for row in rows if row.get(column) is not None})
    if len(labels) < 2:
        raise DataError(
            f"Column {column!r} of {rows.source} has one label only ({', '.join(map(repr, labels))}). Expected at least "
            "two to tell apart."
        )
    if len(labels) > _MOST_LABELS:
        raise DataError(
            f"Column {column!r} of {rows.source} has {len(labels)} different values, {labels[0]!r} for example: that is "
            "no label. Name the label column with --label."
        )
    return labels


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _words(text: str) -> dict[str, str]:
    words = {}
    for item in _listed(text):
        label, separator, word = item.partition("=")
        if not separator or not word.strip():
            raise UsageError(f"--words {item!r}: expected LABEL=WORD, as in negative=terrible,positive=great.")
        words[label.strip()] = word.strip()
    return words


def made_outputs(settings: Settings, lm: LanguageModel, task: Task) -> Outputs:
    """The model as a function, as the options ask for it.

    Raises:
        ModelError, DataError, UsageError: the model and the task do not fit.
    """
    from foretune.model.answer import AnswerLogits
    from foretune.model.head import HeadLogits

    difference = settings.difference and len(task.labels) == 2
    if settings.output == "prompt" or (settings.output == "auto" and lm.kind != "encoder"):
        return AnswerLogits(lm, task, difference=difference, max_length=settings.max_length)
    pooling = settings.pooling or ("last" if lm.kind == "causal" else "mean")
    return HeadLogits(
        lm, len(task.labels), pooling, seed=settings.seed, difference=difference, max_length=settings.max_length
    )
