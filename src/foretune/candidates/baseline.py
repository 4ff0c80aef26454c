"""What training is compared with: the score of the outputs before it, by the rule that scores its prediction too.

Two classes are told apart by the sign of their difference output, or by a threshold that validation examples set. A
pretrained model often favours one label word, which a threshold mends and training mends too: a prediction by one rule
beside a baseline by the other would compare rules. Validation chooses the rule, before training: test examples have no
say. The threshold is set anew for every outputs that it scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.calibration import loss_gained
from foretune.analysis.scores import Gain, Score, best_threshold, gained, predicted_classes, score, scored
from foretune.experiment.inputs import Inputs
from foretune.shapes import Float64


@dataclass(frozen=True)
class ClassRule:
    """How outputs become classes.

    Attributes:
        thresholded: whether a threshold set on validation examples decides; otherwise the sign, or the largest output.
    """

    thresholded: bool = False

    def threshold(self, held_out: Float64[np.ndarray, "w c"], inputs: Inputs) -> float:
        """The threshold for the outputs of validation, then test examples; zero without one."""
        if not self.thresholded:
            return 0.0
        n, v = inputs.n_train, inputs.n_validation
        return best_threshold(held_out[:v], inputs.y[n : n + v], inputs.metric)

    def score(self, held_out: Float64[np.ndarray, "w c"], inputs: Inputs) -> Score:
        """The test score of outputs of validation, then test examples."""
        threshold, first = self.threshold(held_out, inputs), inputs.n_train + inputs.n_validation
        classes = predicted_classes(held_out[inputs.n_validation :], threshold)
        return scored(inputs.y[first:], classes, inputs.metric)

    def validation_score(self, held_out: Float64[np.ndarray, "w c"], inputs: Inputs) -> float:
        """The validation score of outputs of validation, then test examples."""
        threshold, n, v = self.threshold(held_out, inputs), inputs.n_train, inputs.n_validation
        return score(inputs.y[n : n + v], predicted_classes(held_out[:v], threshold), inputs.metric)

    def gain(self, before: Float64[np.ndarray, "w c"], after: Float64[np.ndarray, "w c"], inputs: Inputs) -> Gain:
        """The gain of outputs of validation, then test examples, over others, on all of them together."""
        first, second = (predicted_classes(f, self.threshold(f, inputs)) for f in (before, after))
        return gained(inputs.y[inputs.n_train :], first, second, inputs.metric)

    def loss_gain(self, before: Float64[np.ndarray, "w c"], after: Float64[np.ndarray, "w c"], inputs: Inputs) -> Gain:
        """The fall of the loss on the same; the outputs before get the threshold and their best temperature."""
        return loss_gained(inputs.y[inputs.n_train :], before - self.threshold(before, inputs), after)

    @property
    def words(self) -> str:
        """What a reader must know of the rule; empty for the usual one."""
        return "both with a threshold set on validation" if self.thresholded else ""


def rule_for(inputs: Inputs) -> ClassRule:
    """The rule with the better validation score before training; of equals the one without a threshold."""
    if inputs.f0.shape[1] != 1:
        return ClassRule()
    held_out, with_threshold = inputs.f0[inputs.n_train :], ClassRule(thresholded=True)
    better = with_threshold.validation_score(held_out, inputs) > ClassRule().validation_score(held_out, inputs)
    return with_threshold if better else ClassRule()
