r"""The spectrum of a training kernel and what follows from it.

kappa(K + sigma I) = (lambda_max + sigma) / (lambda_min + sigma)       Afzal et al. 2024, below eq. 7
R(sigma) = sigma y^T (K + sigma I)^-1 y                                the ridge objective's empirical risk,
                                                                       bracketed by Afzal et al. 2024, eq. 6
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import ArpackError, eigsh

from foretune.analysis.feature_kernel import FeatureMatrix, Matrix, refuse_undefined
from foretune.errors import UsageError
from foretune.shapes import Float, Float64


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of a symmetric kernel matrix.

    The eigenvectors of a kernel that is held as features, `U = Phi V / S` for `Phi'Phi = V S^2 V'`, are not multiplied out:
    what is asked of them goes through the features.

    Attributes:
        values: float64, ascending; of a kernel that is held as features those above zero only.
        turned: eigenvectors as columns; of a kernel that is held as features `V / S`.
        features: Phi; None for a kernel that is an array.
    """

    values: Float64[np.ndarray, " j"]
    turned: Float64[np.ndarray, "_ j"]
    features: Float[np.ndarray, "k _"] | None = None

    @property
    def size(self) -> int:
        """Rows of the kernel."""
        return len(self.turned) if self.features is None else len(self.features)

    @property
    def vectors(self) -> Float64[np.ndarray, "k j"]:
        """The eigenvectors as columns."""
        return self.turned if self.features is None else self.features.astype(np.float64) @ self.turned

    def coordinates(self, y: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " j"]:
        """U'y."""
        return self.turned.T @ (y if self.features is None else y @ self.features)

    def combined(self, weights: Float64[np.ndarray, " j"]) -> Float64[np.ndarray, " k"]:
        """U weights."""
        found = self.turned @ weights
        return found if self.features is None else self.features @ found

    def across(self, cross: Matrix) -> Float64[np.ndarray, "r j"]:
        """K(x, X) U of some examples x, `K(x, X)` being the same kernel against the examples X of this spectrum."""
        if isinstance(cross, FeatureMatrix) and self.features is not None:
            return cross.left.astype(np.float64) @ (self.turned * self.values)  # phi(x)' Phi'Phi V / S
        return cross @ self.vectors

    @property
    def largest(self) -> float:
        """lambda_max, zero for an empty kernel."""
        return float(max(self.values[-1], 0.0)) if len(self.values) else 0.0

    @property
    def smallest(self) -> float:
        """lambda_min, clipped at zero: a kernel is positive semidefinite up to rounding."""
        return float(max(self.values[0], 0.0)) if len(self.values) == self.size else 0.0

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float(self.values.sum())

    @property
    def rank(self) -> int:
        """Eigenvalues above rounding error, `k * eps * lambda_max` in single precision (the factors' own)."""
        return int((self.values > self.size * float(np.finfo(np.float32).eps) * self.largest).sum())

    @property
    def effective_rank(self) -> float:
        """Trace / lambda_max: how many directions carry the kernel; zero for a zero kernel."""
        return self.trace / self.largest if self.largest else 0.0

    def condition_number(self, sigma: float) -> float:
        """kappa(K + sigma I); infinite for a singular matrix."""
        return (self.largest + sigma) / (self.smallest + sigma) if self.smallest + sigma else float("inf")

    def ridge_risk(self, y: Float64[np.ndarray, " k"], sigma: float) -> float:
        """Sigma y^T (K + sigma I)^-1 y: what ridge regression of strength sigma leaves of ||y||^2 (Afzal et al., eq. 6).

        Raises:
            UsageError: sigma is not positive.
        """
        if not sigma > 0:
            raise UsageError(f"sigma is {sigma}; expected more than zero.")
        shares = self.coordinates(y) ** 2
        outside = max(float(y @ y - shares.sum()), 0.0) if len(self.values) < self.size else 0.0
        return float((sigma * shares / (sigma + np.clip(self.values, 0, None))).sum()) + outside


