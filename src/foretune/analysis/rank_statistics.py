r"""How well a score ranks real results, what trusting it costs, and how well the results rank themselves.

    rho      Spearman's correlation of score and result over the candidates of one task and seed
    regret   max_p r_p - r_{argmax score}: what is lost against the best candidate found
    partial  (rho_sr - rho_sg rho_gr) / ((1 - rho_sg^2) (1 - rho_gr^2))^1/2, what a score knows beside a rule g
    ceiling  mean over pairs of seeds of the rho between real results, each seed with examples of its own

The ceiling is what one real study says of the next. A forecast that knew the common order without noise would reach about
its square root, and one that reads a seed's own examples may find what is particular to them.

Results are oriented as scores are: larger is better (`-loss`, accuracy). A score that is the same for all candidates has
no rho, and the regret of a random choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from foretune.errors import UsageError
from foretune.shapes import Float64

LOWEST_CEILING = 0.3
"""Below this correlation of the results with themselves a task's candidates count as not to be ranked."""
_SAME = 1e-6
"""Below it a rule ranks as the other side does: nothing is left to correlate."""
RESAMPLES = 300
"""How often candidates are drawn for an interval, the same ones for all rows."""


@dataclass(frozen=True)
class BootstrapEstimate:
    """An estimate with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ceiling:
    """What the results of one task allow to be ranked.

    Attributes:
        correlation: mean over pairs of seeds of the rank correlation of the results; not a number for one seed.
        candidates: standard deviation over candidates of their mean result.
        seeds: standard deviation of a candidate's result over seeds, the seeds' own means taken away.
        regret: mean over ordered pairs of seeds of what choosing by one seed's results loses on the other's.
    """

    correlation: float
    candidates: float
    seeds: float
    regret: float

    @property
    def reason(self) -> str | None:
        """Why the candidates cannot be ranked; None where they can, or nobody knows."""
        if self.candidates == 0 and not self.seeds > 0:
            return "all of them reach the same result"
        if self.correlation < LOWEST_CEILING:
            seen = f"seed-to-seed rank correlation {self.correlation:.2f}, below {LOWEST_CEILING:g}"
            return f"they differ mostly by noise ({seen})"
        if self.candidates < self.seeds:
            return "they differ less from each other than each does from seed to seed"
        return None


def rank_correlation(a: Float64[np.ndarray, "*runs k"], b: Float64[np.ndarray, "*runs k"]) -> np.ndarray:
    """Spearman's rank correlation along the last axis; not a number where one side is constant.

    Raises:
        UsageError: different shapes, or numbers that are undefined; infinite ones are the first or the last.
    """
    if a.shape != b.shape or np.isnan(a).any() or np.isnan(b).any():
        raise UsageError(f"Scores of shape {a.shape}, results of shape {b.shape}; expected the same, without NaN.")
    ranks = [rankdata(side, axis=-1) for side in (a, b)]
    x, y = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def partial_rank_correlation(
    a: Float64[np.ndarray, "*runs k"], b: Float64[np.ndarray, "*runs k"], given: Float64[np.ndarray, "*runs k"]
) -> np.ndarray:
    """Spearman's rank correlation of what is left of two sides once the ranks of a third explain them.

    Not a number where a side is constant, or where the third side ranks as one of the others does. A third side that is
    constant explains nothing.

    Args:
        a, b: the sides, candidates along the last axis.
        given: the third side.

    Raises:
        UsageError: different shapes, or undefined numbers.
    """
    ab = rank_correlation(a, b)
    ag, bg = (np.nan_to_num(rank_correlation(side, given)) for side in (a, b))
    scale = np.sqrt(np.maximum(1 - ag**2, 0) * np.maximum(1 - bg**2, 0))
    return np.divide(ab - ag * bg, scale, out=np.full(np.shape(scale), np.nan), where=scale > _SAME)


def regret(score: Float64[np.ndarray, " k"], results: Float64[np.ndarray, " k"]) -> float:
    """What is lost by taking the candidate with the largest score; of equal scores, on average."""
    lost = results.max() - results[score == score.max()]
    return float(lost.mean())


def median_correlation(scores: Float64[np.ndarray, "s k"], results: Float64[np.ndarray, "s k"]) -> BootstrapEstimate:
    """The median rank correlation over tasks and seeds, with the interval over candidates drawn again.

    Args:
        scores, results: one row per task and seed, the same candidates in the same order.
    """
    value = _median(rank_correlation(scores, results))
    draws = _draws(scores.shape[1])
    return _interval(value, _medians(scores[:, draws], results[:, draws]))


def median_partial_correlation(
    scores: Float64[np.ndarray, "s k"], results: Float64[np.ndarray, "s k"], given: Float64[np.ndarray, "s k"]
) -> BootstrapEstimate:
    """The median partial rank correlation over tasks and seeds, with the interval over candidates drawn again.

    Args:
        scores, results: see `median_correlation`.
        given: the rule whose ranks are taken out of both.
    """
    value = _median(partial_rank_correlation(scores, results, given))
    draws = _draws(scores.shape[1])
    drawn = partial_rank_correlation(scores[:, draws], results[:, draws], given[:, draws])
    return _interval(value, np.array([_median(column) for column in drawn.T]))


def correlation_difference(
    scores: Float64[np.ndarray, "s k"],
    others: Float64[np.ndarray, "s k"],
    results: Float64[np.ndarray, "s k"],
) -> BootstrapEstimate:
    """How much higher the median rank correlation of some scores is than that of others, over the same draws.

    Args:
        scores, others, results: see `median_correlation`.
    """
    value = _median(rank_correlation(scores, results)) - _median(rank_correlation(others, results))
    draws = _draws(results.shape[1])
    drawn = results[:, draws]
    return _interval(value, _medians(scores[:, draws], drawn) - _medians(others[:, draws], drawn))


def mean_over_candidates(values: Float64[np.ndarray, "s k"]) -> BootstrapEstimate:
    """The mean of the numbers among some values, with the interval over candidates drawn again.

    Args:
        values: one row per task and seed, the same candidates in each; not a number where a candidate has none.
    """
    draws = _draws(values.shape[1])
    return _interval(_mean(list(values.ravel())), np.array([_mean(list(values[:, draw].ravel())) for draw in draws]))


def _draws(k: int) -> np.ndarray:
    """The candidates of each draw, the same for every call, so that differences are over the same draws."""
    return np.random.default_rng(0).integers(k, size=(RESAMPLES, k))


def _medians(scores: Float64[np.ndarray, "s r k"], results: Float64[np.ndarray, "s r k"]) -> Float64[np.ndarray, " r"]:
    """The median correlation of every draw."""
    return np.array([_median(column) for column in rank_correlation(scores, results).T])


def _interval(value: float, drawn: Float64[np.ndarray, " r"]) -> BootstrapEstimate:
    if np.isnan(value):
        return BootstrapEstimate(value, value, value)
    if np.isnan(drawn).all():
        return BootstrapEstimate(value, float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return BootstrapEstimate(value, float(low), float(high))


def ceiling(results: Float64[np.ndarray, "s k"]) -> Ceiling:
    """How far the results of one task agree over seeds.

    Args:
        results: one row per seed, each with training examples of its own; candidates in the same order.
    """
    pairs = [float(rank_correlation(a, b)) for a, b in itertools.combinations(results, 2)]
    lost = _mean([regret(a, b) for a, b in itertools.permutations(results, 2)])
    if not np.isfinite(results).all():  # a run that failed has no spread, only a rank
        return Ceiling(_mean(pairs), float("inf"), float("inf"), lost)
    centred = results - results.mean(1, keepdims=True)
    seeds = float(np.sqrt(centred.var(0, ddof=1).mean())) if len(results) > 1 else float("nan")
    return Ceiling(_mean(pairs), float(centred.mean(0).std(ddof=1)), seeds, lost)


def _median(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(np.median(kept)) if len(kept) else float("nan")


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")
