r"""Intervals that held as often as they promise on results that are known.

A prediction v comes with an interval [l, h] whose shape is right and whose width may not be. On cases whose truth a is
known, the factor that the interval needed is

    s = (a - v) / (h - v)  for a > v,      s = (v - a) / (v - l)  else

and split conformal prediction (Vovk, Gammerman & Shafer 2005; the normalised form of Lei et al. 2018, arXiv 1604.04173)
stretches the next interval by the ceil((m + 1) q)-th smallest of m such factors. If the next case is exchangeable with
them, the stretched interval holds the truth with probability q or more, whatever is wrong with the prediction. With
m < q / (1 - q), 19 cases for q = 95%, no finite factor can promise that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foretune.shapes import Float64

LEVEL = 0.95


@dataclass(frozen=True)
class ConformalInterval:
    """An interval, stretched as known cases needed it.

    Attributes:
        low, high: its ends.
        factor: by which it was stretched.
        cases: how many cases were known.
    """

    low: float
    high: float
    factor: float
    cases: int


def needed_factors(
    truth: Float64[np.ndarray, " m"],
    values: Float64[np.ndarray, " m"],
    low: Float64[np.ndarray, " m"],
    high: Float64[np.ndarray, " m"],
) -> Float64[np.ndarray, " m"]:
    """The factor by which each interval must be stretched to hold the truth; infinite for one without a width on that side.

    Args:
        truth: what came.
        values, low, high: what was predicted, with its interval.
    """
    off, room = truth - values, np.where(truth > values, high - values, values - low)
    return np.divide(np.abs(off), room, out=np.where(off == 0, 0.0, np.inf), where=room > 0)


def conformal_factor(factors: Float64[np.ndarray, " m"], level: float = LEVEL) -> float:
    """The factor that holds the next truth with some probability; infinite for too few cases.

    Args:
        factors: that known cases needed, `needed_factors`.
        level: the probability q.
    """
    place = math.ceil((len(factors) + 1) * level)
    return float(np.sort(factors)[place - 1]) if place <= len(factors) else math.inf


def stretched(value: float, low: float, high: float, factor: float) -> tuple[float, float]:
    """An interval stretched about its value."""
    if math.isinf(factor):
        return -math.inf, math.inf
    return value - factor * (value - low), value + factor * (high - value)
