"""Which way gradient descent moves the norm of each class's row (Tomihari and Sato 2024, "Increase in classifier norms").

The derivative dL / d||v_k|| of `analysis.classifier` before training and after linear probing, on training examples, as a
mean over examples: negative where a step makes the row longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment
from foretune.model.outputs import Outputs
from foretune.page import Table
from foretune.papers.lpft.measures import MEASURED, probed_outputs
from foretune.papers.lpft.page import three_digits
from foretune.regime.head import head_norm_slopes, head_row_norms


@dataclass(frozen=True)
class RowSlopes:
    """The rows of a classifier.

    Attributes:
        norms: ||v_k|| of each class.
        slopes: dL / d||v_k|| of each class, nats per unit of norm, mean over examples.
    """

    norms: tuple[float, ...]
    slopes: tuple[float, ...]


def pretrained_slopes(cell: Experiment) -> RowSlopes:
    """The rows of the random classifier."""
    return _kept(cell, "lpft-slopes-pretrained", {}, lambda: cell.outputs)


def probed_slopes(cell: Experiment, budget: Budget) -> RowSlopes:
    """The rows after linear probing with its own grid.

    Raises:
        NonFiniteError: linear probing failed at every point of its grid.
    """
    return _kept(cell, "lpft-slopes-probed", *probed_outputs(cell, budget))


def slopes_table(labels: Sequence[str], before: Sequence[RowSlopes], after: Sequence[RowSlopes], caption: str) -> Table:
    """Norms and derivatives of every class's row, means over seeds.

    Args:
        labels: of the classes.
        before: with the random classifier, of each seed.
        after: after linear probing, of the same seeds.
        caption: above the table.
    """
    columns = [
        np.mean([getattr(one, name) for one in of], axis=0) for of in (before, after) for name in ("norms", "slopes")
    ]
    rows = tuple((label, *map(three_digits, numbers)) for label, *numbers in zip(labels, *columns, strict=True))
    header = ("Class", "||v|| before", "dL/d||v|| before", "||v|| after LP", "dL/d||v|| after LP")
    return Table(header, rows, caption)


def slopes_finding(before: Sequence[RowSlopes], where: str) -> str:
    """For how many classes the first steps of gradient descent make the row longer."""
    slopes = np.mean([one.slopes for one in before], axis=0)
    return (
        f"{where}: before training dL/d||v|| is negative for {int((slopes < 0).sum())} of {len(slopes)} classes: "
        "gradient descent makes their rows longer."
    )


def _kept(cell: Experiment, name: str, key: Mapping[str, object], outputs: Callable[[], Outputs]) -> RowSlopes:
    def computed() -> dict[str, object]:
        model, rows, y = outputs(), cell.split.train[:MEASURED], cell.labels("train")[:MEASURED]
        slopes = head_norm_slopes(model, rows, y) / len(rows)
        return asdict(RowSlopes(tuple(head_row_norms(model).tolist()), tuple(slopes.tolist())))

    found = cell.value(name, {**key, "measured": MEASURED}, computed)
    return RowSlopes(tuple(found["norms"]), tuple(found["slopes"]))
