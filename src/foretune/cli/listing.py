"""`tasks` and `env`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.table import Table

import foretune
from foretune.cli.options import ReportOptions
from foretune.cli.prepare import console, versions
from foretune.model.builtin import MODELS
from foretune.report.json import write_json
from foretune.report.tasks import print_task, print_tasks, task_fields
from foretune.store.packages import cache_folder
from foretune.text.builtin import TASKS, load_task


def run_tasks(name: str | None, report: ReportOptions) -> None:
    """All tasks and models, or everything about one task."""
    out = console()
    if name is not None:
        task = load_task(name)
        if report.json is not None:
            write_json(report.json, task_fields(task))
        return print_task(out, task)
    if report.json is not None:
        write_json(report.json, {task: task_fields(TASKS[task]) for task in TASKS})
    print_tasks(out, [TASKS[task] for task in TASKS])
    table = Table(title="Models", title_justify="left")
    table.add_column("name")
    table.add_column("what")
    for model, built in MODELS.items():
        table.add_row(model, built.package.about)
    out.print(table)
    out.print("Any hub id, model folder or .gguf file works in the place of a model, any file or dataset id as data.")
    return None


def run_env() -> None:
    """Versions, devices, cache."""
    out = console()
    table = Table(show_header=False)
    for name, version in versions().items():
        table.add_row(name, version)
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("built-in models", ", ".join(MODELS))
    table.add_row("devices", ", ".join(["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]))
    table.add_row("threads", str(torch.get_num_threads()))
    table.add_row("cache", str(Path(cache_folder())))
    table.add_row("offline", "yes" if os.environ.get("HF_HUB_OFFLINE") else "no")
    out.print(table)
    out.print(f"foretune {foretune.__version__}")
