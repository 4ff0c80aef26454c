"""`tasks` and `env`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

import foretune
from foretune.cli.deliver import deliver
from foretune.cli.options import ReportOptions
from foretune.cli.places import Places
from foretune.cli.prepare import versions
from foretune.model.builtin import MODELS
from foretune.page import Column, Page, Table
from foretune.pages.console import console
from foretune.pages.terminal import print_page
from foretune.store.packages import cache_folder
from foretune.text.builtin import TASKS, load_task
from foretune.text.page import task_page, tasks_page


def run_tasks(name: str | None, report: ReportOptions) -> None:
    """All tasks and models, or everything about one task."""
    Places(report.json).check(inputs=[name])
    if name is not None:
        page = task_page(load_task(name))
    else:
        page = tasks_page(list(TASKS.values()), [(model, built.package.about) for model, built in MODELS.items()])
    deliver(page, report)


def run_env() -> None:
    """Versions, devices, cache."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [*versions().items()]
    rows.append(("built-in models", ", ".join(MODELS)))
    rows.append(("devices", ", ".join(["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])])))
    rows.append(("threads", str(torch.get_num_threads())))
    rows.append(("cache", str(Path(cache_folder()))))
    rows.append(("offline", "yes" if os.environ.get("HF_HUB_OFFLINE") else "no"))
    columns = (Column("what", words=True), Column("value", words=True))
    table = Table(columns, tuple(rows), headings=False)
    print_page(console(), Page(f"foretune {foretune.__version__}", tables=(table,)))
