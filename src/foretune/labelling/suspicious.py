"""Which labels look wrong: each row asked of a fit to all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.label_noise import LabelNoise, label_noise
from foretune.analysis.leave_one_out import LeftOut, ridge_left_out
from foretune.labelling.kernel import RowKernel
from foretune.labelling.rows import Row, RowsToAsk
from foretune.labelling.twins import Twins, contradicting_twins


@dataclass(frozen=True)
class SuspiciousRow(Row):
    """A row, and what the others say of its label.

    Attributes:
        likely: label, other than the given one, that the other rows make the most likely.
        probability: probability that the given label is wrong, 0 to 1.
        likely_probability: probability that the likely label is right, 0 to 1.
    """

    likely: str
    probability: float
    likely_probability: float


@dataclass(frozen=True)
class WrongLabels:
    """How many labels are wrong.

    Attributes:
        count: the most likely number.
        low: lower end of its 95% interval.
        high: upper end of its 95% interval.
        can_tell: whether the interval is narrow enough to say anything.
    """

    count: int
    low: int
    high: int
    can_tell: bool


@dataclass(frozen=True)
class Suspicion:
    """All rows, the most suspicious first.

    Attributes:
        rows: all labelled rows.
        wrong: how many of them have a wrong label.
        agreement: share of the rows whose given label is the one that the others make the most likely, 0 to 1.
        majority: share of the most frequent label.
        twins: pairs of rows with nearly one text and two labels.
        kernel: what it is made of, `gradients` or `features`.
        strength: ridge, over the mean diagonal of the kernel.
    """

    rows: tuple[SuspiciousRow, ...]
    wrong: WrongLabels
    agreement: float
    majority: float
    twins: tuple[Twins, ...]
    kernel: str
    strength: float

    @property
    def suspicious(self) -> tuple[SuspiciousRow, ...]:
        """The rows whose likely label is more likely right than the given one."""
        return tuple(row for row in self.rows if row.likely_probability > 1 - row.probability)


def suspicion_of(found: RowsToAsk, kernel: RowKernel) -> Suspicion:
    """The rows by suspicion.

    Args:
        found: rows and their labels.
        kernel: between them.
    """
    y, classes = found.y, len(found.labels)
    fit = ridge_left_out(kernel.factors, y, classes)
    noise = label_noise(fit.outputs, y)
    return Suspicion(
        rows=_ranked(found.rows, found.labels, fit, noise, y),
        wrong=_wrong(noise, len(y)),
        agreement=float((fit.outputs.argmax(1) == y).mean()),
        majority=float(np.bincount(y).max() / len(y)),
        twins=contradicting_twins(found.rows),
        kernel=kernel.how,
        strength=fit.strength,
    )


def _wrong(noise: LabelNoise, n: int) -> WrongLabels:
    return WrongLabels(round(noise.share * n), round(noise.low * n), round(noise.high * n), noise.can_tell)


def _ranked(
    rows: Sequence[Row], labels: Sequence[str], fit: LeftOut, noise: LabelNoise, y: np.ndarray
) -> tuple[SuspiciousRow, ...]:
    """Rows by the probability that their label is wrong; those that are equally so by the outputs themselves."""
    right = noise.right_labels(fit.outputs, y)
    doubt = 1 - right[np.arange(len(y)), y]
    others = right.copy()
    others[np.arange(len(y)), y] = -1
    order = np.lexsort((fit.probabilities[np.arange(len(y)), y], -doubt))
    return tuple(
        SuspiciousRow(
            **vars(rows[place]),
            likely=labels[int(others[place].argmax())],
            probability=float(doubt[place]),
            likely_probability=float(others[place].max()),
        )
        for place in order
    )
