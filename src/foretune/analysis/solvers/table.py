"""The solvers by name."""

from __future__ import annotations

from foretune.analysis.solvers.asymmetric import AsymmetricKernel
from foretune.analysis.solvers.estimator import KernelSolver
from foretune.analysis.solvers.logistic import KernelLogistic
from foretune.analysis.solvers.ridge import DOUBLE, KernelRidge
from foretune.analysis.solvers.support import KernelSVC, KernelSVR
from foretune.errors import UsageError, nearest

SOLVERS: dict[str, KernelSolver] = {
    "ridge": KernelRidge(),
    "logistic": KernelLogistic(),
    "asymmetric": AsymmetricKernel(),
    "svc": KernelSVC(),
    "svr": KernelSVR(),
    "published": KernelRidge(rounding=DOUBLE),
}
"""Name -> solver with its `default_grid`.

`published` is what the code published with Malladi et al. 2023 does (princeton-nlp/LM-Kernel-FT, `LstsqKernelSolver` fed
by `reshape_kernel_and_targets`): all outputs in one joint (n c, n c) system, K + r ||K||_op I, one-hot targets (+-1 for
a difference output) minus f0 / s, and a pseudo-inverse cut at double-precision rounding. `ridge` differs in that cut
alone: it takes eigenvalues within the single-precision rounding of the gradients for zero, and so does not fit noise.
"""


def named_solver(name: str) -> KernelSolver:
    """A fresh solver by its name.

    Raises:
        UsageError: there is no such solver.
    """
    if name not in SOLVERS:
        raise UsageError(f"There is no solver {name!r}, only {', '.join(SOLVERS)}.{nearest(name, SOLVERS)}")
    return SOLVERS[name].fresh()
