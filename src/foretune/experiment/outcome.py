"""What came of a grid of runs, as plain values that a cell keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.calibration import cross_entropy
from foretune.finetune.search import GridResult
from foretune.shapes import Int

FORMAT = 2
"""Of an outcome that is kept; one of another format is made again from its runs, which are read."""


@dataclass(frozen=True)
class PointCurve:
    """One run of a grid, as it went on.

    Attributes:
        learning_rate, batch_size: learning rate and batch size of the run.
        steps: steps of the evaluations, the first before training.
        validation_losses: validation loss at each of these steps, nats.
        seconds: seconds from the start of the run to each of these steps.
    """

    learning_rate: float
    batch_size: int | None
    steps: tuple[int, ...]
    validation_losses: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The smallest validation loss after the start."""
        return min(self.validation_losses[1:])


@dataclass(frozen=True)
class Outcome:
    """What the best run of a grid reached.

    Attributes:
        failure: why every point failed, or None; all else is then not a number, or empty.
        test_score, test_loss: test score and loss of the best checkpoint; the loss in nats.
        validation_score, validation_loss: score and loss on validation examples at that step.
        start_validation_loss: validation loss before training.
        learning_rate, batch_size: learning rate and batch size of the best point.
        step, steps: step of the checkpoint, and number of steps of the run.
        trained: number of trained parameters.
        seconds: duration of the run.
        validation_losses: validation loss at every evaluation of the run, the first before training.
        evaluated: the steps of these evaluations.
        points: every run of the grid that did not fail.
    """

    failure: str | None = None
    test_score: float = float("nan")
    test_loss: float = float("nan")
    validation_score: float = float("nan")
    validation_loss: float = float("nan")
    start_validation_loss: float = float("nan")
    learning_rate: float = float("nan")
    batch_size: int | None = None
    step: int = 0
    steps: int = 0
    trained: int = 0
    seconds: float = float("nan")
    validation_losses: tuple[float, ...] = ()
    evaluated: tuple[int, ...] = ()
    points: tuple[PointCurve, ...] = ()


def outcome_of(search: GridResult, y: Int[np.ndarray, " m"]) -> Outcome:
    """What a finished grid reached.

    Args:
        search: its runs.
        y: labels of the test examples; there may be none.
    """
    run = search.best
    return Outcome(
        test_score=float("nan") if run.test_score is None else run.test_score.value,
        test_loss=cross_entropy(run.test_logits, y) if len(y) else float("nan"),
        validation_score=run.best.validation_score,
        validation_loss=run.best.validation_loss,
        start_validation_loss=run.history[0].validation_loss,
        learning_rate=run.training.optimiser.learning_rate,
        batch_size=run.training.batch_size,
        step=run.best.step,
        steps=run.history[-1].step,
        trained=run.n_trained,
        seconds=run.seconds,
        validation_losses=tuple(line.validation_loss for line in run.history),
        evaluated=tuple(line.step for line in run.history),
        points=tuple(
            PointCurve(
                point.training.optimiser.learning_rate,
                point.training.batch_size,
                tuple(line.step for line in point.history),
                tuple(line.validation_loss for line in point.history),
                tuple(line.seconds for line in point.history),
            )
            for point in search.points
            if point.failure is None
        ),
    )


def kept_outcome(found: Mapping[str, Any]) -> Outcome:
    """An outcome from the values that JSON holds."""
    return Outcome(**{**_tuples(found), "points": tuple(PointCurve(**_tuples(point)) for point in found["points"])})


def _tuples(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
