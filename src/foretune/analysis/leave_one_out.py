r"""Every example predicted by a kernel fit to the others, without a second fit.

Ridge regression of targets T on a kernel K = U V U', with M = U diag(v / (v + s)) U' the smoother:

    f_(-i) = T_i - (T - M T)_i / (1 - M_ii)                    exact (Allen 1974; Wahba 1990, section 4.2)

One decomposition serves every ridge s. Regularised logistic regression, min sum_i l_i(f) + lambda / 2 a' K a, f = K a,
by one Newton step from the full fit without example i (Beirami et al. 2017; Rad and Maleki 2020), W_i the Hessian of l_i:

    f_(-i) = f_i + (I - V_i W_i)^-1 V_i l_i',    V = (lambda K^-1 + W)^-1,    V_i its block of example i

The kernel is between the examples, the same for every class (`analysis.example_kernel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from foretune.analysis.example_kernel import Factors
from foretune.analysis.losses import LogLoss, targets
from foretune.errors import UsageError
from foretune.shapes import Float64, Int

STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-6, 5))
"""Ridges to choose from, over the mean diagonal of the kernel."""


@dataclass(frozen=True)
class LeftOut:
    """Each example by the fit to the others.

    Attributes:
        outputs: f, (n, c) for c classes.
        strength: the chosen ridge, over the mean diagonal of the kernel.
        sharpness: the factor on the outputs that makes them log-odds.
        loss: mean cross-entropy of the given labels in nats.
    """

    outputs: Float64[np.ndarray, "n c"]
    strength: float
    sharpness: float
    loss: float

    @property
    def probabilities(self) -> Float64[np.ndarray, "n c"]:
        """Of the classes."""
        return softmax(self.sharpness * self.outputs, axis=1)


def ridge_left_out(
    factors: Factors, y: Int[np.ndarray, " n"], classes: int, strengths: Sequence[float] = STRENGTHS
) -> LeftOut:
    """The ridge whose leave-one-out outputs give the labels the smallest loss.

    Args:
        factors: of the kernel.
        y: class numbers.
        classes: how many there are.
        strengths: ridges to choose from.
    """
    return min(
        (_sharpened(left_out(factors, np.eye(classes)[y], s), y, s) for s in strengths), key=lambda fit: fit.loss
    )


def left_out(factors: Factors, wanted: Float64[np.ndarray, "n c"], ridge: float) -> Float64[np.ndarray, "n c"]:
    """The outputs of ridge regression for each example, fitted to the others.

    Raises:
        UsageError: the ridge is not positive.
    """
    if not ridge > 0:
        raise UsageError(f"The ridge is {ridge}; expected more than zero.")
    return wanted - (wanted - factors.smoothed(wanted, ridge)) / (1 - factors.leverage(ridge))[:, None]


def logistic_left_out(
    kernel: Float64[np.ndarray, "n n"],
    outputs: Float64[np.ndarray, "n c"],
    y: Int[np.ndarray, " n"],
    penalty: float,
) -> Float64[np.ndarray, "n c"]:
    """The outputs of regularised logistic regression for each example, one Newton step from the fit to all.

    Args:
        kernel: between the examples, the same for every output.
        outputs: of the fit to all, at its optimum; one column for the difference of two classes.
        y: class numbers.
        penalty: lambda, beside a sum of losses: `n * strength * ||K||` for `KernelLogistic`.
    """
    n, c = outputs.shape
    slope = LogLoss().derivative(outputs.copy(), targets(y, c))  # (n, c)
    hessian = _hessians(outputs)
    full = np.einsum("ij,ab->iajb", kernel, np.eye(c)).reshape(n * c, n * c)
    weighted = np.einsum("iab,ibk->iak", hessian, full.reshape(n, c, n * c)).reshape(n * c, n * c)
    system = weighted + penalty * np.eye(n * c)
    variance = np.linalg.solve(system.T, full).T.reshape(n, c, n, c)  # K (W K + lambda)^-1
    own = variance[np.arange(n), :, np.arange(n), :]
    moved = np.einsum("iab,ib->ia", own, slope)
    return outputs + np.linalg.solve(np.eye(c) - own @ hessian, moved[..., None])[..., 0]


def _hessians(outputs: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c c"]:
    """The second derivative of the log loss of each example."""
    if outputs.shape[1] == 1:
        p = softmax(np.concatenate([np.zeros_like(outputs), outputs], axis=1), axis=1)
        return (p[:, :1] * p[:, 1:])[:, :, None]
    p = softmax(outputs, axis=1)
    return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]


def _sharpened(outputs: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"], strength: float) -> LeftOut:
    """Outputs with the factor that makes the labels most likely."""
    wanted = targets(y, outputs.shape[1])

    def loss(log_sharpness: float) -> float:
        return float(LogLoss().values(np.exp(log_sharpness) * outputs, wanted).mean())

    found: Any = minimize_scalar(loss, bounds=(-3, 6), method="bounded")
    return LeftOut(outputs, strength, float(np.exp(found.x)), float(found.fun))
