r"""Support vector machines, scikit-learn's own, on the regularised kernel K + r ||K||_op I.

Classification reads every output as a two-class example, positive for the right class: n c examples, of which c belong to
one text. libsvm knows no offset an example, so that the pretrained output joins `KernelSVC` at prediction only; `KernelSVR`
regresses `y - f0(X) / s`, as least squares does. The machine's intercept is shared by all outputs.

`residual_` is the relative duality gap, of `1/2 alpha' K alpha + C sum loss` to its dual, which libsvm leaves at its
tolerance.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from sklearn.svm import SVC, SVR

from foretune.analysis.feature_kernel import Matrix, dense
from foretune.analysis.losses import targets
from foretune.analysis.solvers.estimator import KernelSolver
from foretune.analysis.solvers.problem import Problem
from foretune.analysis.spectrum import Spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64, Int


class _SupportVectors(KernelSolver):
    """What both machines share.

    Attributes:
        machine_: scikit-learn's fitted machine.
        intercept_: intercept of the machine.
    """

    whole: ClassVar[bool] = True

    C: float
    tolerance: float
    machine_: SVC | SVR
    intercept_: float

    def _fit_machine(
        self, machine: SVC | SVR, problem: Problem, wanted: np.ndarray, eigen: Spectrum
    ) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Fit on the regularised kernel and return alpha and the outputs on the training examples."""
        ridge = self.strength * eigen.largest
        matrix = dense(problem.matrix) + ridge * np.eye(len(problem.matrix))
        try:
            self.machine_ = machine.fit(matrix, wanted)
        except ValueError as error:  # libsvm's coefficients are not finite
            raise UsageError(
                f"{type(self).__name__} cannot be fitted to a kernel with entries up to {np.abs(matrix).max():.1e}; "
                "expected entries near 1. Use KernelRidge or KernelLogistic (--solver ridge, logistic), or divide the "
                "kernel."
            ) from error
        alpha = np.zeros(len(matrix))
        alpha[machine.support_] = np.asarray(machine.dual_coef_)[0]
        self.intercept_ = float(machine.intercept_[0])
        self.dual_coef_ = alpha.reshape(len(problem.y), problem.outputs)
        self.operator_norm_, self.rank_ = eigen.largest, eigen.rank
        self.condition_number_ = eigen.condition_number(ridge)
        self.converged_ = not machine.fit_status_
        return alpha, matrix @ alpha

    def _kernel_outputs(self, cross: Matrix, reversed: Matrix | None) -> Float64[np.ndarray, "m c"]:
        return super()._kernel_outputs(cross, reversed) + self.intercept_


class KernelSVC(_SupportVectors):
    """`sklearn.svm.SVC` on the regularised kernel.

    Args:
        strength: r, relative to the operator norm of K.
        f0_scale: s, of the pretrained output that joins at prediction; infinity leaves it out.
        C: weight of the hinge loss, summed over examples.
        tolerance: libsvm's.
    """

    positive: ClassVar[tuple[str, ...]] = ("f0_scale", "C", "tolerance")

    def __init__(
        self,
        strength: float = 0.01,
        f0_scale: float = float("inf"),
        C: float = 1.0,  # noqa: N803
        tolerance: float = 1e-3,
    ) -> None:
        self.strength = strength
        self.f0_scale = f0_scale
        self.C = C
        self.tolerance = tolerance

    def loss(self, f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
        """Mean hinge loss over examples and outputs."""
        return float(np.maximum(0, 1 - _signs(y, f.shape[1]) * f).mean())

    def _solve(self, problem: Problem, factors: Spectrum, start: KernelSolver | None) -> None:
        signs = _signs(problem.y, problem.outputs).reshape(-1)
        if abs(signs.sum()) == len(signs):
            raise UsageError(f"All {len(signs)} training labels are the same; KernelSVC expects examples of both.")
        machine = SVC(C=self.C, kernel="precomputed", tol=self.tolerance)
        alpha, f = self._fit_machine(machine, problem, signs, factors)
        losses = np.maximum(0, 1 - signs * (f + self.intercept_))
        self.residual_ = _gap(float(alpha @ f), self.C * losses.sum(), np.abs(alpha).sum())


class KernelSVR(_SupportVectors):
    """`sklearn.svm.SVR` on the regularised kernel and the targets of least squares.

    Args:
        strength: r, relative to the operator norm of K.
        f0_scale: s; infinity leaves the pretrained output out.
        C: weight of the loss, summed over examples.
        epsilon: half width of the tube in which errors do not count.
        target_scale: factor on the targets.
        tolerance: libsvm's.
    """

    positive: ClassVar[tuple[str, ...]] = ("f0_scale", "C", "target_scale", "tolerance")

    def __init__(
        self,
        strength: float = 0.01,
        f0_scale: float = float("inf"),
        C: float = 1.0,  # noqa: N803
        epsilon: float = 0.1,
        target_scale: float = 1.0,
        tolerance: float = 1e-3,
    ) -> None:
        self.strength = strength
        self.f0_scale = f0_scale
        self.C = C
        self.epsilon = epsilon
        self.target_scale = target_scale
        self.tolerance = tolerance

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.epsilon >= 0:
            raise UsageError(f"epsilon is {self.epsilon}; expected zero or more.")

    def _solve(self, problem: Problem, factors: Spectrum, start: KernelSolver | None) -> None:
        wanted = self._remaining_targets(problem).reshape(-1)
        machine = SVR(C=self.C, kernel="precomputed", epsilon=self.epsilon, tol=self.tolerance)
        alpha, f = self._fit_machine(machine, problem, wanted, factors)
        losses = np.maximum(0, np.abs(wanted - f - self.intercept_) - self.epsilon)
        self.residual_ = _gap(
            float(alpha @ f), self.C * losses.sum(), wanted @ alpha - self.epsilon * np.abs(alpha).sum()
        )


def _signs(y: Int[np.ndarray, " n"], outputs: int) -> Float64[np.ndarray, "n c"]:
    """+1 for the output of the right class, -1 for the others."""
    wanted = targets(y, outputs)
    return wanted if outputs == 1 else 2 * wanted - 1


def _gap(energy: float, losses: float, gain: float) -> float:
    """(primal - dual) / primal, of `energy / 2 + losses` and `gain - energy / 2`; zero for a zero problem."""
    primal = energy / 2 + losses
    return float((primal - gain + energy / 2) / primal) if primal > 0 else 0.0
