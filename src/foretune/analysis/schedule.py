"""How the learning rate changes over a run, as `transformers` schedules it without a warm-up.

    constant   1
    linear     1 - t / T
    cosine     (1 + cos(pi t / T)) / 2

times the learning rate at step t of T, the first being t = 0.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]
"""How the learning rate changes: not at all, or down to zero at the last step."""


def rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """The share of the learning rate at a step.

    Args:
        schedule: how it changes.
        step: t, from 0.
        steps: T.
    """
    if schedule == "linear":
        return 1 - step / steps
    return (1 + math.cos(math.pi * step / steps)) / 2 if schedule == "cosine" else 1.0
