r"""Logistic and multinomial regression over alpha.

    min_alpha  1/n sum_i l(f(x_i), y_i) + r ||K||_op / 2 alpha' K alpha,   f = K alpha + f0(X) / s

with the logistic loss of a difference output or the cross-entropy of c outputs, in nats: the regularised loss of Malladi
et al. 2023, Appendix A.3. The loss is a mean, so that a strength r weighs as n r would beside the sum over examples that
`KernelRidge` minimises: at the optimum `n r ||K||_op alpha = onehot(y) - softmax(f)`.

With K = V L V' and `w = sqrt(||K||) L^(1/2) V' alpha` the problem is `mean l(Z w + f0 / s) + r / 2 |w|^2`,
Z = V (L / ||K||)^(1/2), whose Hessian's condition number is at most 1 + 1 / (2 n r): L-BFGS needs few steps, and its
tolerance does not depend on the kernel's scale. One eigendecomposition serves every r and s.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from foretune.analysis.losses import LogLoss, targets
from foretune.analysis.solvers.estimator import F0_SCALES, STRENGTHS, Grid, KernelSolver
from foretune.analysis.solvers.problem import Problem
from foretune.analysis.spectrum import Spectrum
from foretune.shapes import Float64, Int


def loss_and_derivative(
    f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"]
) -> tuple[float, Float64[np.ndarray, "n c"]]:
    """The mean cross-entropy in nats (logistic for one difference output), and its derivative with respect to f."""
    loss, wanted = LogLoss(), targets(y, f.shape[1])
    return float(loss.values(f, wanted).mean()), loss.derivative(f.copy(), wanted) / len(f)


class KernelLogistic(KernelSolver):
    """Regularised kernel logistic regression.

    Without regularisation separable examples have no optimum: the outputs grow until the gradient is below `tolerance`
    (margins of about log(1 / tolerance)) or `max_iter` is reached. `converged_` says whether the gradient got there,
    `n_iter_` after how many steps; a warning says so when it did not. `residual_` is the largest entry of the gradient
    with respect to w.

    Args:
        strength: r, relative to the operator norm of K, beside a mean loss.
        f0_scale: s; infinity leaves the pretrained output out.
        tolerance: for the largest entry of the gradient.
        max_iter: steps of L-BFGS.
    """

    positive: ClassVar[tuple[str, ...]] = ("f0_scale", "tolerance", "max_iter")
    # strongest first: each solution is the next one's start
    default_grid: ClassVar[Grid] = {"f0_scale": F0_SCALES, "strength": STRENGTHS[::-1]}

    def __init__(
        self,
        strength: float = 0.01,
        f0_scale: float = float("inf"),
        tolerance: float = 1e-6,
        max_iter: int = 1000,
    ) -> None:
        self.strength = strength
        self.f0_scale = f0_scale
        self.tolerance = tolerance
        self.max_iter = max_iter

    def loss(self, f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
        """Mean cross-entropy in nats."""
        return loss_and_derivative(f, y)[0]

    def _solve(self, problem: Problem, factors: Spectrum, start: KernelSolver | None) -> None:
        offset = self._offset(problem.f0, len(problem.y))
        kept = factors.values > len(factors.values) * float(np.finfo(np.float32).eps) * factors.largest
        vectors, values = factors.vectors[:, kept], factors.values[kept]
        z = vectors * np.sqrt(values / (factors.largest or 1.0))  # (k, rank)
        roots = np.sqrt(values) * np.sqrt(factors.largest or 1.0)  # the root of a product may overflow

        def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
            loss, derivative = loss_and_derivative((z @ w).reshape(offset.shape) + offset, problem.y)
            return loss + self.strength / 2 * float(w @ w), z.T @ derivative.reshape(-1) + self.strength * w

        w, self.n_iter_ = np.zeros(len(values)), 0
        if start is not None:
            near = roots * (vectors.T @ start.dual_coef_.reshape(-1))
            w = min(w, near, key=lambda point: objective(point)[0])
        if len(w):
            options = {"maxiter": self.max_iter, "maxfun": 20 * self.max_iter, "gtol": self.tolerance, "ftol": 0.0}
            found = minimize(objective, w, jac=True, method="L-BFGS-B", options=options)
            w, self.n_iter_ = found.x, int(found.nit)
        self.residual_ = float(np.abs(objective(w)[1]).max(initial=0))
        self.converged_ = self.residual_ <= self.tolerance
        self.dual_coef_ = (vectors @ (w / roots)).reshape(offset.shape)
        self.operator_norm_, self.rank_ = factors.largest, factors.rank
        self.condition_number_ = factors.condition_number(self.strength * factors.largest)
        if not self.converged_:
            warnings.warn(
                f"Kernel logistic regression of strength {self.strength:g} stopped after {self.n_iter_} steps with a "
                f"gradient of {self.residual_:.1e}, above {self.tolerance:.1e}. Raise strength, max_iter or tolerance.",
                ConvergenceWarning,
                stacklevel=2,
            )
