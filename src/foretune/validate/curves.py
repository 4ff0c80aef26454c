"""How far simulated curves are from real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretune.candidates.adam import PredictedRun


def curve_distance(predicted: PredictedRun, steps: Sequence[int], losses: Sequence[float]) -> float:
    """Root mean square difference of two validation curves after the start, at the steps that both have, nats."""
    known = dict(zip(predicted.steps, predicted.validation_losses, strict=True))
    pairs = [(known[step], loss) for step, loss in zip(steps, losses, strict=True) if step > 0 and step in known]
    return float(np.sqrt(np.mean([(a - b) ** 2 for a, b in pairs]))) if pairs else float("nan")
