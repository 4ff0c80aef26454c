"""A validation in parts for a crew: the candidates of each cell, then all runs, then the scores of each cell.

Everything is kept in the cells, where `measured_candidates` reads it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from foretune.candidates.candidate import Candidate
from foretune.candidates.pool import pool_sketch
from foretune.candidates.sketched import Features
from foretune.experiment.experiment import asked_experiment
from foretune.experiment.items import AskedCell, AskedGrid, carry_out_runs
from foretune.store.lock import claimed
from foretune.validation.runs import (
    ValidationStudy,
    candidates_of,
    chosen_candidates,
    kept_candidates,
    measured_cell,
    refuse_unmatched,
)
from foretune.work.crew import Crew
from foretune.work.item import Bench


@dataclass(frozen=True)
class CandidatesOf:
    """The candidates of a cell, with its kernels.

    Attributes:
        asked: the cell.
        rank: of LoRA; None for full tuning.
        features: whether kernels are sketched, see `ValidationStudy`.
    """

    asked: AskedCell
    rank: int | None
    features: Features

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        cell = self.asked.opened(bench)
        with claimed(cell.place_of("candidates")):
            candidates_of(cell, self.rank, pool_sketch(cell, self.rank, self.features))
        return cell.place_of("")


@dataclass(frozen=True)
class CellScores:
    """Outcomes, scores and predicted curves of a cell whose runs are finished.

    Attributes:
        asked: the cell.
        chosen: its candidates.
        study: the fields of `ValidationStudy`, but for the model and the progress.
    """

    asked: AskedCell
    chosen: tuple[Candidate, ...]
    study: Mapping[str, Any]

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        cell = self.asked.opened(bench)
        with claimed(cell.place_of("scores")):
            measured_cell(ValidationStudy(lm=bench.tool, **self.study), cell, self.chosen)
        return cell.place_of("")


def carry_out_validation(study: ValidationStudy, crew: Crew) -> None:
    """Everything that a validation keeps.

    Args:
        study: what is asked for.
        crew: who does it.

    Raises:
        UsageError, DataError, ModelError, NonFiniteError: see `measured_candidates`.
        ForetuneError: see `Crew.carry_out`.
    """
    every = [(task, seed) for seed in study.seeds for task in study.tasks]
    asked = [AskedCell(*study.asked(task, seed), study.memory) for task, seed in every]
    refuse_unmatched(asked_experiment(asked[0].setting, study.lm, study.work), study)
    crew.carry_out("experiments", [CandidatesOf(each, study.rank, study.features) for each in asked], study.progress)
    cells = [study.cell(task, seed) for task, seed in every]
    known = [kept_candidates(cell, study.rank, study.sketch(cell)) or [] for cell in cells]
    chosen = chosen_candidates(known, study.candidates)
    parts = list(zip(asked, cells, chosen, strict=True))
    grids = [
        AskedGrid(each, cell, item.tuning, grid)
        for each, cell, items in parts
        for item in items
        for grid in study.grids
    ]
    carry_out_runs(crew, grids, study.progress)
    sent = {field.name: getattr(study, field.name) for field in fields(study) if field.name not in ("lm", "progress")}
    scores = [CellScores(each, tuple(items), sent) for each, _, items in parts]
    crew.carry_out("scores", scores, study.progress)
