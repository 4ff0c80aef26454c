r"""How many dimensions, or which LoRA rank, keep a kernel close to the full one.

Pr[ some |K'(i, j) - K(i, j)| >= deviation ] <= 4 N^2 exp(-L (epsilon^2 - epsilon^3) k / 4)

IntrinsicDimension (Malladi et al. 2023, Theorem E.2)    deviation = c epsilon,      |K(i, j)| <= c,   L = 1
LoRA in L layers   (Theorem E.5 and Remark E.6)          deviation = L c^2 epsilon,  ||dh||^2 <= c and ||x||^2 <= c

Solved for k: `k >= 4 log(4 N^2 / delta) / (L (epsilon^2 - epsilon^3))`. A for LoRA has entries of variance 1 / r there;
peft's own scaling differs by a known factor (`LoRA.expected_ratio`), which is divided out before measuring.
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
        c: bound on the kernel entries (Theorem E.2), or on ||dh||^2 and ||x||^2 (Theorem E.5).
        delta: probability that the bound may fail.
        layers: L, adapted layers; None for an intrinsic dimension (Theorem E.2).

    Raises:
        UsageError: a number out of range.
    """

    n: int
    c: float = 1.0
    delta: float = 0.05
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or not self.c > 0 or not 0 < self.delta < 1 or (self.layers is not None and self.layers < 1):
            raise UsageError(f"{self}: expected n >= 1, c > 0, 0 < delta < 1, and layers >= 1 or None.")

    @property
    def unit(self) -> float:
        """Deviation per epsilon: c (Theorem E.2), or L c^2 (Remark E.6)."""
        return self.c if self.layers is None else self.layers * self.c**2

    def dimension(self, deviation: float) -> int:
        """The smallest k (or LoRA rank) for which every entry deviates by less than `deviation`, except with chance delta.

        Raises:
            UsageError: the deviation is not positive, or epsilon = deviation / unit exceeds 2/3, where the bound no
                longer improves.
        """
        epsilon = deviation / self.unit
        if not 0 < epsilon <= 2 / 3:
            raise UsageError(
                f"A deviation of {deviation:g} is epsilon = {epsilon:.3g} in units of {self.unit:g}; the bound holds for "
                f"0 < epsilon <= 2/3, that is up to {2 / 3 * self.unit:g}."
            )
        return math.ceil(self._exponent / (epsilon**2 - epsilon**3))

    def deviation(self, k: int) -> float:
        """The deviation that k dimensions guarantee, infinite where the bound says nothing.

        Raises:
            UsageError: k below one.
        """
        if k < 1:
            raise UsageError(f"k is {k}; expected at least 1.")
        from scipy.optimize import brentq

        wanted = self._exponent / k
        if wanted > 4 / 27:  # the largest value of epsilon^2 - epsilon^3
            return math.inf
        return self.unit * float(brentq(lambda e: e**2 - e**3 - wanted, 0.0, 2 / 3))  # type: ignore[arg-type]

    @property
    def _exponent(self) -> float:
        return 4 * math.log(4 * self.n**2 / self.delta) / (self.layers or 1)


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
