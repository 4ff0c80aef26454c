"""Learning rates by simulation: the largest stable one, and the best one with its number of steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from foretune.analysis.dynamics.curves import Curves
from foretune.analysis.dynamics.descent import Descent, SignDescent
from foretune.analysis.dynamics.simulation import curves
from foretune.analysis.dynamics.space import FunctionSpace
from foretune.analysis.feature_kernel import dense
from foretune.analysis.losses import HalfSquaredLoss
from foretune.analysis.spectrum import largest_eigenvalue, stable_learning_rate, symmetric
from foretune.errors import UsageError
from foretune.shapes import Float64

GRID = tuple(float(factor) for factor in np.geomspace(1e-3, 10, 13))
"""Learning rates searched by default, in units of `typical_learning_rate`."""


@dataclass(frozen=True)
class StabilityEdge:
    """Where simulated training turns unstable.

    Attributes:
        stable: the largest learning rate found stable, below which all that were tried are; zero for none.
        unstable: the smallest found unstable; infinite for none.
        formula: 2 / curvature (`stable_learning_rate`), of full-batch gradient descent; not a number for sign steps.
        steps: number of simulated steps.
        rise: a rate is unstable when some training loss exceeds the start's by this factor.
    """

    stable: float
    unstable: float
    formula: float
    steps: int
    rise: float


@dataclass(frozen=True)
class BestRun:
    """The learning rate and number of steps that validation examples choose.

    Attributes:
        learning_rate, steps: the choice; 0 steps say that the pretrained outputs do best.
        validation_score, validation_loss: score and loss on validation examples at that step.
        test_score, test_loss: test score and loss at that step; test examples have no say, not a number without any.
        curves: every learning rate that was tried.
    """

    learning_rate: float
    steps: int
    validation_score: float
    validation_loss: float
    test_score: float
    test_loss: float
    curves: tuple[Curves, ...] = field(repr=False)


def typical_learning_rate(space: FunctionSpace, descent: Descent, largest: float | None = None) -> float:
    """The scale of useful learning rates.

    For gradient descent 2 / curvature (`stable_learning_rate`); for sign steps, which no curvature bounds, the rate at
    which one step moves some training output by one.

    Args:
        space: kernel and loss.
        descent: how a run steps; its own learning rate does not matter.
        largest: lambda_max of the training kernel, where it is known already.

    Raises:
        UsageError: a kernel of zeros without a proximal term.
    """
    if isinstance(descent, SignDescent):
        entry = float(np.abs(dense(space.train_matrix)).max())
        rate = 1 / entry if entry else float("inf")
    else:
        if largest is None:
            train = space.train_matrix
            largest = largest_eigenvalue(train) if symmetric(train) else float(np.linalg.norm(dense(train), 2))
        stable = stable_learning_rate(largest, space.n, space.f0.shape[1], descent.proximal)
        rate = stable.squared if isinstance(space.loss, HalfSquaredLoss) else stable.cross_entropy
    if not np.isfinite(rate):
        raise UsageError("The training kernel has only zeros: no learning rate moves the outputs.")
    return rate


def stability_edge(space: FunctionSpace, descent: Descent, steps: int = 200, rise: float = 1.1) -> StabilityEdge:
    """The largest learning rate at which simulated training does not lose what it started with.

    Rates from a thousandth to a thousandfold of `typical_learning_rate` are tried, then twice those between the last
    stable and the first unstable one: the edge is found to 0.2%. For full-batch gradient descent on the squared loss
    it tends to 2 / curvature with the number of steps. Mini-batches are less stable. Cross-entropy can be far more so:
    its curvature is below the bound, and vanishes where the examples are fitted.

    Args:
        space: kernel, pretrained outputs, labels and loss.
        descent: how a run steps; its own learning rate does not matter.
        steps: how many to simulate.
        rise: a rate is unstable when some training loss exceeds the start's by this factor.

    Raises:
        UsageError: steps below one, rise not above one, or a kernel of zeros.
    """
    if steps < 1 or not rise > 1:
        raise UsageError(f"{steps} steps and a rise of {rise}; expected at least one step, and a factor above one.")
    typical = typical_learning_rate(space, descent)
    low, high = _edge(space, descent, steps, rise, np.geomspace(1e-3, 1e3, 32) * typical)
    for _ in range(2):
        if low > 0 and high < float("inf"):
            low, high = _edge(space, descent, steps, rise, np.geomspace(low, high, 18))
    formula = float("nan") if isinstance(descent, SignDescent) else typical
    return StabilityEdge(low, high, formula, steps, rise)


def _edge(
    space: FunctionSpace, descent: Descent, steps: int, rise: float, rates: Float64[np.ndarray, " l"]
) -> tuple[float, float]:
    """The last of ascending rates before the first unstable one, and that one."""
    runs = curves(space, descent, steps, max(1, steps // 50), list(rates))
    unstable = [run.train_loss.max() > rise * run.train_loss[0] for run in runs]
    first = unstable.index(True) if any(unstable) else len(rates)
    return (float(rates[first - 1]) if first else 0.0), (float(rates[first]) if first < len(rates) else float("inf"))


def best_run(
    space: FunctionSpace, descent: Descent, steps: int, every: int = 10, typical: float | None = None
) -> BestRun:
    """The learning rate, of `GRID` times the typical one, and number of steps with the best validation score.

    Ties go to the smaller validation loss, then to fewer steps, then to the rate that comes first.

    Args:
        space: kernel, pretrained outputs, labels and loss, with validation examples.
        descent: how a run steps; its own learning rate does not matter.
        steps: the most steps to take.
        every: steps between evaluations.
        typical: the typical rate, where it is known already; `typical_learning_rate` without one.

    Raises:
        UsageError: there are no validation examples, or a number is out of range.
    """
    if not space.n_validation:
        raise UsageError("There are no validation examples to choose by; expected validation >= 1 evaluation rows.")
    if typical is None:
        typical = typical_learning_rate(space, descent)
    runs = curves(space, descent, steps, every, [factor * typical for factor in GRID])
    points = [
        (-run.validation_score[place], run.validation_loss[place], run.steps[place], number, place)
        for number, run in enumerate(runs)
        for place in np.flatnonzero(np.isfinite(run.train_loss))
    ]
    *_, number, place = min(points)
    run = runs[number]
    return BestRun(
        learning_rate=run.learning_rate,
        steps=int(run.steps[place]),
        validation_score=float(run.validation_score[place]),
        validation_loss=float(run.validation_loss[place]),
        test_score=float(run.test_score[place]),
        test_loss=float(run.test_loss[place]),
        curves=runs,
    )
