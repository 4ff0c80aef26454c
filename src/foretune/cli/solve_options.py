"""The options of `solve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foretune.cli.fields import Panel, argument, option
from foretune.cli.options import PageFolder
from foretune.cli.ranges import Items, Words

SOLVERS = ("auto", "ridge", "logistic", "asymmetric", "svc", "svr", "published")


@dataclass(frozen=True)
class SolverOptions:
    """Which kernels are solved, and how."""

    folder: Annotated[Path, argument("A folder made by `foretune kernel` or `foretune forecast --out`.")]
    out: PageFolder = None
    solver: Annotated[
        str,
        option(Panel.SOLVER, f"Solvers, separated by commas: {', '.join(SOLVERS)}."),
        Words("auto,logistic", SOLVERS),
    ] = "auto"
    kernels: Annotated[
        str | None, option(Panel.SOLVER, "Solve only these kernels of the folder.  [default: all]"), Items("sgd,signgd")
    ] = None
    select: Annotated[
        str | None,
        option(Panel.SOLVER, "Use only blocks whose names match these globs, separated by commas.  [default: all]"),
        Items("*.query.*,*.value.*"),
    ] = None
    choose: Annotated[
        Literal["validation", "cv"],
        option(
            Panel.SOLVER,
            "Choose hyperparameters by validation, or by cv (5-fold cross-validation on the training examples).",
        ),
    ] = "validation"
