"""What a table or figure would need, before it is measured."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from foretune.experiment.experiment import Experiment, asked_experiment
from foretune.experiment.folder import Place
from foretune.experiment.plan import StudyPlan, StudyWork, study_plan
from foretune.experiment.sample import Sample
from foretune.experiment.setting import PROMPT
from foretune.papers.recipe import Recipe, Study


@dataclass(frozen=True)
class PlannedStudy(Study):
    """A study whose cells are asked only: no folder is made, and no head is probed."""

    def cell(self, task: str, sample: Sample | int | None, seed: int, output: str = PROMPT, **how: Any) -> Experiment:
        """As `Study`, before anything is computed."""
        return asked_experiment(self.setting(task, sample, seed, output, **how), self.lm, self.work)


def planned_cells(recipe: Recipe, study: Study) -> list[tuple[Experiment, Place]]:
    """The cells of a recipe before anything is computed, and the folder that each has or would have.

    Raises:
        UsageError, DataError, ModelError: see `Study.cell`.
    """
    planned = PlannedStudy(**{field.name: getattr(study, field.name) for field in fields(Study)})
    return [(cell, study.place(cell.setting, cell.task.name)) for cell in recipe.cells(planned)]


def recipe_plan(recipe: Recipe, study: Study) -> StudyPlan:
    """The experiments of a recipe, and what is left to compute of them; one batch is timed, nothing is kept.

    Raises:
        UsageError, DataError, ModelError: see `Study.cell`.
    """
    cells = planned_cells(recipe, study)
    unknown = []
    if cells and recipe.work(study, cells[0][0]) is None:
        unknown.append(
            f"{recipe.name} computes neither kernels nor runs that can be counted; its time is not estimated."
        )
    return study_plan(cells, lambda cell: recipe.work(study, cell) or StudyWork(), unknown)
