r"""Kernel regression on top of the pretrained output, with strength and f0 scale chosen on validation data.

Malladi et al. 2023, Appendix A.3 and Table 3: least squares on one-hot targets (here also on +-1 for the difference
form), `f(x) = K(x, X) alpha + f0(x) / s`, `alpha = (K + r ||K||_op I)^-1 (y - f0(X) / s)`; r from 0 to 1, s from 10 to
infinity, where infinity leaves the pretrained output out. One eigendecomposition serves the whole grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foretune.analysis.scores import predicted_classes, score
from foretune.analysis.spectrum import Spectrum, spectrum
from foretune.shapes import Float64, Int

STRENGTHS = (0.0, 0.001, 0.01, 0.1, 1.0)
F0_SCALES = (10.0, 100.0, 1000.0, 10000.0, float("inf"))


@dataclass(frozen=True)
class Data:
    """Kernels, pretrained outputs and labels of one split.

    Attributes:
        train: training kernel, (n, c, n, c).
        evaluation: kernel of validation, then test examples against training examples, (v + m, c, n, c).
        f0_train, f0_evaluation: pretrained outputs, (n, c) and (v + m, c).
        y_train, y_evaluation: class numbers.
        validation: v, how many of the evaluation examples come first and choose.
        metric: `accuracy` or `f1`.
    """

    train: Float64[np.ndarray, "n c n c"]
    evaluation: Float64[np.ndarray, "v c n c"]
    f0_train: Float64[np.ndarray, "n c"]
    f0_evaluation: Float64[np.ndarray, "v c"]
    y_train: Int[np.ndarray, "n"]
    y_evaluation: Int[np.ndarray, "v"]
    validation: int
    metric: str = "accuracy"


def targets(y: Int[np.ndarray, "n"], outputs: int) -> Float64[np.ndarray, "n c"]:
    """Regression targets: +-1 for one difference output, one-hot otherwise."""
    return (2.0 * y - 1.0)[:, None] if outputs == 1 else np.eye(outputs)[y]


@dataclass(frozen=True)
class GridPoint:
    """One choice of hyperparameters and how it did.

    Attributes:
        strength: r, relative to the operator norm of K.
        f0_scale: s.
        validation: score on the validation examples.
        validation_loss: their mean squared error, which breaks ties.
        test: score on the test examples.
    """

    strength: float
    f0_scale: float
    validation: float
    validation_loss: float
    test: float


@dataclass(frozen=True)
class Regression:
    """The chosen kernel regression.

    Attributes:
        chosen: the grid point with the best validation score.
        grid: all points.
        predictions: class numbers of the test examples.
        condition_number: of K + r ||K||_op I at the chosen point.
        rank: of K.
    """

    chosen: GridPoint
    grid: tuple[GridPoint, ...]
    predictions: Int[np.ndarray, "m"] = field(repr=False)
    condition_number: float
    rank: int


def kernel_regression(
    data: Data, strengths: Sequence[float] = STRENGTHS, f0_scales: Sequence[float] = F0_SCALES
) -> Regression:
    """Kernel regression for every grid point, and the one that validation chooses.

    Ties in the validation score go to the smaller validation loss, then to the stronger regularisation.
    """
    n, c = data.f0_train.shape
    eigen = spectrum(data.train.reshape(n * c, n * c))
    cross = data.evaluation.reshape(len(data.f0_evaluation) * c, n * c)
    y = targets(data.y_train, c)
    wanted = targets(data.y_evaluation, c)
    v = data.validation
    points: list[tuple[GridPoint, np.ndarray]] = []
    for scale in f0_scales:
        coefficients = eigen.vectors.T @ (y - data.f0_train / scale).reshape(-1)
        for strength in strengths:
            alpha = eigen.vectors @ (coefficients * _inverse(eigen, strength * eigen.largest))
            f = (cross @ alpha).reshape(-1, c) + data.f0_evaluation / scale  # (v + m, c)
            classes = predicted_classes(f)
            point = GridPoint(
                strength,
                scale,
                score(data.y_evaluation[:v], classes[:v], data.metric),
                float(((f[:v] - wanted[:v]) ** 2).mean()),
                score(data.y_evaluation[v:], classes[v:], data.metric),
            )
            points.append((point, classes[v:]))
    chosen, predictions = min(
        points, key=lambda item: (-item[0].validation, item[0].validation_loss, -item[0].strength)
    )
    return Regression(
        chosen,
        tuple(point for point, _ in points),
        predictions,
        eigen.condition_number(chosen.strength * eigen.largest),
        eigen.rank,
    )


def _inverse(eigen: Spectrum, ridge: float) -> np.ndarray:
    """1 / (lambda + ridge), zero for eigenvalues within rounding of zero when there is no ridge."""
    values = np.clip(eigen.values, 0, None)
    if ridge > 0:
        return 1 / (values + ridge)
    cut = len(values) * np.finfo(np.float32).eps * eigen.largest
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > cut)
