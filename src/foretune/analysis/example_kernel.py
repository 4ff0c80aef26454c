r"""A kernel between examples that is the same for every class: of features, or of gradients.

It is centred, and a constant of variance `INTERCEPT` takes the place of the mean, so that the outputs have a free mean. Its
mean diagonal is one, so that a ridge means the same for every kernel. Where no head has been fitted to the labels, neither
knows them: an example that is left out of the fit is left out altogether.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from foretune.analysis.spectrum import spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64

INTERCEPT = 10.0
_SMALL = 1e-9


@dataclass(frozen=True)
class Factors:
    """A kernel between n examples as U diag(v) U', its constant direction last.

    Attributes:
        values: eigenvalues above rounding, (r,).
        vectors: their eigenvectors as columns, (n, r).
    """

    values: Float64[np.ndarray, " r"]
    vectors: Float64[np.ndarray, "n r"]

    @property
    def matrix(self) -> Float64[np.ndarray, "n n"]:
        """The kernel."""
        return (self.vectors * self.values) @ self.vectors.T

    def smoothed(self, wanted: Float64[np.ndarray, "n c"], ridge: float) -> Float64[np.ndarray, "n c"]:
        """The fit to targets: M T."""
        return self.vectors @ (self._shrinkage(ridge)[:, None] * (self.vectors.T @ wanted))

    def leverage(self, ridge: float) -> Float64[np.ndarray, " n"]:
        """M_ii: how much an example's own target weighs in its fit, 0 to 1."""
        return (self.vectors**2) @ self._shrinkage(ridge)

    def _shrinkage(self, ridge: float) -> Float64[np.ndarray, " r"]:
        return self.values / (self.values + ridge)


def gaussian(features: Float64[np.ndarray, "n i"]) -> Float64[np.ndarray, "n n"]:
    """exp(-|x - z|^2 / m), m the median of the squared distances between different examples."""
    sizes = (features**2).sum(1)
    distances = np.clip(sizes[:, None] + sizes - 2 * features @ features.T, 0, None)
    apart = distances[np.triu_indices(len(features), 1)]
    return np.exp(-distances / (float(np.median(apart)) or 1.0)) if len(apart) else np.ones_like(distances)


def kernel_factors(kernel: Float64[np.ndarray, "n n"]) -> Factors:
    """The factors of a kernel, centred and scaled.

    Raises:
        UsageError: it is not square, not symmetric or not finite; or all examples are the same to it.
    """
    found = spectrum(_centred(kernel))
    return _with_constant(found.values, found.vectors, len(kernel))


def feature_factors(features: Float64[np.ndarray, "n i"]) -> Factors:
    """The factors of the kernel of inner products of features, for more examples than a square kernel suits.

    Raises:
        UsageError: all examples have the same features.
    """
    vectors, roots, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    return _with_constant(roots**2, vectors, len(features))


def cosines(kernel: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """K_ij / sqrt(K_ii K_jj): no example weighs more for the size of its gradient; a zero gradient stays zero."""
    size = np.sqrt(np.clip(np.diag(kernel), 0, None))
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    return kernel * inverse[:, None] * inverse


def cosine_sum(blocks: Iterable[Float64[np.ndarray, "n n"]]) -> Float64[np.ndarray, "n n"]:
    """The sum over blocks of the cosines of their centred kernels: each block and each example weighs the same in it.

    A block in which all examples are the same adds nothing.
    """
    found = []
    for block in blocks:
        less = _centred(block)
        if np.trace(less) > _SMALL * np.trace(block):
            found.append(cosines(less))
        else:
            found.append(np.zeros_like(less))
    return np.sum(found, axis=0)


def _centred(kernel: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """The kernel of the gradients or features less their mean over the examples (Cortes et al. 2012, equation 2)."""
    less = kernel - kernel.mean(0)
    return less - less.mean(1)[:, None]


def _with_constant(values: Float64[np.ndarray, " r"], vectors: Float64[np.ndarray, "n r"], n: int) -> Factors:
    kept = values > _SMALL * max(values.max(initial=0), 0)
    if not kept.any():
        raise UsageError(f"All {n} examples are the same to this kernel; expected some that differ.")
    scale = n / values[kept].sum()
    constant = np.full((n, 1), n**-0.5)
    return Factors(np.append(values[kept] * scale, INTERCEPT * n), np.concatenate([vectors[:, kept], constant], axis=1))
