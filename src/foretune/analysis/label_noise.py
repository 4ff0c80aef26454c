r"""How many labels are wrong, and which, from the outputs of examples that were left out.

    P(label j | f) = (1 - e) p_j + e / (c - 1) (1 - p_j),    p = softmax(b f)

The outputs f of an example come from a fit that has not seen its label. Where they are far apart, a model of log-odds b f
leaves hardly any room for honest doubt: what still disagrees there are wrong labels, a share e of all. Both numbers are
those of the largest likelihood, and the interval of e holds every share whose likelihood, at its best b, is within
exp(-1.92) of it (95%). Labels that are wrong by chance and unclear examples are told apart by the shape of the curve
alone: where the outputs say little, the interval is wide, and `can_tell` is false.

The noise is uniform over the other classes, as in Natarajan et al. 2013; what makes labels of one class wrong more often
than those of another is averaged over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from foretune.shapes import Float64, Int

SHARES = np.linspace(0, 0.45, 91)
"""Shares of wrong labels that are tried."""
WIDEST = 0.25
"""An interval wider than this share of the rows says nothing of use."""
_DROP = 1.92
_LEAST = 0.02


@dataclass(frozen=True)
class LabelNoise:
    """The share of wrong labels, and what it makes of each example.

    Attributes:
        share: share of the labels that are wrong, 0 to 1.
        low, high: ends of the 95% interval of the share.
        sharpness: b, the factor that makes outputs log-odds of the right labels.
    """

    share: float
    low: float
    high: float
    sharpness: float

    @property
    def can_tell(self) -> bool:
        """Whether the interval is narrow enough to be of use."""
        return self.high - self.low <= WIDEST

    def right_labels(self, outputs: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n c"]:
        """The probability that each class is the right one, given outputs and label.

        Args:
            outputs: of examples that were left out.
            y: given class numbers.
        """
        n, c = outputs.shape
        share = max(self.share, _LEAST)  # nobody's labels are known to be flawless
        given = np.full((n, c), share / (c - 1))
        given[np.arange(n), y] = 1 - share
        found = softmax(self.sharpness * outputs, axis=1) * given
        return found / found.sum(1, keepdims=True)


def label_noise(outputs: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> LabelNoise:
    """The share of wrong labels that makes the given ones most likely.

    Args:
        outputs: of examples that were left out.
        y: given class numbers.
    """
    fits = [_fit(outputs, y, share) for share in SHARES]
    likelihoods = np.array([likelihood for likelihood, _ in fits])
    best = int(likelihoods.argmax())
    inside = SHARES[likelihoods > likelihoods[best] - _DROP]
    return LabelNoise(float(SHARES[best]), float(inside[0]), float(inside[-1]), fits[best][1])


def _fit(outputs: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"], share: float) -> tuple[float, float]:
    """The largest log-likelihood at a share of wrong labels, and its sharpness."""
    n, c = outputs.shape

    def loss(log_sharpness: float) -> float:
        p = np.exp(log_softmax(np.exp(log_sharpness) * outputs, axis=1)[np.arange(n), y])
        return -float(np.log(np.clip((1 - share) * p + share / (c - 1) * (1 - p), 1e-300, None)).sum())

    found: Any = minimize_scalar(loss, bounds=(-3, 6), method="bounded")
    return -float(found.fun), float(np.exp(found.x))
