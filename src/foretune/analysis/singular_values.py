r"""Singular values of a kernel, and the split of a classifier's kernel into two parts.

Tomihari and Sato 2024, LP-FT from the NTK perspective: for `f(x) = V phi(x) + b`,

    f_FT(x) - f_0(x) = eta sum_i (P(x, x_i) + F(x, x_i)) delta_i

P    pretrain-effective: gradients of the classifier; sparse, O(1)
F    FT-effective: gradients through the features; dense, O(||V_0||^2)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import refuse_undefined
from foretune.shapes import Float64


@dataclass(frozen=True)
class SingularValues:
    """A distribution of singular values, ready to plot.

    Attributes:
        values: singular values, descending.
    """

    values: Float64[np.ndarray, " k"]

    @property
    def ranks(self) -> Float64[np.ndarray, " k"]:
        """1 to k, for the horizontal axis."""
        return np.arange(1.0, len(self.values) + 1)

    @property
    def shares(self) -> Float64[np.ndarray, " k"]:
        """Each value's share of their sum; zeros for a zero kernel."""
        total = self.values.sum()
        return self.values / total if total else np.zeros_like(self.values)

    @property
    def cumulative(self) -> Float64[np.ndarray, " k"]:
        """The share of the largest 1, 2, ... values."""
        return np.cumsum(self.shares)

    @property
    def frobenius(self) -> float:
        """The Frobenius norm of the kernel."""
        return float(np.linalg.norm(self.values))


def singular_values(kernel: Float64[np.ndarray, "n c m d"]) -> SingularValues:
    """The singular values of a kernel as a matrix (n * c, m * d).

    Raises:
        UsageError: infinite or undefined entries.
    """
    refuse_undefined(kernel)
    n, c, m, d = kernel.shape
    return SingularValues(np.asarray(np.linalg.svd(kernel.reshape(n * c, m * d), compute_uv=False)))


@dataclass(frozen=True)
class KernelSplit:
    """A classifier's kernel in two parts (Tomihari and Sato 2024).

    Attributes:
        pretrain_effective: P, through the classifier's own parameters.
        ft_effective: F, through the features.
    """

    pretrain_effective: Float64[np.ndarray, "n c m d"]
    ft_effective: Float64[np.ndarray, "n c m d"]

    @property
    def total(self) -> Float64[np.ndarray, "n c m d"]:
        """P + F, the whole kernel."""
        return self.pretrain_effective + self.ft_effective

    @property
    def spectra(self) -> dict[str, SingularValues]:
        """The singular values of P, F and P + F."""
        return {
            "pretrain_effective": singular_values(self.pretrain_effective),
            "ft_effective": singular_values(self.ft_effective),
            "total": singular_values(self.total),
        }
