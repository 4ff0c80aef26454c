r"""Losses as functions of the outputs, and their derivatives chi = dl/df (Malladi et al. 2023, Definition 2.1).

    squared loss     l = 1/2 ||f - y||^2              chi = f - y
    cross-entropy    l = log sum_a exp f_a - f_y      chi = softmax(f) - onehot(y)
    difference form  l = log(1 + exp(-y f))           chi = -y / (1 + exp(y f)),     y = +-1

Targets are one-hot, or +-1 for one difference output (`solvers.targets`). Any axes may come before (examples, outputs);
values are in nats, or in squared units of the outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp

from foretune.shapes import Float64


class Loss(ABC):
    """A loss of one example's outputs."""

    @abstractmethod
    def values(self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]) -> np.ndarray:
        """The loss of each example, (*runs, n)."""

    @abstractmethod
    def derivative(
        self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]
    ) -> Float64[np.ndarray, "*runs n c"]:
        """Chi of each example, written over `f`: a simulation has no other use for it."""


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """Half the squared distance to the targets."""

    def values(self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]) -> np.ndarray:
        """The loss of each example, (*runs, n)."""
        return ((f - targets) ** 2).sum(-1) / 2

    def derivative(
        self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]
    ) -> Float64[np.ndarray, "*runs n c"]:
        """Outputs less targets, written over f."""
        f -= targets
        return f


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of the softmax; for one difference output, the logistic loss."""

    def values(self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]) -> np.ndarray:
        """The loss of each example in nats, (*runs, n)."""
        if f.shape[-1] == 1:
            return np.logaddexp(0, -targets * f)[..., 0]
        return logsumexp(f, axis=-1) - (f * targets).sum(-1)

    def derivative(
        self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]
    ) -> Float64[np.ndarray, "*runs n c"]:
        """Probabilities less targets, written over f."""
        if f.shape[-1] == 1:
            f *= -targets
            expit(f, out=f)
            f *= -targets
            return f
        f -= f.max(-1, keepdims=True)
        np.exp(f, out=f)
        f /= f.sum(-1, keepdims=True)
        f -= targets
        return f
