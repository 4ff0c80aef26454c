"""A prior of placements from other studies: what was best for other models and tasks, by layer, kind and size.

A study is a result of `foretune validate`. Candidates of another model have other names, but every one has a place, a kind
and a size among the candidates beside it. Those columns, standardised in each cell, are regressed on
the ranks of the real results by a ridge of strength 1 a cell. Cells of the task at hand have no part in what is said of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from foretune.errors import UsageError
from foretune.shapes import Float64
from foretune.validation.rankings import LOSS, SCORE, Measure, tasks_of
from foretune.validation.runs import Measured

PLACE, KIND, SIZE = "shallow layers first", "feed-forward first", "parameter count"
"""Scores of a candidate that say where it stands."""


@dataclass(frozen=True)
class Placed:
    """The candidates of one task and seed of another study.

    Attributes:
        task: name of the task.
        columns: place, kind and size of each candidate, standardised.
        ranks: measure -> rank of what each really reached, from -1/2 (worst) to 1/2.
    """

    task: str
    columns: Float64[np.ndarray, "k f"]
    ranks: Mapping[str, Float64[np.ndarray, " k"]]


def columns_of(scores: Mapping[str, Sequence[float]]) -> Float64[np.ndarray, "k f"]:
    """Place, kind and size of some candidates, standardised among them."""
    columns = np.array([scores[PLACE], scores[KIND], np.log1p(np.array(scores[SIZE], dtype=float))]).T
    spread = columns.std(0)
    return (columns - columns.mean(0)) / np.where(spread > 0, spread, 1.0)


def placed(record: Mapping[str, Any]) -> tuple[Placed, ...]:
    """The cells of a study.

    Args:
        record: the result of `foretune validate` as plain values; a run that failed ranks last.
    """
    found = []
    for cell in record["cells"]:
        losses, scores = (
            np.array([worst if each[name] is None else float(each[name]) for each in cell["outcomes"]])
            for name, worst in (("test_loss", np.inf), ("test_score", -np.inf))
        )
        ranks = {LOSS.name: _centred(-losses), SCORE.name: _centred(scores)}
        found.append(Placed(cell["task"], columns_of(cell["scores"]), ranks))
    return tuple(found)


def require_other_tasks(studies: Sequence[Placed], tasks: Sequence[str]) -> None:
    """See that something is left to learn from for every task.

    Raises:
        UsageError: the studies have no task but the one at hand.
    """
    known = {cell.task for cell in studies}
    for task in tasks if studies else ():
        if known <= {task}:
            raise UsageError(
                f"The results of --prior are of {task} alone, and so is what they would be used for. A prior for {task} "
                "needs a study of another task: add its folder, or leave --prior out."
            )


def prior_from(studies: Sequence[Placed], cells: Sequence[Measured], measure: Measure) -> Float64[np.ndarray, "s k"]:
    """What the studies say of some candidates, a row a task and seed, larger is better.

    Args:
        studies: cells of other studies, with another task for each of these.
        cells: the candidates.
        measure: test loss or test score; what the prior is learned from.
    """
    weights = {task: _weights([each for each in studies if each.task != task], measure) for task in tasks_of(cells)}
    return np.stack([columns_of(cell.scores) @ weights[cell.task] for cell in cells])


def _weights(studies: Sequence[Placed], measure: Measure) -> Float64[np.ndarray, " f"]:
    columns = np.concatenate([each.columns for each in studies])
    ranks = np.concatenate([each.ranks[measure.name] for each in studies])
    return ridge_weights(columns, ranks, len(studies))


def ridge_weights(
    columns: Float64[np.ndarray, "k f"], values: Float64[np.ndarray, " k"], strength: float
) -> Float64[np.ndarray, " f"]:
    """The weights of ridge regression of values on columns, without an intercept."""
    return np.linalg.solve(columns.T @ columns + strength * np.eye(columns.shape[1]), columns.T @ values)


def _centred(values: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    ranks = rankdata(values)
    return (ranks - ranks.mean()) / max(len(ranks) - 1, 1)
