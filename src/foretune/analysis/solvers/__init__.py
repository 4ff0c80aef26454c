"""Kernel solvers as scikit-learn estimators over precomputed kernels, and the choice of their hyperparameters."""

from foretune.analysis.solvers.asymmetric import AsymmetricKernel
from foretune.analysis.solvers.estimator import KernelSolver
from foretune.analysis.solvers.logistic import KernelLogistic
from foretune.analysis.solvers.problem import sample_major
from foretune.analysis.solvers.ridge import KernelRidge
from foretune.analysis.solvers.search import (
    CrossValidation,
    GridPoint,
    JointData,
    Solution,
    Validation,
    joint_data,
    solve_on_grid,
)
from foretune.analysis.solvers.support import KernelSVC, KernelSVR
from foretune.analysis.solvers.table import SOLVERS, named_solver

__all__ = [
    "SOLVERS",
    "AsymmetricKernel",
    "CrossValidation",
    "GridPoint",
    "JointData",
    "KernelLogistic",
    "KernelRidge",
    "KernelSVC",
    "KernelSVR",
    "KernelSolver",
    "Solution",
    "Validation",
    "joint_data",
    "named_solver",
    "sample_major",
    "solve_on_grid",
]
