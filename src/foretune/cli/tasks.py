"""`tasks`: the built-in tasks and models, or one task."""

from __future__ import annotations

from foretune.cli.deliver import deliver
from foretune.cli.options import ReportOptions, TaskName
from foretune.cli.places import Places
from foretune.model.builtin import MODELS
from foretune.text.builtin import TASKS, load_task
from foretune.text.page import task_page, tasks_page


def run_tasks(task: TaskName, report: ReportOptions) -> None:
    """All tasks and models, or everything about one task."""
    Places(report.json).check(inputs=[task.name])
    if task.name is not None:
        page = task_page(load_task(task.name))
    else:
        page = tasks_page(list(TASKS.values()), [(model, built.package.about) for model, built in MODELS.items()])
    deliver(page, report)
