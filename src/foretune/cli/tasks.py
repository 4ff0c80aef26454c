"""`tasks` and `env`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

import foretune
from foretune.cli.console import console
from foretune.cli.options import ReportOptions
from foretune.cli.places import Places
from foretune.cli.prepare import versions
from foretune.model.builtin import MODELS
from foretune.pages.layout import Column, table
from foretune.pages.tasks import print_task, print_tasks, task_fields
from foretune.store.json import write_json
from foretune.store.packages import cache_folder
from foretune.text.builtin import TASKS, load_task


def run_tasks(name: str | None, report: ReportOptions) -> None:
    """All tasks and models, or everything about one task."""
    out = console()
    Places(report.json).check(inputs=[name])
    if name is not None:
        task = load_task(name)
        if report.json is not None:
            write_json(report.json, {"foretune": foretune.__version__, **task_fields(task)})
        return print_task(out, task)
    if report.json is not None:
        all_tasks = {task: task_fields(TASKS[task]) for task in TASKS}
        write_json(report.json, {"foretune": foretune.__version__, **all_tasks})
    print_tasks(out, [TASKS[task] for task in TASKS])
    rows = [(model, built.package.about) for model, built in MODELS.items()]
    out.print(table(out, "Models", [Column("name", words=True), Column("what", words=True)], rows))
    out.print("Any hub id, model folder or .gguf file works in the place of a model, any file or dataset id as data.")
    return None


def run_env() -> None:
    """Versions, devices, cache."""
    out = console()
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [*versions().items()]
    rows.append(("built-in models", ", ".join(MODELS)))
    rows.append(("devices", ", ".join(["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])])))
    rows.append(("threads", str(torch.get_num_threads())))
    rows.append(("cache", str(Path(cache_folder()))))
    rows.append(("offline", "yes" if os.environ.get("HF_HUB_OFFLINE") else "no"))
    columns = [Column("what", words=True), Column("value", words=True)]
    out.print(table(out, "", columns, rows, headings=False))
    out.print(f"foretune {foretune.__version__}")