def symmetric(matrix: Matrix) -> bool:
    """Whether a square matrix is its own transpose, up to the rounding of single-precision gradients."""
    if isinstance(matrix, FeatureMatrix):
        return matrix.square
    return bool(np.abs(matrix - matrix.T).max(initial=0) <= 1e-4 * np.abs(matrix).max(initial=0))


def spectrum(matrix: Matrix) -> Spectrum:
    """The spectrum of a symmetric kernel matrix, in float64; of one that is held as features by the Gram of these.

    Raises:
        UsageError: the matrix is not square, not symmetric or not finite.
    """
    if isinstance(matrix, FeatureMatrix):
        return _of_features(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UsageError(f"A spectrum needs a square kernel matrix, got shape {matrix.shape}.")
    refuse_undefined(matrix)
    if not symmetric(matrix):
        raise UsageError("A spectrum needs a symmetric kernel: examples against themselves.")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return Spectrum(values, vectors)


def _of_features(matrix: FeatureMatrix) -> Spectrum:
    if not matrix.square:
        raise UsageError("A spectrum needs a symmetric kernel: examples against themselves.")
    refuse_undefined(matrix)
    if matrix.left.shape[1] >= len(matrix):
        return spectrum(matrix.dense())
    values, turned = np.linalg.eigh(matrix.gram)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return Spectrum(values[kept], turned[:, kept] / np.sqrt(values[kept]), matrix.left)


_DENSE = 128
"""Rows up to which a whole tridiagonalisation is faster than iterations."""


def largest_eigenvalue(matrix: Matrix) -> float:
    """lambda_max of a symmetric positive semidefinite matrix, to rounding, without its eigenvectors; not below zero."""
    if isinstance(matrix, FeatureMatrix):
        return largest_eigenvalue(matrix.gram)
    size = len(matrix)
    if not matrix.any():
        return 0.0
    if size > _DENSE:
        start = np.random.default_rng(0).standard_normal(size)
        with contextlib.suppress(ArpackError):  # else by the safe way
            return max(float(eigsh(matrix, k=1, which="LA", v0=start, tol=0, return_eigenvectors=False)[0]), 0.0)
    return max(float(np.linalg.eigvalsh(matrix)[-1]), 0.0)


@dataclass(frozen=True)
class StableLearningRate:
    """The largest stable learning rate of gradient descent, and what it assumes.

    Attributes:
        squared: largest stable rate for the mean of half the squared distances, 2 / (lambda_max / n + proximal).
        cross_entropy: largest stable rate for the mean cross-entropy.
        assumption: what the numbers rest on, in words.
    """

    squared: float
    cross_entropy: float
    assumption: str


def stable_learning_rate(largest: float, n: int, outputs: int, proximal: float = 0.0) -> StableLearningRate:
    """Learning rates below which gradient descent on `n` examples converges in the linear regime.

    The loss `1/n sum_i l(f(x_i), y_i)` has, in function space, curvature at most `h lambda_max / n`, where h bounds the
    second derivative of l: 1 for half the squared distance, 1/4 for the logistic loss of one difference output, 1/2
    for softmax; a pull towards theta0 adds its strength. Gradient descent is stable below 2 over the curvature.

    Args:
        largest: lambda_max of the training kernel.
        n: training examples.
        outputs: c; 1 stands for the difference form.
        proximal: lambda of lambda / 2 ||theta - theta0||^2 beside the mean loss.
    """
    bound = 0.25 if outputs == 1 else 0.5
    squared, cross_entropy = (
        2 / curvature if curvature else float("inf")
        for curvature in (largest / n + proximal, bound * largest / n + proximal)
    )
    return StableLearningRate(
        squared,
        cross_entropy,
        "plain full-batch gradient descent (no momentum, not Adam) on the mean loss, all listed parameters trained, and "
        "a kernel that stays as it is at the start; a mini-batch is less stable than the full batch",
    )
