"""What scores without fine-tuning, on the same test examples: the pretrained outputs, the majority label, a linear probe.

Validation examples choose the threshold and the probe's strength; test examples have no say.
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.analysis.probe import linear_probe
from foretune.analysis.scores import Score, best_threshold, majority, predicted_classes, scored
from foretune.experiment.inputs import Inputs


@dataclass(frozen=True)
class Untrained:
    """Test scores without fine-tuning.

    Attributes:
        zero_shot: score of the outputs before the simulated training, as they stand.
        zero_shot_threshold: zero-shot score with the threshold chosen on validation (two classes), else None.
        threshold: threshold on the difference output that validation chose.
        majority, probe: scores of the most frequent label and of the linear probe.
        probe_strength: the linear probe's chosen C.
    """

    zero_shot: Score
    zero_shot_threshold: Score | None
    threshold: float | None
    majority: Score
    probe: Score
    probe_strength: float


def untrained(inputs: Inputs) -> Untrained:
    """The scores that training has to beat."""
    n, first, metric = inputs.n_train, inputs.n_train + inputs.n_validation, inputs.metric
    y, f0, features = inputs.y, inputs.f0, inputs.features
    threshold = best_threshold(f0[n:first], y[n:first], metric) if f0.shape[1] == 1 else None
    with_threshold = None if threshold is None else predicted_classes(f0[first:], threshold)
    probe = linear_probe(features[:n], y[:n], features[n:first], y[n:first], metric)
    return Untrained(
        zero_shot=scored(y[first:], predicted_classes(f0[first:]), metric),
        zero_shot_threshold=None if with_threshold is None else scored(y[first:], with_threshold, metric),
        threshold=threshold,
        majority=scored(y[first:], majority(y[first:]), metric),
        probe=scored(y[first:], probe.predicted(features[first:]), metric),
        probe_strength=probe.strength,
    )
