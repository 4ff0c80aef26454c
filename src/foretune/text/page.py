"""Pages of tasks: all of them, or one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from foretune.page import Column, Page, Table
from foretune.text.example import Example
from foretune.text.hub import HubSource
from foretune.text.task import Task

_METRICS = {"f1": "F1 of {!r}", "matthews": "Matthews correlation, accuracy beside it"}
_EXAMPLE = Example("First text.", "Second text.")


@dataclasses.dataclass(frozen=True)
class TasksData:
    """The built-in tasks for programs.

    Attributes:
        tasks: name -> task.
    """

    tasks: Mapping[str, Task]


def tasks_page(tasks: Sequence[Task], models: Sequence[tuple[str, str]]) -> Page:
    """A line for each task and each model.

    Args:
        tasks: the built-in ones.
        models: name and what each is.
    """
    columns = tuple(Column(name, words=True) for name in ("name", "labels", "template", "metric", "prompts"))
    rows = tuple(
        (task.name, ", ".join(task.labels), task.template, task.metric, ", ".join(task.prompts)) for task in tasks
    )
    return Page(
        title="Built-in tasks and models",
        tables=(
            Table(columns, rows, "Tasks (foretune tasks NAME shows one)"),
            Table((Column("name", words=True), Column("what", words=True)), tuple(models), "Models"),
        ),
        findings=(
            "MODEL can also be a hub id, a folder or a .gguf file; DATA can also be a file or a hub dataset id.",
        ),
        kind="tasks",
        data=TasksData({task.name: task for task in tasks}),
    )


def task_page(task: Task) -> Page:
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
    table = Table((Column("what", words=True), Column("value", words=True)), tuple(rows), headings=False)
    return Page(f"{task.name}: {task.about or 'a task'}", tables=(table,), kind="task", data=task)


def _hub(hub: HubSource | None) -> str:
    if hub is None:
        return "none: pass a file or folder"
    return f"{hub.name}, train: {hub.train}, test: {hub.test or 'the rest of train'}"
