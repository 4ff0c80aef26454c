"""`env`: versions, devices and the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import torch

import foretune
from foretune.cli.versions import versions
from foretune.model.builtin import MODELS
from foretune.page import Column, Page, Table
from foretune.pages.console import console
from foretune.pages.terminal import print_page
from foretune.store.packages import cache_folder


def run_env() -> None:
    """Versions, devices, cache."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [*versions().items()]
    rows.append(("built-in models", ", ".join(MODELS)))
    rows.append(("devices", ", ".join(["cpu", *cuda])))
    rows.append(("threads", str(torch.get_num_threads())))
    rows.append(("cache", str(Path(cache_folder()))))
    rows.append(("offline", "yes" if os.environ.get("HF_HUB_OFFLINE") else "no"))
    table = Table((Column("what", words=True), Column("value", words=True)), tuple(rows), headings=False)
    print_page(console(), Page(f"foretune {foretune.__version__}", tables=(table,)))
