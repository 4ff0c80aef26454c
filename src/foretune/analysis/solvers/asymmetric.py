r"""Least squares with an asymmetric kernel, K[i, j] = <phi_s(x_i), phi_t(x_j)>.

He et al. 2022, *Learning with Asymmetric Kernels: Least Squares and Feature Interpretation*, as Malladi et al. 2023,
Appendix A.3, use it, for Y of +-1 and H_ij = y_i K_ij y_j:

    [ I/gamma   H      ] [ alpha ]   [ 1 ]           f_s(x) = K(x, X) (beta * Y)
    [ H'        I/gamma ] [ beta  ] = [ 1 ],          f_t(x) = K(X, x) (alpha * Y)

Multiplied row by row with Y, which for +-1 is its own inverse, it reads with a = alpha * Y and b = beta * Y

    [ I/gamma   K      ] [ a ]   [ Y ]
    [ K'        I/gamma ] [ b ] = [ Y ]

This second form is solved, for any targets. For targets that are not +-1 (Y - f0 / s, one-hot rows) the first form is
another problem, `a_i / (gamma y_i^2) + (K b)_i = 1 / y_i`: it fits the inverse of a target, which a target of zero does
not have. The second stays least squares with one ridge: for a symmetric K it is (K + I/gamma)^-1 Y, with f_s = f_t.

With K = U S V' the system falls apart into (1/gamma + S)(p + q) = U'Y + V'Y, (1/gamma - S)(p - q) = U'Y - V'Y with
a = U p, b = V q, so that one singular value decomposition serves every gamma and s. A singular system (1/gamma equals a
singular value) gets its pseudo-inverse. Table 3 of Malladi et al. also adds r ||K||_op I to this kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.metrics import accuracy_score

from foretune.analysis.feature_kernel import Matrix, dense
from foretune.analysis.scores import predicted_classes
from foretune.analysis.solvers.estimator import (
    F0_SCALES,
    STRENGTHS,
    Grid,
    KernelSolver,
    class_probabilities,
    decisions,
    relative_residual,
)
from foretune.analysis.solvers.problem import Problem
from foretune.errors import UsageError
from foretune.shapes import Float64

GAMMAS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class ShiftedDecomposition:
    """A training kernel K and the decomposition of K + r ||K||_op I.

    Attributes:
        plain: singular values of K, descending.
        matrix: K + r ||K||_op I.
        left, values, right: U, S and V of that matrix.
    """

    plain: Float64[np.ndarray, " k"]
    matrix: Float64[np.ndarray, "k k"]
    left: Float64[np.ndarray, "k k"]
    values: Float64[np.ndarray, " k"]
    right: Float64[np.ndarray, "k k"]


class AsymmetricKernel(KernelSolver):
    """Least squares with an asymmetric kernel.

    `dual_coef_` is b, which f_s predicts with, `dual_coef_reversed_` a, which f_t predicts with; `condition_number_` and
    `residual_` are those of the doubled system.

    Args:
        gamma: one over the ridge, absolute.
        strength: r of r ||K||_op I, added to the training kernel.
        f0_scale: s; infinity leaves the pretrained output out.
        mix: c of c f_s + (1 - c) f_t. Below one, predictions need `reversed`, the kernel in which training and new
            examples have exchanged roles, rows still the new examples: `reversed[x, i] = K(x_i, x)`.
        target_scale: factor on the targets.
    """

    whole: ClassVar[bool] = True
    factor_parameters: ClassVar[tuple[str, ...]] = ("strength",)
    positive: ClassVar[tuple[str, ...]] = ("gamma", "f0_scale", "target_scale")
    default_grid: ClassVar[Grid] = {"f0_scale": F0_SCALES, "gamma": GAMMAS, "strength": STRENGTHS}

    dual_coef_reversed_: Float64[np.ndarray, "n c"]

    def __init__(
        self,
        gamma: float = 1.0,
        strength: float = 0.0,
        f0_scale: float = float("inf"),
        mix: float = 1.0,
        target_scale: float = 1.0,
    ) -> None:
        self.gamma = gamma
        self.strength = strength
        self.f0_scale = f0_scale
        self.mix = mix
        self.target_scale = target_scale

    def decision_function(
        self,
        X: np.ndarray,  # noqa: N803
        f0: np.ndarray | None = None,
        reversed: np.ndarray | None = None,
    ) -> np.ndarray:
        """Outputs of new examples: (m,), positive for the second of two classes, else (m, c)."""
        return decisions(self.outputs(X, f0, reversed))

    def predict(
        self,
        X: np.ndarray,  # noqa: N803
        f0: np.ndarray | None = None,
        reversed: np.ndarray | None = None,
    ) -> np.ndarray:
        """The label of each new example."""
        f = self.outputs(X, f0, reversed)
        return self.classes_[predicted_classes(f)]

    def predict_proba(
        self,
        X: np.ndarray,  # noqa: N803
        f0: np.ndarray | None = None,
        reversed: np.ndarray | None = None,
    ) -> Float64[np.ndarray, "m k"]:
        """Probabilities of the labels, with the outputs read as logits."""
        return class_probabilities(self.outputs(X, f0, reversed))

    def score(
        self,
        X: np.ndarray,  # noqa: N803
        y: np.ndarray,
        f0: np.ndarray | None = None,
        reversed: np.ndarray | None = None,
    ) -> float:
        """Accuracy."""
        return float(accuracy_score(y, self.predict(X, f0, reversed)))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix is {self.mix}; expected 0 (f_t alone) to 1 (f_s alone).")

    def _factorised(self, problem: Problem) -> ShiftedDecomposition:
        kernel = dense(problem.matrix)
        plain = np.linalg.svd(kernel, compute_uv=False)
        matrix = kernel + self.strength * plain[0] * np.eye(len(plain))
        left, values, right = np.linalg.svd(matrix)
        return ShiftedDecomposition(plain, matrix, left, values, right.T)

    def _solve(self, problem: Problem, factors: ShiftedDecomposition, start: KernelSolver | None) -> None:
        wanted = self._remaining_targets(problem)
        column, ridge = wanted.reshape(-1), 1 / self.gamma
        from_left, from_right = factors.left.T @ column, factors.right.T @ column
        eigenvalues = np.concatenate([ridge + factors.values, ridge - factors.values])
        largest, smallest = np.abs(eigenvalues).max(), np.abs(eigenvalues).min()
        cut = len(eigenvalues) * np.finfo(np.float64).eps * largest
        total = (from_left + from_right) / (ridge + factors.values)
        gap = ridge - factors.values
        difference = np.divide(from_left - from_right, gap, out=np.zeros_like(gap), where=np.abs(gap) > cut)
        a, b = factors.left @ (total + difference) / 2, factors.right @ (total - difference) / 2
        reached = np.concatenate([ridge * a + factors.matrix @ b, factors.matrix.T @ a + ridge * b])
        self.residual_ = relative_residual(reached, np.concatenate([column, column]))
        self.dual_coef_, self.dual_coef_reversed_ = b.reshape(wanted.shape), a.reshape(wanted.shape)
        self.operator_norm_ = float(factors.plain[0])
        self.rank_ = int((factors.plain > len(column) * np.finfo(np.float32).eps * factors.plain[0]).sum())
        self.condition_number_ = float(largest / smallest) if smallest > cut else float("inf")
        self.converged_ = True

    def _kernel_outputs(self, cross: Matrix, reversed: Matrix | None) -> Float64[np.ndarray, "m c"]:
        source = super()._kernel_outputs(cross, None)
        if self.mix == 1:
            return source
        if reversed is None:
            raise UsageError(
                f"mix is {self.mix}, but no reversed kernel came. Pass reversed, the kernel with the roles of new and "
                "training examples exchanged, or predict with f_s alone by mix=1."
            )
        if len(reversed) != len(cross):
            raise UsageError(f"The reversed kernel has {len(reversed)} rows; expected {len(cross)}, as in the kernel.")
        target = (reversed @ self.dual_coef_reversed_.reshape(-1)).reshape(source.shape)
        return self.mix * source + (1 - self.mix) * target
