"""The kernel method that stands for a way of fine-tuning: one choice of kernel and solver for every command.

Malladi et al. 2023, Table 4: K(SGD) beside SGD, K(A-SignGD) beside Adam. Appendix A.3: the regularised logistic loss for
symmetric kernels (the published code solves least squares), the asymmetric system for the asymmetric one; hyperparameters
from Table 3's grids, chosen on validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from foretune.analysis.solvers import Solution, joint_data, named_solver, solve_on_grid
from foretune.kernels.formula import Formula
from foretune.kernels.sgd import SGD
from foretune.kernels.signs import AsymmetricSignGD
from foretune.shapes import Float64, Int


def analog_formula(optimiser: str) -> Formula:
    """The kernel of an optimiser by its name: of `sgd`, or of Adam's early steps for `adamw` and `signgd`."""
    return SGD() if optimiser == "sgd" else AsymmetricSignGD()


def orientations(formula: Formula) -> tuple[Formula, ...]:
    """The kernels that a solver of this formula needs: both orientations of an asymmetric one."""
    return (formula, formula.reversed) if isinstance(formula, AsymmetricSignGD) else (formula,)


def analog_solver(formula: Formula) -> str:
    """The name of the solver of this formula's kernel."""
    return "logistic" if formula.symmetric else "asymmetric"


def analog_solution(
    formula: Formula,
    kernels: Sequence[Float64[np.ndarray, "n c e c"]],
    f0: Float64[np.ndarray, "e c"],
    y: Int[np.ndarray, " e"],
    validation: int,
    metric: str,
) -> Solution:
    """What the kernel method says of the test examples.

    Args:
        formula: of the kernel.
        kernels: joint kernels of `orientations(formula)`, in this order.
        f0, y: pretrained outputs and class numbers of training, validation and test examples.
        validation: how many examples after the training ones choose the hyperparameters.
        metric: by which they do.

    Raises:
        UsageError: the data do not fit.
    """
    from sklearn.exceptions import ConvergenceWarning

    kernel, *reverse = kernels
    data = joint_data(kernel, f0, y, validation, metric, reverse[0] if reverse else None)
    with warnings.catch_warnings():  # without a ridge separable examples have no optimum; `converged` says so
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solve_on_grid(named_solver(analog_solver(formula)), data)
