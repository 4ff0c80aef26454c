"""What this forecast cost, and what the training runs would cost that it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretune.analysis.dynamics.learning_rates import GRID
from foretune.errors import UsageError
from foretune.progress import Stage

_TRAINING_OVER_FORWARD = 3.0
"""A forward and a backward pass over a forward pass alone: the backward pass is two products for each of one."""
FORECAST_STAGES = ("pretrained outputs", "kernel", "forecast")
WARM_UP = "warm-up"
SKETCH_ERROR = "error of the sketch"


@dataclass(frozen=True)
class ForecastCost:
    """Seconds on this machine.

    Attributes:
        forecast: of pretrained outputs, kernels (with the error of sketched ones) and their arithmetic, and of a warm-up,
            measured.
        warm_up: the warm-up's part of it; zero without one.
        run: seconds of one training run, estimated.
        comparison: seconds of a run for each candidate and learning rate, which would answer the same question,
            estimated.
        runs: number of these runs.
        assumption: what the seconds rest on, in words.
    """

    forecast: float
    warm_up: float
    run: float
    comparison: float
    runs: int
    assumption: str


def forecast_cost(stages: Sequence[Stage], forward: float, batch: int, steps: int, candidates: int) -> ForecastCost:
    """The forecast against the runs that it replaces.

    Args:
        stages: measured, with those of `FORECAST_STAGES`, perhaps `WARM_UP`.
        forward: seconds of a forward pass for an example, measured.
        batch: training examples per step.
        steps: of a run.
        candidates: that were simulated.

    Raises:
        UsageError: a stage is missing.
    """
    seconds = {stage.name: stage.seconds for stage in stages}
    missing = [name for name in FORECAST_STAGES if name not in seconds]
    if missing:
        raise UsageError(f"No stage {missing[0]!r} was measured; expected {', '.join(FORECAST_STAGES)}.")
    run = _TRAINING_OVER_FORWARD * forward * batch * steps
    runs, warm_up = candidates * len(GRID), seconds.get(WARM_UP, 0.0)
    return ForecastCost(
        forecast=sum(seconds[name] for name in FORECAST_STAGES) + warm_up + seconds.get(SKETCH_ERROR, 0.0),
        warm_up=warm_up,
        run=run,
        comparison=run * runs,
        runs=runs,
        assumption=(
            f"{steps} steps over {batch} examples; a step counts as {_TRAINING_OVER_FORWARD:g} of the forward passes "
            "measured here; evaluations are not counted"
        ),
    )
