r"""How far a kernel of few dimensions may be from the full one (Malladi et al. 2023, Theorem E.2).

    Pr[ some |K'(i, j) - K(i, j)| >= c epsilon ] <= 4 N^2 exp(-(epsilon^2 - epsilon^3) k / 4),    |K(i, j)| <= c

for IntrinsicDimension fine-tuning of k numbers. Theorem E.5 and Remark E.6 say the same of LoRA of rank k for single input
vectors, with a deviation of L c^2 epsilon and an exponent L times as large in L layers; a text has many tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foretune.errors import UsageError
from foretune.shapes import Float64


@dataclass(frozen=True)
class JohnsonLindenstrauss:
    """The premises of the bound.

    Attributes:
        n: examples N; with several outputs a kernel has N * C rows, and that is the number to give.
        c: bound on the kernel entries.
        delta: probability that the bound may fail.

    Raises:
        UsageError: a number out of range.
    """

    n: int
    c: float = 1.0
    delta: float = 0.05

    def __post_init__(self) -> None:
        if self.n < 1 or not self.c > 0 or not 0 < self.delta < 1:
            raise UsageError(f"{self}: expected n >= 1, c > 0, and 0 < delta < 1.")

    def deviation(self, k: int) -> float:
        """The deviation that k dimensions guarantee, infinite where the bound says nothing.

        Raises:
            UsageError: k below one.
        """
        if k < 1:
            raise UsageError(f"k is {k}; expected at least 1.")
        from scipy.optimize import brentq

        wanted = 4 * math.log(4 * self.n**2 / self.delta) / k
        if wanted > 4 / 27:  # the largest value of epsilon^2 - epsilon^3
            return math.inf
        return self.c * float(brentq(lambda e: e**2 - e**3 - wanted, 0.0, 2 / 3))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Deviation:
    """How far a projected kernel is from the full one.

    Attributes:
        largest: max |K' - K| over all entries.
        relative: ||K' - K|| / ||K|| in Frobenius norm.
        bound: the deviation that the theorem guarantees for this k; may be infinite.
    """

    largest: float
    relative: float
    bound: float


def measured_deviation(
    full: Float64[np.ndarray, "*shape"],
    projected: Float64[np.ndarray, "*shape"],
    k: int,
    premises: JohnsonLindenstrauss,
) -> Deviation:
    """The measured deviation of a projected kernel, beside its bound.

    Args:
        full: K.
        projected: K', in the same scale: E[K'] = K.
        k: dimensions or rank.
        premises: of the bound.

    Raises:
        UsageError: different shapes, or a full kernel of zeros.
    """
    if full.shape != projected.shape or not np.any(full):
        raise UsageError(
            f"Kernels of shapes {full.shape} and {projected.shape}; expected equal shapes, and not only zeros."
        )
    difference = projected - full
    relative = float(np.linalg.norm(difference) / np.linalg.norm(full))
    return Deviation(float(np.abs(difference).max()), relative, premises.deviation(k))
