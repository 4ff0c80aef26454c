"""`tasks`: the built-in tasks and models, or one task."""

from __future__ import annotations

import foretune
from foretune.cli.console import console
from foretune.cli.options import ReportOptions, TaskName
from foretune.cli.places import Places
from foretune.model.builtin import MODELS
from foretune.pages.layout import Column, table
from foretune.pages.tasks import print_task, print_tasks, task_fields
from foretune.store.json import write_json
from foretune.text.builtin import TASKS, load_task


def run_tasks(task: TaskName, report: ReportOptions) -> None:
    """All tasks and models, or everything about one task."""
    name = task.name
    out = console()
    Places(report.json).check(inputs=[name])
    if name is not None:
        shown = load_task(name)
        if report.json is not None:
            write_json(report.json, {"foretune": foretune.__version__, **task_fields(shown)})
        return print_task(out, shown)
    if report.json is not None:
        all_tasks = {each: task_fields(TASKS[each]) for each in TASKS}
        write_json(report.json, {"foretune": foretune.__version__, **all_tasks})
    print_tasks(out, list(TASKS.values()))
    rows = [(model, built.package.about) for model, built in MODELS.items()]
    out.print(table(out, "Models", [Column("name", words=True), Column("what", words=True)], rows))
    out.print("MODEL can also be a hub id, a folder or a .gguf file; DATA can also be a file or a hub dataset id.")
    return None
