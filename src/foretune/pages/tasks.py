"""Tasks on the terminal, and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from foretune.pages.layout import Column, table
from foretune.text.example import Example
from foretune.text.hub import HubSource
from foretune.text.task import Task

_METRICS = {"f1": "F1 of {!r}", "matthews": "Matthews correlation, accuracy beside it"}
_EXAMPLE = Example("First text.", "Second text.")


def task_fields(task: Task) -> dict[str, Any]:
    """Everything that a task says, as plain values."""
    return dataclasses.asdict(task)


def print_tasks(console: Console, tasks: Sequence[Task]) -> None:
    """One line a task."""
    columns = [Column(name, words=True) for name in ("name", "labels", "template", "metric", "prompts")]
    rows = [(task.name, ", ".join(task.labels), task.template, task.metric, ", ".join(task.prompts)) for task in tasks]
    console.print(table(console, "Tasks (foretune tasks NAME shows one)", columns, rows))


def print_task(console: Console, task: Task) -> None:
    """Prompts with their words, data, limits and sources of one task."""
    rows: list[tuple[str, str]] = []
    for name in task.prompts:
        prompted = task.prompted(name)
        rows.append((f"prompt {name}", prompted.template))
        rows.append(("  masked models read", prompted.rendered(_EXAMPLE)))
        rows.append(("  causal models read", prompted.rendered(_EXAMPLE, "", causal=True).rstrip()))
        rows.append(("  words", ", ".join(f"{label}: {prompted.words[label]}" for label in task.labels)))
    columns = {"text": task.text, "second text": task.text2, "label": task.label}
    rows.append(("columns", ", ".join(f"{role}: {column}" for role, column in columns.items() if column)))
    rows.append(("metric", _METRICS.get(task.metric, task.metric).format(task.labels[1])))
    limits = {
        "input": task.max_length,
        "text": task.text_limit,
        "second text": task.text2_limit,
    }
    given = [f"{what}: {limit}" for what, limit in limits.items() if limit]
    rows.append(("limits in tokens", ", ".join(given) or "the model's own"))
    rows.append(("test examples", f"at most {task.test_cap}" if task.test_cap else "all that are left"))
    rows.append(("data on the hub", _hub(task.hub)))
    rows.append(("sources", task.origin or "-"))
    title = f"{task.name}: {task.about or 'a task'}"
    console.print(
        table(console, title, [Column("what", words=True), Column("value", words=True)], rows, headings=False)
    )


def _hub(hub: HubSource | None) -> str:
    if hub is None:
        return "none: pass a file or folder"
    return f"{hub.name}, train: {hub.train}, test: {hub.test or 'the rest of train'}"
