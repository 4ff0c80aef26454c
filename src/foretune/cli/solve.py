"""`solve`: kernel solvers on the kernels of a run folder, exact ones or those that are held as features."""

from __future__ import annotations

import shlex

import numpy as np

import foretune
from foretune.analysis.feature_kernel import Kernel
from foretune.analysis.scores import Score, predicted_classes, scored
from foretune.analysis.solvers import (
    SOLVERS,
    AsymmetricKernel,
    CrossValidation,
    JointData,
    Validation,
    joint_data,
    named_solver,
    solve_on_grid,
)
from foretune.candidates.joint import DENSE, joint_kernel
from foretune.cli.deliver import deliver_into
from foretune.cli.options import ReportOptions
from foretune.cli.places import page_places
from foretune.cli.ranges import listed
from foretune.cli.settings import typed_again
from foretune.cli.solve_options import SolverOptions
from foretune.errors import UsageError
from foretune.experiment.page import Solved, SolveData, solve_page
from foretune.experiment.record import KeptKernels, Record, read_record
from foretune.kernels.block_kernel import BlockKernel, matching
from foretune.pages.console import progress_console
from foretune.pages.progress import progress_bar

_REVERSED = "-reversed"
_FOLDS = 5


def run_solve(solver: SolverOptions, report: ReportOptions) -> None:
    """Scores of all solvers on all kernels, to the terminal and, on request, to a folder and to JSON.

    Raises:
        UsageError: an unknown solver, or one that does not fit a kernel; or --out holds something else.
        KernelFolderError, StorageError: the folder is none, or its parts do not belong together.
    """
    folder, names = solver.folder, list(listed(solver, "solver"))
    command = shlex.join(["foretune", "solve", *typed_again((solver,))])
    places = page_places(solver.out, command, report.json, folder)
    record, version = read_record(folder)
    kept = KeptKernels(folder, record)
    choose = Validation() if solver.choose == "validation" else _folds(record)
    labels = [label for label in record.kernel_labels if not label.endswith(_REVERSED)]
    if solver.kernels is not None:
        labels = list(listed(solver, "kernels"))
    work = [(label, name) for label in labels for name in _solvers(record, label, names)]
    found: list[Solved] = []
    places.make()
    with progress_bar(progress_console(quiet=report.quiet, verbose=report.verbose)) as progress:
        for done, (label, name) in enumerate(work):
            data = _data(solver, kept, label)
            solution = solve_on_grid(named_solver(name), data, choose=choose)
            score = scored(data.y_evaluation[data.validation :], solution.predictions, data.metric)
            found.append(Solved(label, name, score, solution))
            progress("solve", done + 1, len(work))
    start = _zero_shot(record)
    notes = []
    if version != foretune.__version__:
        notes.append(f"{folder} was made by foretune {version}, this is {foretune.__version__}.")
    sketched = [label for label in labels if label not in record.kernels]
    if sketched:
        notes.append(
            f"Sketched, not exact: {', '.join(sketched)}. `foretune show {shlex.quote(str(folder))}` says how far they are "
            "off."
        )
    numbers = SolveData(
        made_by=version,
        folder=str(folder),
        task=record.task,
        sizes=record.sizes,
        choose=solver.choose,
        blocks=solver.select,
        sketched=sketched,
        zero_shot=start,
        solutions=found,
    )
    deliver_into(solver.out, solve_page(record, start, found, notes, numbers), report, command)


def _folds(record: Record) -> CrossValidation:
    """Five folds of the training examples, fewer where a label has fewer examples."""
    fewest = int(np.bincount(record.y[: record.sizes["train"]]).min())
    if fewest < 2:
        raise UsageError("--choose cv needs two training examples of every label. Use --choose validation.")
    return CrossValidation(min(_FOLDS, fewest))


def _asymmetric(label: str) -> bool:
    return label.startswith("asymmetric")


def _solvers(record: Record, label: str, names: list[str]) -> list[str]:
    """The solvers of those named that fit one kernel: `auto` is ridge, for an asymmetric kernel the asymmetric solver.

    Raises:
        UsageError: none of them fits, or one needs a kernel that is too large to be multiplied out.
    """
    rows = record.sizes["train"] * record.f0.shape[1]
    whole = [name for name in names if name in SOLVERS and SOLVERS[name].whole]
    if whole and label in record.features and label not in record.kernels and rows > DENSE:
        fitting = ",".join(name for name, solver in SOLVERS.items() if not solver.whole)
        raise UsageError(
            f"{whole[0]} needs the kernel {label!r} itself, and that of {rows:,} rows is held as features (up to "
            f"{DENSE:,} they are multiplied out). Use --solver {fitting}."
        )
    asymmetric = _asymmetric(label)
    chosen = [("asymmetric" if asymmetric else "ridge") if name == "auto" else name for name in names]
    fitting = [name for name in dict.fromkeys(chosen) if not asymmetric or isinstance(SOLVERS[name], AsymmetricKernel)]
    if not fitting:
        raise UsageError(
            f"The kernel {label!r} is not symmetric, which {', '.join(chosen)} assumes. Use --solver asymmetric for it, "
            "--solver auto, or choose --kernels."
        )
    return fitting


def _data(solver: SolverOptions, kept: KeptKernels, label: str) -> JointData:
    """Kernels, outputs and labels for the solvers."""
    record, kernel = kept.record, _total(solver, kept, label)
    back = _total(solver, kept, f"{label}{_REVERSED}") if _asymmetric(label) else None
    return joint_data(kernel, record.f0, record.y, record.sizes["validation"], record.task["metric"], back)


def _total(solver: SolverOptions, kept: KeptKernels, label: str) -> Kernel:
    """The kernel of a label, summed over its blocks or over those that were chosen."""
    kernel, names = kept.read(label), None if solver.select is None else listed(solver, "select")
    if isinstance(kernel, BlockKernel):
        return (kernel if names is None else kernel.select(names)).total()
    chosen = range(len(kernel.names)) if names is None else matching(kernel.names, names)
    return joint_kernel(kernel, [kernel.names[place] for place in chosen])


def _zero_shot(record: Record) -> Score:
    """The score of the pretrained outputs on the test examples."""
    first = record.sizes["train"] + record.sizes["validation"]
    return scored(record.y[first:], predicted_classes(record.f0[first:]), record.task["metric"])
