"""What a validation would do, before it is done."""

from __future__ import annotations

from foretune.candidates.effort import Effort
from foretune.candidates.pool import PARTS, pool_blocks, pool_formulas
from foretune.experiment.experiment import Experiment, asked_experiment
from foretune.experiment.plan import StudyPlan, StudyWork, missing_kernels, study_plan
from foretune.validation.runs import ValidationStudy, kept_candidates, matching_labels, named_of, refuse_unmatched


def validation_plan(study: ValidationStudy) -> StudyPlan:
    """The kernels and runs of a validation; one batch is timed, nothing is kept.

    Raises:
        UsageError, DataError, ModelError: see `load_experiment`.
    """
    asked = [study.asked(task, seed) for seed in study.seeds for task in study.tasks]
    cells = [(asked_experiment(setting, study.lm, study.work), place) for setting, place in asked]
    refuse_unmatched(cells[0][0], study)
    most = len(Effort().greedy_sizes)
    unknown = [
        f"The greedy search adds up to {most} candidates to each experiment that has no kernels yet; their runs are not "
        "counted."
    ]
    if study.warm_up:
        unknown.append("Warm-ups and the kernels after them are not counted.")
    return study_plan(cells, lambda cell: _work(study, cell), unknown)


def _work(study: ValidationStudy, cell: Experiment) -> StudyWork:
    """What is asked of a cell; of its candidates, those that are known before the kernels."""
    sketch = study.sketch(cell)
    kept = kept_candidates(cell, study.rank, sketch)
    known = named_of(cell, study.rank) if kept is None else kept
    chosen = matching_labels([item.label for item in known], study.candidates)
    grids = [(item.tuning, grid) for item in known if item.label in chosen for grid in study.grids]
    if kept is not None:
        return StudyWork(grids)
    formulas, blocks = pool_formulas(study.rank), pool_blocks(cell, study.rank)
    return StudyWork(grids, missing_kernels(cell, formulas, PARTS, blocks, sketch))
