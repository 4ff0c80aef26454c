"""What `validate` found, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foretune.analysis.rank_statistics import Ceiling
from foretune.validation.announced import Calls, ScoreCalibration, calibrations, calls
from foretune.validation.elsewhere import Placed
from foretune.validation.rankings import LOSS, SCORE, Ranking, ceilings, rankings
from foretune.validation.rivals import best_rule, rivals
from foretune.validation.runs import Measured


@dataclass(frozen=True)
class ValidationData:
    """Scores, real results and how well the one ranks the other.

    Attributes:
        versions: versions of Python and of the packages that numbers depend on.
        rankings: measure -> what each score says of the results.
        rivals: measure -> what rules say that learn from other tasks, and one epoch of every candidate.
        best_rules: measure -> the best rule that looks at no data of the task, which the partial correlations are
            given; null where no rule tells candidates apart.
        calibrations: of announced scores, by task, and of all.
        calls: how often `go`, `no-go` and `cannot tell` were right.
        ceilings: measure -> task -> how well any score could rank them.
        cells: a task and a seed each: candidates with their scores and real results.
    """

    versions: Mapping[str, str]
    rankings: Mapping[str, Sequence[Ranking]]
    rivals: Mapping[str, Sequence[Ranking]]
    best_rules: Mapping[str, str | None]
    calibrations: Sequence[ScoreCalibration]
    calls: Sequence[Calls]
    ceilings: Mapping[str, Mapping[str, Ceiling]]
    cells: Sequence[Measured]


def validation_data(
    cells: Sequence[Measured], versions: Mapping[str, str], studies: Sequence[Placed] = ()
) -> ValidationData:
    """What follows from some cells, computed once.

    Args:
        cells: of all seeds and tasks, the same candidates in each.
        versions: of Python and of the packages that numbers depend on.
        studies: cells of other studies, which a prior of placements learns from.
    """
    measures = (LOSS, SCORE)
    best = {measure.name: best_rule(cells, measure, studies) for measure in measures}
    given = {name: None if rule is None else rule.values for name, rule in best.items()}
    return ValidationData(
        versions,
        rankings={measure.name: rankings(cells, measure, given[measure.name]) for measure in measures},
        rivals={measure.name: rivals(cells, measure, given[measure.name], studies) for measure in measures},
        best_rules={name: None if rule is None else rule.name for name, rule in best.items()},
        calibrations=calibrations(cells),
        calls=calls(cells),
        ceilings={measure.name: ceilings(cells, measure) for measure in measures},
        cells=cells,
    )
