"""What defines a low-rank adapter: `h = W x + s B A x` with A of `rank` rows and the scaling s.

The kernel `LoRA`, the method `LoRATuning` and the options of the command line all have these settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foretune.errors import UsageError

Initialisation = Literal["kaiming", "gaussian"]


@dataclass(frozen=True)
class Adapter:
    """The settings of LoRA adapters.

    Attributes:
        rank: rank of the adapters.
        alpha: numerator of the scaling, alpha / rank.
        targets: as peft's `target_modules`: "all-linear" (all but the output layer), a regular expression for whole
            module names, or several suffixes such as ("q_proj", "v_proj").
        init: how the matrix A is drawn: kaiming (peft's default) or gaussian.
        rslora: scale by alpha / sqrt(rank) instead of alpha / rank.
        seed: seed for drawing the matrix A.

    Raises:
        UsageError: a rank below one, a scale that is not positive, or an unknown initialisation.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = "all-linear"
    init: Initialisation = "kaiming"
    rslora: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise UsageError(
                f"LoRA(rank={self.rank}, alpha={self.alpha}): expected a rank of at least 1, alpha above 0."
            )
        if self.init not in ("kaiming", "gaussian"):
            raise UsageError(f"Unknown initialisation {self.init!r} of LoRA. Expected 'kaiming' or 'gaussian'.")

    @property
    def scaling(self) -> float:
        """What multiplies B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
