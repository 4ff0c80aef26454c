r"""What all kernel solvers share: scikit-learn's conventions over precomputed kernels, with a pretrained output.

    f(x) = K(x, X) alpha + f0(x) / s          Malladi et al. 2023, Appendix A.3

s is `f0_scale`, infinity leaves the pretrained output out. A solver says how alpha follows from the training kernel; the
kernel's factorisation does not depend on most hyperparameters and is shared by all points of a grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from foretune.analysis.feature_kernel import FeatureMatrix, Matrix
from foretune.analysis.losses import targets
from foretune.analysis.scores import predicted_classes
from foretune.analysis.solvers.problem import Problem, checked_outputs, cross_matrix, posed
from foretune.analysis.spectrum import spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64, Int

STRENGTHS = (0.0, 0.001, 0.01, 0.1, 1.0)
F0_SCALES = (10.0, 100.0, 1000.0, 10000.0, float("inf"))

Grid = Mapping[str, Sequence[Any]]
Point = Mapping[str, Any]


def class_probabilities(f: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n k"]:
    """Probabilities of the classes, with outputs read as logits: softmax, for a difference output the two-class one."""
    if f.shape[1] > 1:
        return softmax(f, axis=1)
    return np.column_stack([expit(-f[:, 0]), expit(f[:, 0])])


class KernelSolver(ClassifierMixin, BaseEstimator):
    """Base of the solvers.

    Training kernels are (n, n), (n c, n c) or, so that scikit-learn can slice them, (n, n, c, c); kernels of new against
    training examples are (m, n), (m c, n c) or (m, n, c, c). c = 1 is the difference form f_1 - f_0 of two classes.
    f0, the pretrained outputs, is (n, c); with metadata routing on, `set_fit_request(f0=True).set_score_request(f0=True)`
    lets `GridSearchCV` carry it.

    Attributes:
        classes_: the labels, ascending.
        n_outputs_: number of outputs, c.
        dual_coef_: alpha, (n, c).
        operator_norm_: ||K||_op, the largest singular value.
        rank_: rank of K, up to single-precision rounding.
        condition_number_: condition number of the matrix that is solved.
        residual_: what is left of the optimality condition, relative (see each solver).
        converged_: False when an iterative solver stopped early; direct solvers always converge.
    """

    factor_parameters: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters on which the factorisation of the kernel depends."""
    positive: ClassVar[tuple[str, ...]] = ("f0_scale",)
    """Hyperparameters that have to be above zero."""
    default_grid: ClassVar[Grid] = {"f0_scale": F0_SCALES, "strength": STRENGTHS}
    """The grid that is searched unless another is given: Malladi et al. 2023, Table 3."""
    whole: ClassVar[bool] = False
    """Whether it needs every entry of the kernel, so that features are multiplied out for it."""

    strength: float
    f0_scale: float
    dual_coef_: Float64[np.ndarray, "n c"]
    operator_norm_: float
    rank_: int
    condition_number_: float
    residual_: float
    converged_: bool

    def fit(self, X: np.ndarray, y: np.ndarray, f0: np.ndarray | None = None) -> KernelSolver:  # noqa: N803
        """Solve for alpha on a training kernel.

        Raises:
            UsageError: a shape or hyperparameter does not fit, or a number is not finite.
        """
        return self._fitted(posed(X, y, f0), {}, None)

    def fresh(self) -> KernelSolver:
        """An unfitted solver with the same hyperparameters."""
        return cast(KernelSolver, clone(self))

    def path(self, problem: Problem, points: Sequence[Point]) -> list[KernelSolver]:
        """This solver fitted at each grid point: factorised once, each start taken from the point before.

        Raises:
            UsageError: a hyperparameter does not fit.
        """
        factors: dict[Hashable, Any] = {}
        fits: list[KernelSolver] = []
        for point in points:
            solver = self.fresh().set_params(**point)
            fits.append(solver._fitted(problem, factors, fits[-1] if fits else None))
        return fits

    def outputs(
        self,
        X: np.ndarray | FeatureMatrix,  # noqa: N803
        f0: np.ndarray | None = None,
        reversed: np.ndarray | FeatureMatrix | None = None,
    ) -> Float64[np.ndarray, "m c"]:
        """Outputs f of new examples.

        Args:
            X: kernel of new against training examples.
            f0: pretrained outputs of the new examples.
            reversed: for `AsymmetricKernel` alone, the kernel with the roles of new and training examples exchanged.

        Raises:
            UsageError: a shape does not fit, or a number is not finite.
        """
        check_is_fitted(self)
        f = self._kernel_outputs(self._cross(X), None if reversed is None else self._cross(reversed))
        return f + self._offset(f0, len(f))

    def decision_function(self, X: np.ndarray, f0: np.ndarray | None = None) -> np.ndarray:  # noqa: N803
        """Outputs of new examples: (m,), positive for the second of two classes, else (m, c)."""
        return decisions(self.outputs(X, f0))

    def predict(self, X: np.ndarray, f0: np.ndarray | None = None) -> np.ndarray:  # noqa: N803
        """The label of each new example."""
        f = self.outputs(X, f0)
        return self.classes_[predicted_classes(f)]

    def predict_proba(self, X: np.ndarray, f0: np.ndarray | None = None) -> Float64[np.ndarray, "m k"]:  # noqa: N803
        """Probabilities of the labels, with the outputs read as logits; only the logistic solver fits them."""
        return class_probabilities(self.outputs(X, f0))

    def score(self, X: np.ndarray, y: np.ndarray, f0: np.ndarray | None = None) -> float:  # noqa: N803
        """Accuracy."""
        return float(accuracy_score(y, self.predict(X, f0)))

    def loss(self, f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
        """The loss of outputs, by which equally good hyperparameters are told apart: here the mean squared error.

        Args:
            f: outputs.
            y: class numbers.
        """
        return float(((f - self._targets(y, f.shape[1])) ** 2).mean())

    def __sklearn_tags__(self) -> Tags:
        """Both axes of the input are examples."""
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        return tags

    def _solve(self, problem: Problem, factors: Any, start: KernelSolver | None) -> None:
        """Set the fitted attributes."""
        raise NotImplementedError

    def _factorised(self, problem: Problem) -> Any:
        return problem.eigen or spectrum(problem.matrix)

    def _kernel_outputs(self, cross: Matrix, reversed: Matrix | None) -> Float64[np.ndarray, "m c"]:
        """K(x, X) alpha."""
        return (cross @ self.dual_coef_.reshape(-1)).reshape(-1, self.n_outputs_)

    def _fitted(self, problem: Problem, factors: dict[Hashable, Any], start: KernelSolver | None) -> KernelSolver:
        self._check_parameters()
        key = tuple(getattr(self, name) for name in self.factor_parameters)
        if key not in factors:
            factors[key] = self._factorised(problem)
        self.classes_, self.n_outputs_ = problem.classes, problem.outputs
        self._solve(problem, factors[key], start)
        return self

    def _check_parameters(self) -> None:
        for name in self.positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected more than zero.")
        if not 0 <= self.strength < np.inf:
            raise UsageError(f"strength is {self.strength}; expected zero or more, relative to the kernel's norm.")

    def _targets(self, y: Int[np.ndarray, " n"], outputs: int) -> Float64[np.ndarray, "n c"]:
        return getattr(self, "target_scale", 1.0) * targets(y, outputs)

    def _offset(self, f0: np.ndarray | None, n: int) -> Float64[np.ndarray, "n c"]:
        """f0 / s."""
        if np.isinf(self.f0_scale):
            return np.zeros((n, self.n_outputs_))
        if f0 is None:
            raise UsageError(
                f"f0_scale is {self.f0_scale:g}, but no pretrained outputs came. Pass f0 of shape "
                f"{(n, self.n_outputs_)}, or leave them out with f0_scale=inf."
            )
        return checked_outputs(f0, n, self.n_outputs_) / self.f0_scale

    def _remaining_targets(self, problem: Problem) -> Float64[np.ndarray, "n c"]:
        """What the kernel has to add to f0 / s."""
        return self._targets(problem.y, problem.outputs) - self._offset(problem.f0, len(problem.y))

    def _cross(self, x: np.ndarray | FeatureMatrix) -> Matrix:
        return cross_matrix(x, len(self.dual_coef_), self.n_outputs_)


def decisions(f: Float64[np.ndarray, "m c"]) -> np.ndarray:
    """Outputs as scikit-learn wants them: (m,), positive for the second of two classes, else (m, c)."""
    if f.shape[1] == 2:
        return f[:, 1] - f[:, 0]
    return f[:, 0] if f.shape[1] == 1 else f


def relative_residual(left: np.ndarray, right: np.ndarray) -> float:
    """||left - right|| / ||right||, zero for two zeros."""
    return float(np.linalg.norm(left - right) / (np.linalg.norm(right) or 1.0))
