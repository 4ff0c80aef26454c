r"""Losses as functions of the outputs, and their derivatives chi = dl/df (Malladi et al. 2023, Definition 2.1).

    squared loss     l = 1/2 ||f - y||^2              chi = f - y
    cross-entropy    l = log sum_a exp f_a - f_y      chi = softmax(f) - onehot(y)
    difference form  l = log(1 + exp(-y f))           chi = -y / (1 + exp(y f)),     y = +-1

Targets are one-hot, or +-1 for one difference output f = f_1 - f_0, which stands for the two outputs (0, f). Any axes may
come before (examples, outputs); values are in nats, or in squared units of the outputs. The losses of a run are
`finetune.losses`, with the same names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, logsumexp

from foretune.shapes import Float64, Int


def targets(y: Int[np.ndarray, " n"], outputs: int) -> Float64[np.ndarray, "n c"]:
    """Regression targets: +-1 for one difference output, one-hot otherwise."""
    return (2.0 * y - 1.0)[:, None] if outputs == 1 else np.eye(outputs)[y]


@dataclass(frozen=True)
class OutputLoss(ABC):
    """A loss of one example's outputs.

    Attributes:
        name: the loss as `--loss` names it.
    """

    name: ClassVar[str]

    @abstractmethod
    def values(self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]) -> np.ndarray:
        """The loss of each example, (*runs, n)."""

    @abstractmethod
    def derivative(
        self, f: Float64[np.ndarray, "*runs n c"], targets: Float64[np.ndarray, "n c"]
    ) -> Float64[np.ndarray, "*runs n c"]:
        """chi of each example, written over `f`: a simulation has no other use for it."""


@dataclass(frozen=True)
class HalfSquaredLoss(OutputLoss):
    """Half the squared distance to the targets."""

    name: ClassVar[str] = "squared"

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
class LogLoss(OutputLoss):
    """Cross-entropy of the softmax; for one difference output, the logistic loss."""

    name: ClassVar[str] = "cross-entropy"

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


OUTPUT_LOSSES: Mapping[str, type[OutputLoss]] = {choice.name: choice for choice in (LogLoss, HalfSquaredLoss)}
