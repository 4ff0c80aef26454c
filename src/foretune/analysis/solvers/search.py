"""The choice of a solver's hyperparameters, and what the chosen one says of test examples.

Malladi et al. 2023, Appendix A.3, choose on the few-shot validation split; cross-validation over the training examples
needs none. Test examples never choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.model_selection import ParameterGrid, StratifiedKFold

from foretune.analysis.feature_kernel import Kernel
from foretune.analysis.scores import predicted_classes, score
from foretune.analysis.solvers.estimator import Grid, KernelSolver, Point, class_probabilities
from foretune.analysis.solvers.problem import Problem, posed
from foretune.analysis.spectrum import Spectrum, symmetric
from foretune.errors import UsageError, nearest
from foretune.shapes import Float64, Int


@dataclass(frozen=True)
class JointData:
    """Kernels, pretrained outputs and labels of one split.

    Attributes:
        train: training kernel, (n, c, n, c).
        evaluation: kernel of validation, then test examples against training examples, (v + m, c, n, c).
        f0_train, f0_evaluation: pretrained outputs, (n, c) and (v + m, c).
        y_train, y_evaluation: class numbers of training and evaluation examples.
        validation: v, how many of the evaluation examples come first and choose.
        metric: `accuracy`, `f1` or `matthews`.
        reversed: for an asymmetric kernel, `evaluation` with the roles of its rows and columns exchanged.
        eigen: spectrum of the training kernel, where it is known already.
    """

    train: Kernel
    evaluation: Kernel
    f0_train: Float64[np.ndarray, "n c"]
    f0_evaluation: Float64[np.ndarray, "v c"]
    y_train: Int[np.ndarray, " n"]
    y_evaluation: Int[np.ndarray, " v"]
    validation: int
    metric: str = "accuracy"
    reversed: Kernel | None = None
    eigen: Spectrum | None = None

    def problem(self) -> Problem:
        """What a solver is fitted to.

        Raises:
            UsageError: a shape does not fit, a number is not finite, or a label is not a class number.
        """
        k = self.f0_train.size
        posed_problem = posed(self.train.reshape(k, k), self.y_train, self.f0_train)
        labels = len(posed_problem.classes)
        found = np.concatenate([self.y_train, self.y_evaluation])
        if found.min() < 0 or found.max() >= labels:
            raise UsageError(f"Labels run from {found.min()} to {found.max()}; expected class numbers below {labels}.")
        return replace(posed_problem, eigen=self.eigen)


def joint_data(
    joint: Kernel,
    f0: Float64[np.ndarray, "e c"],
    y: Int[np.ndarray, " e"],
    validation: int,
    metric: str = "accuracy",
    reversed: Kernel | None = None,
    eigen: Spectrum | None = None,
) -> JointData:
    """The data of a joint kernel: training examples against training, validation and test examples, in this order.

    Args:
        joint: the kernel, n training examples first among the e columns.
        f0, y: pretrained outputs and class numbers of all e examples.
        validation: how many examples after the training ones choose.
        metric: `accuracy`, `f1` or `matthews`.
        reversed: of an asymmetric kernel `<phi_s, phi_t>`, the other orientation `<phi_t, phi_s>` of the same examples.
        eigen: spectrum of the training kernel, where it is known already.

    Raises:
        UsageError: an asymmetric kernel without its other orientation: new examples have the other role in it.
    """
    n = joint.shape[0]
    if reversed is None and not symmetric(joint[:, :, :n].reshape(n * joint.shape[1], -1)):
        raise UsageError(
            "The kernel of the training examples is not symmetric, and its other orientation is missing: predictions would "
            "take K(X, x) for K(x, X). Pass both: kernels_of(job, [formula, formula.reversed]), then "
            "joint_data(..., reversed=...)."
        )
    new = joint[:, :, n:].transpose(2, 3, 0, 1)  # phi_t of new, phi_s of training examples
    back = None if reversed is None else reversed[:, :, n:].transpose(2, 3, 0, 1)
    return JointData(
        train=joint[:, :, :n],
        evaluation=new if back is None else back,
        f0_train=f0[:n],
        f0_evaluation=f0[n:],
        y_train=y[:n],
        y_evaluation=y[n:],
        validation=validation,
        metric=metric,
        reversed=None if back is None else new,
        eigen=eigen,
    )


Outputs = list[Float64[np.ndarray, "_ c"]]


@dataclass(frozen=True)
class Validation:
    """The validation examples of the split choose."""

    def outputs(self, solver: KernelSolver, data: JointData, points: Sequence[Point], evaluation: Outputs) -> Outputs:
        """Outputs of the examples that choose, for every grid point, from those of all evaluation examples."""
        if not 0 < data.validation <= len(data.y_evaluation):
            raise UsageError(
                f"{data.validation} of {len(data.y_evaluation)} evaluation examples are for validation; expected at "
                "least one. Add some, or choose=CrossValidation()."
            )
        return [f[: data.validation] for f in evaluation]

    def labels(self, data: JointData) -> Int[np.ndarray, " v"]:
        """Class numbers of the examples that choose."""
        return data.y_evaluation[: data.validation]


@dataclass(frozen=True)
class CrossValidation:
    """The training examples choose, each by the fit to the folds that it is not in; validation examples have no say.

    Attributes:
        folds: how many, stratified by label.
        seed: seed of the assignment to folds.
    """

    folds: int = 5
    seed: int = 0

    def outputs(self, solver: KernelSolver, data: JointData, points: Sequence[Point], evaluation: Outputs) -> Outputs:
        """Outputs of every training example from the fit that left it out, for every grid point."""
        y, c = data.y_train, data.f0_train.shape[1]
        fewest = int(np.unique(y, return_counts=True)[1].min())
        if not 2 <= self.folds <= fewest:
            raise UsageError(
                f"CrossValidation(folds={self.folds}) with {fewest} training example(s) of the rarest label; expected 2 "
                f"to {fewest} folds, or choose=Validation()."
            )
        held_out = [np.empty_like(data.f0_train) for _ in points]
        for kept, left in StratifiedKFold(self.folds, shuffle=True, random_state=self.seed).split(y, y):
            fold = posed(data.train[kept][:, :, kept].reshape(len(kept) * c, -1), y[kept], data.f0_train[kept])
            cross = data.train[left][:, :, kept].reshape(len(left) * c, -1)
            back = data.train[kept][:, :, left].transpose(2, 3, 0, 1).reshape(len(left) * c, -1)
            for fit, f in zip(solver.path(fold, points), held_out, strict=True):
                f[left] = fit.outputs(cross, data.f0_train[left], back)
        return held_out

    def labels(self, data: JointData) -> Int[np.ndarray, " n"]:
        """Class numbers of the examples that choose."""
        return data.y_train


@dataclass(frozen=True)
class GridPoint:
    """One choice of hyperparameters and how it did.

    Attributes:
        parameters: name -> value, of every hyperparameter in the grid.
        validation: score on the examples that choose.
        validation_loss: their loss (`solver.loss`), which breaks ties.
        test: score on the test examples.
        converged: False when an iterative solver stopped early.
    """

    parameters: dict[str, Any]
    validation: float
    validation_loss: float
    test: float
    converged: bool


@dataclass(frozen=True)
class Solution:
    """The chosen solver.

    Attributes:
        chosen: the grid point with the best score on the examples that choose.
        grid: all points that were tried.
        predictions: class numbers of the test examples.
        probabilities: class probabilities of the test examples.
        condition_number: condition number of the matrix that is solved at the chosen point.
        rank: rank of the training kernel K.
        residual: what is left of the optimality condition at the chosen point.
    """

    chosen: GridPoint
    grid: tuple[GridPoint, ...]
    predictions: Int[np.ndarray, " m"] = field(repr=False)
    probabilities: Float64[np.ndarray, "m k"] = field(repr=False)
    condition_number: float
    rank: int
    residual: float


def solve_on_grid(
    solver: KernelSolver, data: JointData, grid: Grid | None = None, choose: Validation | CrossValidation | None = None
) -> Solution:
    """Fit a solver at every grid point, and choose.

    Ties in the score go to the smaller loss, then to the stronger regularisation.

    Args:
        solver: holds the hyperparameters that are not in the grid; it is not changed.
        data: kernels, pretrained outputs and labels.
        grid: hyperparameter -> values; the solver's `default_grid` without one.
        choose: which examples choose; `Validation()` without one.

    Raises:
        UsageError: the grid names what the solver does not have, or the data do not fit.
    """
    choose = choose or Validation()
    points = _points(solver, solver.default_grid if grid is None else grid)
    c, v = data.f0_train.shape[1], data.validation
    fits = solver.path(data.problem(), points)
    cross = data.evaluation.reshape(len(data.y_evaluation) * c, -1)
    back = None if data.reversed is None else data.reversed.reshape(len(data.y_evaluation) * c, -1)
    evaluation = [fit.outputs(cross, data.f0_evaluation, back) for fit in fits]
    choosing, y = choose.outputs(solver, data, points, evaluation), choose.labels(data)
    found = [
        GridPoint(
            point,
            score(y, predicted_classes(f), data.metric),
            fit.loss(f, y),
            score(data.y_evaluation[v:], predicted_classes(every[v:]), data.metric),
            fit.converged_,
        )
        for point, fit, f, every in zip(points, fits, choosing, evaluation, strict=True)
    ]
    best = min(range(len(found)), key=lambda place: _order(found[place], fits[place]))
    test = evaluation[best][v:]
    return Solution(
        found[best],
        tuple(found),
        predicted_classes(test),
        class_probabilities(test),
        fits[best].condition_number_,
        fits[best].rank_,
        fits[best].residual_,
    )


def _points(solver: KernelSolver, grid: Grid) -> list[dict[str, Any]]:
    known = solver.get_params()
    for name in grid:
        if name not in known:
            raise UsageError(
                f"{type(solver).__name__} has no hyperparameter {name!r}, only {', '.join(known)}.{nearest(name, known)}"
            )
    return list(ParameterGrid(grid))


def _order(point: GridPoint, fit: KernelSolver) -> tuple[float, ...]:
    """Smaller is better: score, loss, then the weakness of regularisation, which gamma and C measure too."""
    parameters = fit.get_params()
    weakness = (-parameters["strength"], parameters.get("gamma", 0.0), parameters.get("C", 0.0))
    return (-point.validation, point.validation_loss, *weakness)
