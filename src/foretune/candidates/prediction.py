r"""The score that is announced for a candidate, the gain, and what predicts them.

The run that is predicted is the one that is advised: AdamW at the rate that its simulation finds, up to its lowest
validation loss. Full-batch gradient descent at its own best rate, which ranks candidates, can be trapped: where one
direction of the kernel is far larger than all others, no stable step moves those, and AdamW's do.

A simulated run starts from the pretrained outputs. Where these are a probed head's, its residuals are close to zero, the
run hardly moves, and its score stays near that of linear probing: too low. The regression of labels on tangent features,
which ranks candidates there, forgets the head and fits what full tuning could move: too high for adapters. What is
announced then is the mean of the two, with an interval that holds both. With a prompt nothing was fitted beforehand, and
both fall short: real training changes the kernel towards the labels. What is announced is the larger of the two, and its
interval has room for how far that is off beside the chance of the test examples (`OFF`): with many of these the interval
of the simulated run alone is narrow, and held 25 to 31% of the real scores. Linear probing is predicted by gradient
descent, which is exact for it.

Distance to the real test score, root mean square in points, on seeds 13, 21 and 42 (docs/results/verdict.md and
docs/results/prompts/README.md; accuracy, two labels):

| predicted by | MiniLM, head, N = 512, 44 runs, 64 test examples | SmolLM2, prompt, 60 runs, 64 | the same, 400 |
| --- | ---: | ---: | ---: |
| simulated AdamW and label regression, their mean | 2.2 | 5.4 | 6.5 |
| simulated AdamW and label regression, the larger | | 4.8 | 4.9 |
| simulated AdamW | 2.7 | 5.9 | 8.2 |
| label regression | 2.6 | 6.0 | 5.3 |

The gain is told by the rows that turn: predictions before and after on validation and test examples, row by row. The
score's own interval, of 64 test examples, is some 20 points wide whatever training does; most rows are right both times or
wrong both times, and say nothing of the gain. Their losses do: every row has a loss before and after, and the mean of the
differences is known several times better than the gain of the score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from foretune.analysis.scores import QUANTILE, Gain, Score, least_score
from foretune.candidates.baseline import ClassRule
from foretune.candidates.candidate import PROBING
from foretune.candidates.evidence import Pool
from foretune.candidates.scored import ScoredCandidate
from foretune.candidates.scores import LABEL_ERROR, Criterion

OFF = 0.04
"""How far an accuracy that is announced with a prompt is off beside the chance of the test examples, root mean square."""


@dataclass(frozen=True)
class Prediction:
    """The score that training a candidate would reach.

    Attributes:
        score: score on test examples, with an interval.
        drawn: the same score, with the interval of the chance of the test examples alone.
        start: that of the outputs before training, by the same rule.
        by: what predicts it, in words.
        moves: whether some simulated step lowers the validation loss; nothing is gained where none does.
        higher: whether the score of the simulated run, with a head the announced score, lies above that before training.
        gain: of the simulated run over the outputs before it, on validation and test examples together.
        loss_gain: the fall of its loss below that of the outputs before it, with the rule's threshold and at their best
            temperature, on the same, nats.
        validation_gain: the same on validation examples alone, for choices, in which test examples have no say.
    """

    score: Score
    drawn: Score
    start: Score
    by: str
    moves: bool
    higher: bool
    gain: Gain
    loss_gain: Gain
    validation_gain: float

    @property
    def room(self) -> float:
        """How far the interval takes the score to be off beside the chance of the test examples, root mean square."""
        return 0.0 if self.drawn == self.score else OFF

    @property
    def by_loss(self) -> bool:
        """Whether the score rises by what may be chance, and the loss falls by more than chance."""
        return self.gain.low <= 0 < self.gain.value and self.loss_gain.low > 0


def prediction(
    candidate: ScoredCandidate, pool: Pool, criterion: Criterion, rule: ClassRule | None = None
) -> Prediction:
    """What is announced for a candidate.

    Args:
        candidate: with its numbers.
        pool: its kernels.
        criterion: what ranks, `criterion_of(pool)`; the label error where there is a head.
        rule: how outputs become classes, `rule_for(inputs)`; without a threshold when left out.
    """
    rule, inputs, evidence = rule or ClassRule(), pool.inputs, pool.evidence(candidate)
    probing = candidate.kind == PROBING
    run = (evidence.run if evidence.lowest.steps else None) if probing else evidence.adam_run
    before = inputs.f0[inputs.n_train :]
    after = before if run is None else run.outputs[inputs.n_train :]
    gain, fallen = rule.gain(before, after, inputs), rule.loss_gain(before, after, inputs)
    chosen_by = rule.validation_score(after, inputs) - rule.validation_score(before, inputs)
    start, simulated = rule.score(before, inputs), rule.score(after, inputs)
    with_head = criterion is LABEL_ERROR
    found, drawn, by = simulated, simulated, "in the linear regime"
    if not probing and (with_head or run is not None):
        labels = rule.score(evidence.labels.outputs, inputs)
        both = f"a simulated run ({simulated.value:.2f}) and label regression ({labels.value:.2f})"
        if with_head:
            found = drawn = _between(simulated, labels)
            by = f"between {both}"
        else:
            drawn = max(simulated, labels, key=lambda score: score.value)
            found, by = _with_room(drawn, inputs.metric), f"as the larger of {both}"
    higher = (found if with_head else simulated).value > start.value
    return Prediction(found, drawn, start, by, run is not None, higher, gain, fallen, chosen_by)


def _between(a: Score, b: Score) -> Score:
    """The mean of two scores; the interval is the mean of theirs, widened to hold both."""
    low, high = (a.low + b.low) / 2, (a.high + b.high) / 2
    return Score((a.value + b.value) / 2, min(low, a.value, b.value), max(high, a.value, b.value))


def _with_room(score: Score, metric: str) -> Score:
    """A score whose interval is widened by `OFF`: two distances without a relation add up in squares."""
    low, high = (math.hypot(score.value - end, QUANTILE * OFF) for end in (score.low, score.high))
    return replace(score, low=max(score.value - low, least_score(metric)), high=min(score.value + high, 1.0))
