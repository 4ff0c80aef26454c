r"""Ridge solves with a training kernel of which no spectrum is known: one linear system for each ridge.

    (K + sigma I)^-1 y,    and for features K = Phi Phi'    (y - Phi (Phi'Phi + sigma I)^-1 Phi'y) / sigma

Some ridges cost a fraction of an eigendecomposition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import FeatureMatrix, Matrix, refuse_undefined
from foretune.analysis.spectrum import largest_eigenvalue
from foretune.shapes import Float, Float64


@dataclass(frozen=True, eq=False)
class Resolvent:
    """A symmetric kernel matrix, ready for ridges.

    Attributes:
        matrix: the kernel, or the Gram `Phi'Phi` of the features of one.
        features: Phi; None for a kernel that is an array.
        largest: lambda_max, not below zero.
    """

    matrix: Float64[np.ndarray, "j j"]
    features: Float[np.ndarray, "k j"] | None
    largest: float

    @classmethod
    def of(cls, kernel: Matrix) -> Resolvent:
        """Of a kernel: the smaller of itself and the Gram of its features.

        Raises:
            UsageError: an infinite or undefined entry.
        """
        refuse_undefined(kernel)
        features = None
        if isinstance(kernel, FeatureMatrix):
            features = kernel.left if kernel.left.shape[1] < len(kernel) else None
            kernel = kernel.dense() if features is None else kernel.gram
        return cls(kernel, features, largest_eigenvalue(kernel))

    def solved(self, y: Float64[np.ndarray, " k"], sigma: float) -> Float64[np.ndarray, " k"]:
        """(K + sigma I)^-1 y, for a sigma above zero."""
        if self.features is None:
            return self._inner(y, sigma)
        return (y - self.features @ self._inner(y @ self.features, sigma)) / sigma

    def across(self, cross: Matrix, y: Float64[np.ndarray, " k"], sigma: float) -> Float64[np.ndarray, " r"]:
        """K(x, X) (K + sigma I)^-1 y of some examples x, `K(x, X)` being the same kernel against the examples X."""
        if isinstance(cross, FeatureMatrix) and self.features is not None:
            return cross.left @ self._inner(y @ self.features, sigma)
        return cross @ self.solved(y, sigma)

    def _inner(self, y: Float64[np.ndarray, " j"], sigma: float) -> Float64[np.ndarray, " j"]:
        shifted = self.matrix.copy()
        shifted[np.diag_indices(len(shifted))] += sigma
        return np.linalg.solve(shifted, y)
