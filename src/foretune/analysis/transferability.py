r"""Scores that others choose pretrained models by, without fine-tuning them.

    LogME    max over alpha, beta of log p(y | F, alpha, beta) / n         You et al. 2021
    LEEP     1/n sum_i log sum_z p(y_i | z) p(z | x_i)                      Nguyen et al. 2020
    NCE      -H(Y | Z) = 1/n sum_i log p(y_i | z_i)                         Tran et al. 2019
    KTA      <H K H, t t'> / (||H K H|| ||t t'||),  t = H y                  Cortes et al. 2012

z is a class of the source task, H takes means over examples away. All but the last see a model and a task, not the
parameters that would be trained: they compare models, and are constant over placements of adapters in one model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from foretune.analysis.feature_kernel import Kernel, centred, frobenius
from foretune.errors import UsageError
from foretune.shapes import Float64, Int

_RATIOS = np.linspace(-30.0, 20.0, 101)  # log of alpha / beta over the largest eigenvalue of F F'


def log_evidence(features: Float64[np.ndarray, "n i"], y: Int[np.ndarray, " m"]) -> float:
    r"""LogME (You et al. 2021, *LogME: Practical Assessment of Pre-trained Models*), nats an example; larger is better.

    A linear model `t = F w + noise`, w ~ N(0, I / alpha), noise ~ N(0, 1 / beta), for the 0/1 targets t of each class; the
    value is the mean over classes. The source alternates fixed-point steps for alpha and beta. Here, with r = alpha / beta
    and F F' = U s U', the best alpha for a ratio is `n / q(r)`, q = sum_k (U't)_k^2 / (s_k + r), which leaves one number:

        log p = -1/2 (sum_k log(s_k + r) + n log(2 pi q(r) / n) + n)

    Args:
        features: what the output layer reads.
        y: class numbers, m = n of them.

    Raises:
        UsageError: fewer than two classes, another number of labels, or features that are not finite or all zero.
    """
    classes = _classes(features, y)
    if not np.isfinite(features).all() or not features.any():
        raise UsageError("LogME needs finite features that are not all zero; expected those of a pretrained model.")
    values, vectors = np.linalg.eigh(features @ features.T)
    eigen = np.clip(values, 0, None) / values[-1]  # the evidence does not depend on the unit of the features
    return float(np.mean([_best_evidence(eigen, (vectors.T @ (y == k)) ** 2) for k in classes]))


def _best_evidence(eigen: Float64[np.ndarray, " n"], shares: Float64[np.ndarray, " n"]) -> float:
    """The largest log evidence over n of one target, over ratios in units of the largest eigenvalue."""
    n = len(eigen)

    def cost(log_ratio: float) -> float:
        shifted = eigen + np.exp(log_ratio)
        return float(np.log(shifted).sum() + n * np.log(2 * np.pi * (shares / shifted).sum() / n) + n) / (2 * n)

    start = int(np.argmin([cost(ratio) for ratio in _RATIOS]))
    low, high = _RATIOS[max(start - 1, 0)], _RATIOS[min(start + 1, len(_RATIOS) - 1)]
    found: Any = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return -min(float(found.fun), cost(_RATIOS[start]))


def leep(probabilities: Float64[np.ndarray, "n z"], y: Int[np.ndarray, " m"]) -> float:
    """LEEP (Nguyen et al. 2020, *LEEP: A New Measure to Evaluate Transferability*), nats an example, at most 0.

    Args:
        probabilities: of the source classes z for each example of the target task.
        y: class numbers of the target task, m = n of them.

    Raises:
        UsageError: fewer than two classes, another number of labels, or rows that are not probabilities.
    """
    classes = _classes(probabilities, y)
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(1), 1, atol=1e-5):
        raise UsageError(
            "LEEP needs probabilities: rows without negative numbers that sum to 1. Use a softmax of outputs."
        )
    joint = np.stack([probabilities[y == k].sum(0) for k in classes]) / len(y)  # (k, z)
    of_source = joint.sum(0)
    conditional = np.divide(joint, of_source, out=np.zeros_like(joint), where=of_source > 0)
    expected = (conditional[np.searchsorted(classes, y)] * probabilities).sum(1)
    return float(np.log(expected).mean())


def negative_conditional_entropy(z: Int[np.ndarray, " n"], y: Int[np.ndarray, " m"]) -> float:
    """NCE (Tran et al. 2019, *Transferability and Hardness of Supervised Classification Tasks*), `-H(Y | Z)` in nats.

    Args:
        z: source class of each example, the predicted one for example.
        y: class number of the target task, m = n of them.

    Raises:
        UsageError: fewer than two classes in y, or another number of labels.
    """
    _classes(z, y)
    counts = np.array([[((z == source) & (y == target)).sum() for target in np.unique(y)] for source in np.unique(z)])
    conditional = counts / counts.sum(1, keepdims=True)  # p(y | z)
    logs = np.log(conditional, out=np.zeros_like(conditional), where=counts > 0)
    return float((counts * logs).sum() / len(y))


def kernel_target_alignment(kernel: Kernel, targets: Float64[np.ndarray, "n c"]) -> float:
    """Centred alignment of a kernel with its targets (Cortes et al. 2012, *Algorithms for Learning Kernels*, eq. 5).

    Each output is centred over examples. 1 for `K = t t'`, 0 for a kernel that says nothing of the targets; the scale of
    the kernel does not matter.

    Args:
        kernel: of the training examples, a joint kernel's first n columns.
        targets: what is aligned with: one-hot labels or +-1, or what is left of them.

    Raises:
        UsageError: other shapes, or targets that are the same for all examples.
    """
    n, c = targets.shape
    if kernel.shape != (n, c, n, c):
        raise UsageError(f"A kernel of shape {kernel.shape} and targets of shape {(n, c)}; expected {(n, c, n, c)}.")
    matrix = centred(kernel).reshape(n * c, n * c)
    t = (targets - targets.mean(0)).reshape(-1)
    norm, scale = float(t @ t), frobenius(matrix)
    if not norm > 0:
        raise UsageError("The targets are the same for all examples; alignment needs at least two classes.")
    return float(t @ (matrix @ t)) / (norm * scale) if scale else 0.0


def _classes(rows: np.ndarray, y: Int[np.ndarray, " m"]) -> Int[np.ndarray, " k"]:
    """The classes that occur.

    Raises:
        UsageError: fewer than two, or another number of labels than rows.
    """
    if len(rows) != len(y):
        raise UsageError(f"{len(rows)} rows and {len(y)} labels; expected one label per row.")
    classes = np.unique(y)
    if len(classes) < 2:
        raise UsageError(f"{len(classes)} class among {len(y)} labels; expected at least two.")
    return classes
