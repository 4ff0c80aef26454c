r"""How well the tangent features of some parameters explain labels, the pretrained outputs left aside.

    a = (K + sigma I)^-1 y_c,    f(x) = K(x, X) a + mean(y),    sigma = r lambda_max(K)

This is the kernel solve of Malladi et al. 2023 with f0 scaled away (f0 scaling infinity in their Table 3). A head that
starts from the linear-probing solution has been fitted to the same training examples: their residuals are close to zero
and say nothing of what other parameters could learn, so that anything that starts from f0 ranks by noise. The labels
themselves do not shrink.

The error is that of examples apart from the training examples. Leaving one training example out does not replace that: a
probed head has seen it, and gradients pass through the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import Kernel, Matrix, scaled
from foretune.analysis.losses import targets
from foretune.analysis.resolvent import Resolvent
from foretune.analysis.spectrum import Spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64, Int

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths over lambda_max."""


@dataclass(frozen=True)
class LabelRegression:
    """The best fit of a grid of ridges.

    Attributes:
        errors: squared error of each held-out example, summed over outputs, over the mean error of the training mean:
            1 is no better than the frequencies of the labels.
        outputs: f of every example behind the training ones, with and without a label; the largest is that of its class,
            or the sign of a single one tells it.
        strength: strength of the ridge, over lambda_max.
    """

    errors: Float64[np.ndarray, " v"]
    outputs: Float64[np.ndarray, "w c"]
    strength: float

    @property
    def error(self) -> float:
        """The share of the held-out labels' variance that is left."""
        return float(self.errors.mean())


def label_regression(
    joint: Kernel,
    y: Int[np.ndarray, " m"],
    strengths: Sequence[float] = STRENGTHS,
    eigen: Spectrum | None = None,
    counts: Int[np.ndarray, " n"] | None = None,
) -> LabelRegression:
    """Ridge regression of labels on a kernel, judged on the examples behind the training ones.

    Args:
        joint: kernel, an array or features: train x (train, then held-out examples, then perhaps examples that are only
            predicted).
        y: class numbers of its columns up to the last held-out one.
        strengths: ridges to choose from, over lambda_max; by the held-out error.
        eigen: spectrum of the training kernel, where it is known already.
        counts: how often each training example counts; None for once. A spectrum cannot come beside them.

    Raises:
        UsageError: no held-out examples, another number of labels or counts, or a strength that is not positive.
    """
    n, c, columns, _ = joint.shape
    if not n < len(y) <= columns or not all(strength > 0 for strength in strengths):
        raise UsageError(
            f"A kernel of shape {joint.shape} with {len(y)} labels, strengths {tuple(strengths)}; expected held-out "
            "columns behind the training ones, a label for these and the training ones, and strengths above zero."
        )
    wanted = targets(y, c)
    if counts is not None and (eigen is not None or counts.shape != (n,) or counts.min() < 1):
        raise UsageError(
            f"counts are {counts}; expected one for each of {n} training rows, 1 or more, and no spectrum."
        )
    mean = np.average(wanted[:n], axis=0, weights=counts)
    centred = wanted - mean
    scale = float((centred[n:] ** 2).sum(1).mean()) or 1.0
    train, apart, known = (
        joint[:, :, :n].reshape(n * c, n * c),
        joint[:, :, n:].reshape(n * c, -1).T,
        centred[:n].reshape(-1),
    )
    if (
        counts is not None
    ):  # ridge regression with an example twice is that with both sides of its row times the root of 2
        roots = np.sqrt(np.repeat(counts, c))
        train, apart, known = scaled(train, roots, roots), scaled(apart, None, roots), known * roots
    factors = eigen or Resolvent.of(train)
    if not factors.largest:
        return LabelRegression((centred[n:] ** 2).sum(1) / scale, np.tile(mean, (columns - n, 1)), max(strengths))
    found = []
    for strength, every in zip(strengths, _fitted(factors, apart, known, strengths), strict=True):
        fitted = every.reshape(-1, c)
        errors = ((fitted[: len(y) - n] - centred[n:]) ** 2).sum(1) / scale
        found.append(LabelRegression(errors, fitted + mean, strength))
    return min(found, key=lambda fit: fit.error)


def _fitted(
    factors: Spectrum | Resolvent, apart: Matrix, known: Float64[np.ndarray, " k"], strengths: Sequence[float]
) -> list[Float64[np.ndarray, " w"]]:
    """Outputs of the columns behind the training ones, for each strength."""
    ridges = [strength * factors.largest for strength in strengths]
    if isinstance(factors, Resolvent):
        return [factors.across(apart, known, ridge) for ridge in ridges]
    across, shares, values = factors.across(apart), factors.coordinates(known), np.clip(factors.values, 0, None)
    return [across @ (shares / (values + ridge)) for ridge in ridges]
