"""What `validate` found, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foretune.analysis.rank_statistics import Ceiling
from foretune.validation.rankings import LOSS, SCORE, Ranking, ceilings, rankings
from foretune.validation.runs import Measured


@dataclass(frozen=True)
class ValidationData:
    """Scores, real results and how well the one ranks the other.

    Attributes:
        versions: versions of Python and of the packages that numbers depend on.
        rankings: measure -> what each score says of the results.
        ceilings: measure -> task -> how well any score could rank them.
        cells: a task and a seed each: candidates with their scores and real results.
    """

    versions: Mapping[str, str]
    rankings: Mapping[str, Sequence[Ranking]]
    ceilings: Mapping[str, Mapping[str, Ceiling]]
    cells: Sequence[Measured]


def validation_data(cells: Sequence[Measured], versions: Mapping[str, str]) -> ValidationData:
    """What follows from some cells, computed once.

    Args:
        cells: of all seeds and tasks, the same candidates in each.
        versions: of Python and of the packages that numbers depend on.
    """
    return ValidationData(
        versions,
        rankings={measure.name: rankings(cells, measure) for measure in (LOSS, SCORE)},
        ceilings={measure.name: ceilings(cells, measure) for measure in (LOSS, SCORE)},
        cells=cells,
    )
