r"""Rules that look at no data: what people adapt and at which rate when they measure nothing.

They are the rivals of every score. A score that ranks no better than the layer's number is not worth a kernel.

Placements, larger is better:

    shallow layers first    minus the mean number of the blocks' layers; before them -1, behind the last one their number
    feed-forward first      share of the blocks that do not belong to attention (Schulman 2025, *LoRA Without Regret*:
                            adapters of attention alone fall behind)
    all linear              1 where everything that can be adapted is, else 0 (ibid.)

Learning rates of AdamW for LoRA, `n` inputs of an adapted weight, rank `r`:

    2e-4 always             Dettmers et al. 2023 (QLoRA), Table 9, for models of width 4096, alpha 16, all linear layers
    ten times full tuning's 5e-5 times 10, or times 15 below 100 steps (Schulman 2025)
    rank and width          2e-4 (4096 / n)^1/2, the same for all ranks: Chen, Villar & Hayou 2026 (arXiv 2602.06204) have
                            eta ~ n^-1/2 r^-(1-g)/2 for adapters that are multiplied by r^-g and start with B = 0, and here
                            g = 1; the constant is QLoRA's
    1 / lambda_max          2e-4 times lambda_max of all blocks over lambda_max of the adapter. Lee et al. 2026 (arXiv
                            2602.04998) find that the best rates of adapters go with 1 / lambda_max of the Hessian and
                            give no constant; QLoRA's is for all linear layers. The kernel has the Hessian's lambda_max
                            but for a factor that cancels.

No formula of the width rule has a constant, and full tuning's rate is an anchor too: 5e-5 is what the cookbook of
Schulman's company started from. For full tuning only `2e-5 always` is known (Devlin et al. 2019, the smallest of theirs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from foretune.analysis.groups import in_attention
from foretune.candidates.evidence import Evidence, Pool
from foretune.naming import layer_number, layer_path

USUAL = 2e-4
"""Of LoRA, for models of `WIDTH`."""
WIDTH = 4096
FULL, FULL_USUAL = 5e-5, 2e-5
TIMES, TIMES_SHORT, SHORT = 10, 15, 100
"""Times full tuning's rate, and for runs below so many steps."""
RULES = f"{USUAL:g} at {WIDTH}, {FULL:g} times {TIMES} ({TIMES_SHORT} below {SHORT}), {FULL_USUAL:g}"
"""The constants of the rules for rates, as text; what is kept of them is kept for these."""

RateRule = Callable[[Evidence, int], float]
"""The rate for a candidate and a number of steps."""


def shallowness(seen: Evidence) -> float:
    """Minus the mean number of the layers of the blocks."""
    depths = _depths(seen.pool)
    return -float(np.mean([depths[name] for name in seen.blocks])) if seen.blocks else 0.0


def feed_forward_share(seen: Evidence) -> float:
    """The share of the blocks whose name does not belong to attention."""
    return float(np.mean([not in_attention(name) for name in seen.blocks] or [0.0]))


def adapts_everything(seen: Evidence) -> float:
    """1 where the blocks are all that a method can train, else 0."""
    every = {name for name in seen.pool.kernel_of(seen.blocks, seen.rank).moving if name not in seen.head}
    return float(set(seen.blocks) == every)


def rate_rules(rank: int | None) -> Mapping[str, RateRule]:
    """Name -> rule for LoRA of a rank, or for full tuning (None)."""
    if rank is None:
        return {f"{FULL_USUAL:g} always": lambda _seen, _steps: FULL_USUAL}
    return {
        f"{USUAL:g} always": lambda _seen, _steps: USUAL,
        "ten times full tuning's": lambda _seen, steps: FULL * (TIMES_SHORT if steps < SHORT else TIMES),
        "rank and width": lambda seen, _steps: USUAL * math.sqrt(WIDTH / _inputs(seen)),
        "1 / lambda_max": lambda seen, _steps: USUAL * seen.pool.largest_of_all(rank) / seen.spectrum.largest,
    }


def _inputs(seen: Evidence) -> float:
    """Inputs of an adapted weight, mean over the blocks."""
    sizes = seen.pool.sizes
    return float(np.mean([np.prod(sizes.shapes[name]) / sizes.widths[name] for name in seen.blocks]))


def _depths(pool: Pool) -> dict[str, int]:
    """Block -> number of its layer, counted from 0; -1 before the first layer, one more than the last behind it."""
    numbers = {name: None if (path := layer_path(name)) is None else layer_number(path) for name in pool.sizes.shapes}
    behind = 1 + max((number for number in numbers.values() if number is not None), default=-1)
    found, outside = {}, -1
    for name, number in numbers.items():
        found[name] = outside if number is None else number
        outside = outside if number is None else behind
    return found
