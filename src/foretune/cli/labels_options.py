"""The options of `labels`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foretune.cli.fields import Panel, option
from foretune.cli.from_forecast import asked_as_forecast
from foretune.cli.options import KernelMemory
from foretune.cli.ranges import SEED

LABELS = "labels.json"
"""The result in a folder of `labels`."""


@dataclass(frozen=True)
class LabelsOptions:
    """How labels are looked at, and where the results go."""

    kernel: Annotated[
        Literal["features", "gradients"],
        option(Panel.RUN, "Compare rows by the model's features, or by its gradients, which takes minutes."),
    ] = "features"
    write: Annotated[
        Path | None,
        option(
            Panel.RUN,
            "Write a copy of DATA with the likely labels in place of the suspicious ones to this new .csv, .tsv or .jsonl "
            "file.",
        ),
    ] = None
    forecast: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of `foretune forecast --out DIR`: take its MODEL and DATA, and how they are read. Options given "
            "beside it come first.",
            rich_help_panel=Panel.RUN,
            callback=asked_as_forecast,
            is_eager=True,
        ),
    ] = None
    seed: Annotated[int, option(Panel.RUN, "Seed of the random head whose gradients are compared."), SEED] = 13
    memory: KernelMemory = "2GiB"
    out: Annotated[
        Path | None, option(Panel.RUN, "Folder for the results and the kernel; a stopped run in it is resumed.")
    ] = None
