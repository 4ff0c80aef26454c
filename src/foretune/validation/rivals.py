r"""What every score has to beat: rules that look at no data of the task, and a single epoch of everything.

Beside the rules of `candidates.rules`, which are scores as well:

    mean rank on other tasks   the mean rank of each candidate's real result over the cells of the study's other tasks
    placement prior            that mean rank, regressed on number of layer, feed-forward share and size (ridge of
                               strength 1 on standardised columns)
    prior from other studies   the same, learned from results that `--prior` names, of other models or tasks
    one epoch of all           the lowest validation loss of each candidate within one pass over the training examples
                               (Mohan & Egele et al. 2024, arXiv 2404.04111: as good as every early-stopping method)

The first two need another task, and that its candidates were run. The best of the rules by median correlation, known
afterwards, is what the partial correlations are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from foretune.analysis.rank_statistics import median_correlation
from foretune.candidates.scores import DATA_FREE
from foretune.shapes import Float64
from foretune.validation.elsewhere import Placed, columns_of, prior_from, ridge_weights
from foretune.validation.rankings import (
    Measure,
    Ranking,
    exhaustive_search,
    places_of,
    ranking_of,
    results_of,
    scores_of,
    tasks_of,
)
from foretune.validation.runs import Measured
from foretune.validation.stopped import lowest_within

OTHER_TASKS, PRIOR = "mean rank on other tasks", "placement prior, from other tasks"
PRIOR_ELSEWHERE = "placement prior, from other studies"
ONE_EPOCH = "one epoch of all, by validation loss"


@dataclass(frozen=True)
class DataFreeRule:
    """A rule that looks at no data of the task.

    Attributes:
        name: of the rule.
        values: what it says, a row a task and seed, larger is better.
    """

    name: str
    values: Float64[np.ndarray, "s k"]


def rules(
    cells: Sequence[Measured], measure: Measure, studies: Sequence[Placed] = ()
) -> dict[str, Float64[np.ndarray, "s k"]]:
    """Name -> what each rule that looks at no data of the task says, a row a task and seed, larger is better.

    Args:
        cells: of all seeds and tasks, the same candidates in each.
        measure: test loss or test score; what the rules over other tasks learn from.
        studies: cells of other studies.
    """
    found = {name: scores_of(cells, name) for name in DATA_FREE if name in cells[0].scores}
    if studies:
        found[PRIOR_ELSEWHERE] = prior_from(studies, cells, measure)
    if len(tasks_of(cells)) == 1:
        return found
    others = _others(cells, measure)
    return {**found, OTHER_TASKS: others, PRIOR: _prior(others, cells)}


def best_rule(cells: Sequence[Measured], measure: Measure, studies: Sequence[Placed] = ()) -> DataFreeRule | None:
    """The rule with the largest median correlation; None where no rule tells candidates apart. Args: see `rules`."""
    results, every = results_of(cells, measure), rules(cells, measure, studies)
    medians = {name: median_correlation(values, results).value for name, values in every.items()}
    known = {name: value for name, value in medians.items() if not np.isnan(value)}
    if not known:
        return None
    best = max(known, key=lambda name: known[name])
    return DataFreeRule(best, every[best])


def rivals(
    cells: Sequence[Measured],
    measure: Measure,
    given: Float64[np.ndarray, "s k"] | None = None,
    studies: Sequence[Placed] = (),
) -> list[Ranking]:
    """What stands beside the scores: rules over other tasks, one epoch of all if all were evaluated then, and whole runs.

    Args:
        cells, measure, given: see `validation.rankings.rankings`.
        studies: cells of other studies.
    """
    found: Mapping[str, Float64[np.ndarray, "s k"]] = {
        name: values for name, values in rules(cells, measure, studies).items() if name not in DATA_FREE
    }
    early = [lowest_within(cell.outcomes, cell.epoch) for cell in cells]
    if all(np.isfinite(values).any() for values in early):
        found = {**found, ONE_EPOCH: np.stack(early)}
    ranked = [ranking_of(name, values, cells, measure, given) for name, values in found.items()]
    return [*ranked, exhaustive_search(cells, measure, given)]


def _others(cells: Sequence[Measured], measure: Measure) -> Float64[np.ndarray, "s k"]:
    """The mean rank on the other tasks."""
    ranks = rankdata(results_of(cells, measure), axis=1)
    own = {task: places_of(cells, task) for task in tasks_of(cells)}
    return np.stack([np.delete(ranks, own[cell.task], axis=0).mean(0) for cell in cells])


def _prior(others: Float64[np.ndarray, "s k"], cells: Sequence[Measured]) -> Float64[np.ndarray, "s k"]:
    """The same, smoothed by what is known of the candidates."""
    return np.stack([_smoothed(values, columns_of(cell.scores)) for values, cell in zip(others, cells, strict=True)])


def _smoothed(values: Float64[np.ndarray, " k"], columns: Float64[np.ndarray, "k f"]) -> Float64[np.ndarray, " k"]:
    return columns @ ridge_weights(columns, values - values.mean(), 1.0)
