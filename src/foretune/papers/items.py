"""A page of a paper in parts for a crew: the runs that are known before, then the page of each task and seed alone.

What such a page measures is kept in its cells, where the page of all tasks and seeds reads it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from foretune.errors import UsageError
from foretune.experiment.items import AskedCell, AskedGrid, carry_out_runs
from foretune.experiment.plan import in_its_folder
from foretune.papers.plan import planned_cells
from foretune.papers.recipe import Recipe, Study
from foretune.papers.recipes import recipe_named
from foretune.store.lock import claimed
from foretune.work.crew import Crew
from foretune.work.item import Bench

_HERE = ("lm", "tasks", "seeds", "progress")
"""Of a study, what is not sent: the model, the progress, and what each part has its own of."""


@dataclass(frozen=True)
class PartOfPage:
    """The page of one task and one seed.

    Attributes:
        recipe: its name.
        task, seed: of the part.
        study: the other fields of `Study`, but for the model.
    """

    recipe: str
    task: str
    seed: int
    study: Mapping[str, Any]

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        study = Study(lm=bench.tool, tasks=(self.task,), seeds=(self.seed,), **self.study)
        with claimed(study.root / f"{self.recipe}-{self.task}-{self.seed}"):
            recipe_named(self.recipe).page(study)
        return study.root


def carry_out_recipe(recipe: Recipe, study: Study, crew: Crew) -> None:
    """Everything that a page keeps.

    Args:
        recipe: the page.
        study: what is asked for.
        crew: who does it.

    Raises:
        UsageError: a page of seconds.
        UsageError, DataError, ModelError: see `Recipe.page`.
        ForetuneError: see `Crew.carry_out`.
    """
    if recipe.timed:
        raise UsageError(
            f"{recipe.name} measures seconds, which workers beside each other would change. Leave --workers out."
        )
    grids = []
    for planned, place in planned_cells(recipe, study):
        cell = in_its_folder(planned, place)
        work = recipe.work(study, cell)
        asked = AskedCell(cell.setting, place, study.memory)
        grids += [AskedGrid(asked, cell, method, grid) for method, grid in (work.grids if work else ())]
    carry_out_runs(crew, grids, study.progress)
    sent = {field.name: getattr(study, field.name) for field in fields(Study) if field.name not in _HERE}
    parts = [PartOfPage(recipe.name, task, seed, sent) for seed in study.seeds for task in study.tasks]
    crew.carry_out("tasks and seeds", parts, study.progress)
