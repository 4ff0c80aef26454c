"""The options of `labels` and `explain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foretune.cli.fields import Panel, option
from foretune.cli.from_forecast import asked_as_forecast
from foretune.cli.options import KernelMemory
from foretune.cli.ranges import AT_LEAST_1, SEED, Numbers

LABELS = "labels.json"
"""The result in a folder of `labels`."""


_KERNEL = "Compare rows by the model's features, or by its gradients: slower, and often better."


@dataclass(frozen=True)
class RowKernelOptions:
    """How rows are compared."""

    kernel: Annotated[Literal["features", "gradients"], option(Panel.RUN, _KERNEL)] = "features"
    seed: Annotated[
        int, option(Panel.RUN, "Seed of what is drawn at random, such as the head for --kernel gradients."), SEED
    ] = 13
    memory: KernelMemory = "2GiB"


@dataclass(frozen=True)
class LabelsOptions(RowKernelOptions):
    """How labels are looked at, and where the results go."""

    kernel: Annotated[
        Literal["features", "gradients"] | None,
        option(
            Panel.RUN,
            f"{_KERNEL}  [default: features; for more than two labels gradients, where that takes minutes at most]",
        ),
    ] = None
    write: Annotated[
        Path | None,
        option(
            Panel.RUN,
            "Write a copy of DATA with the likely labels instead of the suspicious ones to this new .csv, .tsv or .jsonl "
            "file.",
        ),
    ] = None
    unlabelled: Annotated[
        str | None,
        option(Panel.RUN, "Rank the texts of this file, or hub dataset, by what their labels would teach."),
    ] = None
    batch: Annotated[
        int | None, option(Panel.RUN, "Number of rows of --unlabelled to choose.  [default: 20]"), AT_LEAST_1
    ] = None
    forecast: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of `foretune forecast --out DIR`: take its MODEL and DATA, and how they are read. An option "
            "given beside it overrides it.",
            rich_help_panel=Panel.RUN,
            callback=asked_as_forecast,
            is_eager=True,
        ),
    ] = None
    out: Annotated[
        Path | None, option(Panel.RUN, "Folder for the results and the kernel; a stopped run in it is resumed.")
    ] = None


@dataclass(frozen=True)
class ExplainOptions(RowKernelOptions):
    """Which predictions are explained."""

    row: Annotated[
        str | None,
        option(Panel.RUN, "Rows of DATA to ask about, by their number from 0, such as 0,17."),
        Numbers("0,17"),
    ] = None
    ask: Annotated[str | None, option(Panel.RUN, "A text to ask about.")] = None
    ask2: Annotated[str | None, option(Panel.RUN, "The second text of a pair to ask about.", "--ask2")] = None
