"""What a run measures at every evaluation, and which evaluation is best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Choice = Literal["score", "loss"]
"""What the best checkpoint has on the validation examples: the highest score, or the lowest loss."""

LINE_START = '{"step": '
"""With which every line of a log begins."""


@dataclass(frozen=True)
class Evaluation:
    """The state of a run after some steps.

    Attributes:
        step: steps so far; 0 is the pretrained model.
        validation_loss, validation_score: loss and score on the validation examples.
        losses: loss of the training batch of every step since the evaluation before, each before its step.
        learning_rate: learning rate of the next step.
        distance: `||theta_t - theta0||` over the trained parameters.
        bound: `sqrt(2 R(theta0) / lambda)` of a proximal run, else None.
        pulled: share of the steps since the evaluation before in which the proximal pull acted; None without one.
        classifier_norms: norm of each class's row in the output layer.
        seconds: since the start of the run, without the time that it stood still.
    """

    step: int
    validation_loss: float
    validation_score: float
    losses: Sequence[float]
    learning_rate: float
    distance: float
    bound: float | None
    pulled: float | None
    classifier_norms: Sequence[float]
    seconds: float

    @property
    def train_loss(self) -> float | None:
        """The mean of `losses`; None before the first step."""
        return sum(self.losses) / len(self.losses) if self.losses else None

    def json(self) -> str:
        """One line of the log."""
        return json.dumps(
            {**asdict(self), "losses": list(self.losses), "classifier_norms": list(self.classifier_norms)}
        )


def best_of_history(history: Sequence[Evaluation], choice: Choice = "score") -> Evaluation:
    """The evaluation after the start with the highest validation score; of equals, the lowest loss, then the first.

    With the choice "loss" the lowest loss comes first.
    """
    after = [line for line in history if line.step > 0]
    return max(after, key=lambda line: _rank(line, choice))


def _rank(line: Evaluation, choice: Choice) -> tuple[float, float, int]:
    score, loss = line.validation_score, -line.validation_loss
    return (score, loss, -line.step) if choice == "score" else (loss, score, -line.step)
