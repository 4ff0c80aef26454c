r"""The output derivative `chi = dl / df`, which is small where the pretrained model solves the task already.

Malladi et al. 2023, Definition 2.1; its mean over the data before training is Table 5, and its maximum chi_max scales
Definition D.3. The losses are those of `analysis.losses`; for the cross-entropy |chi| <= 1 is the probability that an
output has too much or too little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.losses import LogLoss, OutputLoss, targets
from foretune.errors import UsageError
from foretune.shapes import Float64, Int


@dataclass(frozen=True)
class OutputDerivative:
    """How far the outputs are from where the loss wants them.

    Attributes:
        mean_absolute: mean |chi| over examples and outputs (Table 5).
        largest: chi_max, the largest |chi| over examples and outputs (Definition D.3).
    """

    mean_absolute: float
    largest: float


def output_derivative(
    f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"], loss: OutputLoss | None = None
) -> OutputDerivative:
    """The size of chi over the data (Malladi et al. 2023, Definition 2.1, Table 5).

    Args:
        f: outputs, before training in the paper; one column is the difference form f_1 - f_0.
        y: class numbers, m = n of them.
        loss: `LogLoss()` when left out, or `HalfSquaredLoss()`.

    Raises:
        UsageError: no examples, another number of labels, or a class number without an output.
    """
    size = np.abs(chi(f, y, loss or LogLoss()))
    return OutputDerivative(float(size.mean()), float(size.max()))


def chi(f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"], loss: OutputLoss) -> Float64[np.ndarray, "n c"]:
    """The derivative of each example's loss by its outputs, in units of the loss per output.

    Args and errors as in `output_derivative`.
    """
    return loss.derivative(f.copy(), labelled(f, y))  # a loss writes over what it is given


def labelled(f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"]) -> Float64[np.ndarray, "n c"]:
    """The targets that belong to outputs.

    Raises:
        UsageError: no examples, another number of labels, or a class number without an output.
    """
    if not len(f) or len(f) != len(y):
        raise UsageError(
            f"{len(f)} outputs and {len(y)} labels; expected one label per example, and at least one example."
        )
    classes = max(f.shape[1], 2)
    if y.min() < 0 or y.max() >= classes:
        raise UsageError(f"The class numbers run from {y.min()} to {y.max()}; expected 0 to {classes - 1}.")
    return targets(y, f.shape[1])
