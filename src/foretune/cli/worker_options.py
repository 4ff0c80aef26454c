"""The options of commands whose work can be carried out in parts: who does it."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.cli.fields import Field, Panel, options_of
from foretune.cli.ranges import AT_LEAST_1, NumberRange, UsedWith
from foretune.work.engine import Engine


@dataclass(frozen=True)
class WorkerOptions(
    options_of(
        Engine,
        Panel.WORKERS,
        engine=Field(),
        workers=Field(AT_LEAST_1),
        address=Field(UsedWith("engine", ("ray",))),
        cpus_per_worker=Field(AT_LEAST_1),
        gpus_per_worker=Field(NumberRange("1", zero=True)),
    )
):
    """Who carries out the work."""
