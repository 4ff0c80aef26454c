r"""Least squares.

    alpha = (K + r ||K||_op I)^-1 (y - f0(X) / s)          Malladi et al. 2023, Appendix A.3 and Table 3

minimises `||K alpha + f0 / s - y||^2 + r ||K||_op alpha' K alpha`, a sum over examples. Targets y are one-hot, or +-1 for
the difference form. One eigendecomposition serves every r and s.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from foretune.analysis.solvers.estimator import KernelSolver, relative_residual
from foretune.analysis.solvers.problem import Problem
from foretune.analysis.spectrum import Spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64

SINGLE, DOUBLE = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))


class KernelRidge(KernelSolver):
    """Kernel least squares.

    `residual_` is that of the linear system: rounding, and for a singular kernel without ridge what no alpha reaches.

    Args:
        strength: r, relative to the operator norm of K. Zero solves a singular kernel by its pseudo-inverse.
        f0_scale: s; infinity leaves the pretrained output out.
        target_scale: factor on the targets.
        rounding: eigenvalues of K below `k * rounding * ||K||_op` count as zero in a pseudo-inverse; single precision by
            default, the precision of a model's gradients.
    """

    positive: ClassVar[tuple[str, ...]] = ("f0_scale", "target_scale")

    def __init__(
        self,
        strength: float = 0.01,
        f0_scale: float = float("inf"),
        target_scale: float = 1.0,
        rounding: float = SINGLE,
    ) -> None:
        self.strength = strength
        self.f0_scale = f0_scale
        self.target_scale = target_scale
        self.rounding = rounding

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0 <= self.rounding < 1:
            raise UsageError(f"rounding is {self.rounding}; expected a relative precision from 0 to 1, such as 1e-7.")

    def _solve(self, problem: Problem, factors: Spectrum, start: KernelSolver | None) -> None:
        wanted = self._remaining_targets(problem)
        self.operator_norm_ = factors.largest
        ridge = self.strength * self.operator_norm_
        column = wanted.reshape(-1)
        alpha = factors.combined(factors.coordinates(column) * self._inverse(factors, ridge))
        self.residual_ = relative_residual(problem.matrix @ alpha + ridge * alpha, column)
        self.dual_coef_ = alpha.reshape(wanted.shape)
        self.rank_ = factors.rank
        self.condition_number_ = factors.condition_number(ridge)
        self.converged_ = True

    def _inverse(self, eigen: Spectrum, ridge: float) -> Float64[np.ndarray, " k"]:
        """1 / (lambda + ridge), zero for eigenvalues within rounding of zero when there is no ridge."""
        values = np.clip(eigen.values, 0, None)
        if ridge > 0:
            return 1 / (values + ridge)
        cut = len(values) * self.rounding * eigen.largest
        return np.divide(1.0, values, out=np.zeros_like(values), where=values > cut)
