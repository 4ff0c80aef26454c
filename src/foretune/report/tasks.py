"""Tasks on the terminal, and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

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
    table = Table(title="Tasks (foretune tasks NAME shows one)", title_justify="left")
    for heading in ("name", "labels", "template", "metric", "prompts"):
        table.add_column(heading, overflow="fold")
    for task in tasks:
        table.add_row(task.name, ", ".join(task.labels), task.template, task.metric, ", ".join(task.prompts))
    console.print(table)


def print_task(console: Console, task: Task) -> None:
    """Prompts with their words, data, limits and sources of one task."""
    table = Table(title=f"{task.name}: {task.about or 'a task'}", title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name in task.prompts:
        prompted = task.prompted(name)
        table.add_row(f"prompt {name}", prompted.template)
        table.add_row("  masked models read", prompted.rendered(_EXAMPLE))
        table.add_row("  causal models read", prompted.rendered(_EXAMPLE, "", causal=True).rstrip())
        table.add_row("  words", ", ".join(f"{label}: {prompted.words[label]}" for label in task.labels))
    columns = {"text": task.text, "second text": task.text2, "label": task.label}
    table.add_row("columns", ", ".join(f"{role}: {column}" for role, column in columns.items() if column))
    table.add_row("metric", _METRICS.get(task.metric, task.metric).format(task.labels[1]))
    limits = {
        "input": task.max_length,
        "text": task.text_limit,
        "second text": task.text2_limit,
    }
    given = [f"{what}: {limit}" for what, limit in limits.items() if limit]
    table.add_row("limits in tokens", ", ".join(given) or "the model's own")
    table.add_row("test examples", f"at most {task.test_cap}" if task.test_cap else "all that are left")
    table.add_row("data on the hub", _hub(task.hub))
    table.add_row("sources", task.origin or "-")
    console.print(table)


def _hub(hub: HubSource | None) -> str:
    if hub is None:
        return "none: pass a file or folder"
    return f"{hub.name}, train: {hub.train}, test: {hub.test or 'the rest of train'}"
