"""Unlabelled rows by what their labels would teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from foretune.analysis.batch_choice import chosen_batch
from foretune.analysis.example_kernel import Factors, kernel_factors
from foretune.analysis.leave_one_out import ridge_left_out
from foretune.labelling.rows import Row, RowsToAsk
from foretune.shapes import Int
from foretune.text.example import Rows
from foretune.text.rows import require_columns
from foretune.text.task import Task

LEAST_UNCLEAR = 1e-3
"""No row is taken for perfectly clear: where all are nearly so, they differ by their variance alone."""


@dataclass(frozen=True)
class NextRow(Row):
    """An unlabelled row.

    Attributes:
        gain: share of the doubt about all unlabelled rows that its label takes away, given the rows before it, 0 to 1.
    """

    gain: float


@dataclass(frozen=True)
class NextRows:
    """The rows to label next, in their order.

    Attributes:
        rows: rows that were chosen, the first to label first.
        unlabelled: how many there were to choose from.
    """

    rows: tuple[NextRow, ...]
    unlabelled: int


def unlabelled_rows(rows: Rows, task: Task, known: RowsToAsk) -> tuple[Row, ...]:
    """The rows of a file of texts that are not among the labelled ones; each text once.

    Raises:
        UsageError: a column of texts is missing.
    """
    names = [name for name in (task.text, task.text2) if name is not None]
    require_columns(rows, names)
    seen = {(row.text, row.text2) for row in known.rows}
    found = []
    for place, row in enumerate(rows):
        texts = [str(row.get(name) or "") for name in names]
        pair = (texts[0], texts[1] if len(texts) > 1 else None)
        if texts[0].strip() and pair not in seen:
            seen.add(pair)
            found.append(Row(rows.source, place, *pair, None))
    return tuple(found)


def rows_to_label(
    factors: Factors, y: Int[np.ndarray, " n"], classes: int, rows: Sequence[Row], count: int
) -> NextRows:
    """The rows to label next.

    Args:
        factors: of the kernel between the labelled rows and then these.
        y: class numbers of the labelled rows.
        classes: how many there are.
        rows: unlabelled ones.
        count: rows to choose.
    """
    kernel, n = factors.matrix, len(y)
    fit = ridge_left_out(kernel_factors(kernel[:n, :n]), y, classes)
    alpha = np.linalg.solve(kernel[:n, :n] + fit.strength * np.eye(n), np.eye(classes)[y])
    unclear = 1 - (softmax(fit.sharpness * (kernel[n:, :n] @ alpha), axis=1) ** 2).sum(1)
    found = chosen_batch(kernel, n, fit.strength, np.maximum(unclear, LEAST_UNCLEAR), count)
    pairs = zip(found.places, found.gains, strict=True)
    return NextRows(tuple(NextRow(**vars(rows[int(place)]), gain=float(gain)) for place, gain in pairs), len(rows))
