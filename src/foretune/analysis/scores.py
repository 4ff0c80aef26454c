"""Scores with error bars, and the baselines that every forecast is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.shapes import Float, Int

QUANTILE = 1.959964
"""Of the normal distribution, for 95% on both sides."""


@dataclass(frozen=True)
class Score:
    """A score on test examples.

    Attributes:
        value: the metric's value, 0 to 1; Matthews correlation starts at -1.
        low, high: 95% interval (Wilson's for accuracy; bootstrap over examples for the other metrics).
        accuracy: beside another metric; None where the value is the accuracy itself, or is not known by example.
    """

    value: float
    low: float
    high: float
    accuracy: float | None = None


def predicted_classes(f: Float[np.ndarray, "n c"], threshold: float = 0.0) -> Int[np.ndarray, " n"]:
    """The class of each row: the largest output, or the sign of a single difference output above a threshold."""
    return (f[:, 0] > threshold).astype(int) if f.shape[1] == 1 else f.argmax(1)


def score(y: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], metric: str) -> float:
    """Accuracy, F1 of class 1, or the Matthews correlation (GLUE's metric of CoLA); not a number for no examples.

    F1 without a true positive, and the correlation of labels or predictions that are all the same, are zero.
    """
    return float(_of_counts(_counts(y, predictions, np.arange(len(y))[None]), metric)[0]) if len(y) else float("nan")


def scored(y: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], metric: str) -> Score:
    """A score with its 95% interval; the bootstrap draws 1000 resamples with seed 0."""
    from scipy.stats import binomtest

    value = score(y, predictions, metric)
    if metric == "accuracy":
        interval = binomtest(int((y == predictions).sum()), len(y)).proportion_ci(method="wilson")
        return Score(value, float(interval.low), float(interval.high))
    generator = np.random.default_rng(0)
    draws = np.stack([generator.integers(len(y), size=len(y)) for _ in range(1000)])
    low, high = np.quantile(_of_counts(_counts(y, predictions, draws), metric), [0.025, 0.975])
    return Score(value, float(low), float(high), score(y, predictions, "accuracy"))


def least_score(metric: str) -> float:
    """The smallest value that a metric can have."""
    return -1.0 if metric == "matthews" else 0.0


@dataclass(frozen=True)
class Gain:
    """How much better one set of outputs is than another on the same examples.

    Attributes:
        value: of the metric, after minus before; of a loss, before minus after.
        low, high: 95% interval.
        examples: how many there are.
    """

    value: float
    low: float
    high: float
    examples: int


def gained(y: Int[np.ndarray, " n"], before: Int[np.ndarray, " n"], after: Int[np.ndarray, " n"], metric: str) -> Gain:
    """The gain of predictions over others on the same examples, with its 95% interval.

    Most examples are right or wrong both times, and say nothing of the gain. Of an accuracy only those that turn count, r
    to right and w to wrong; with one of each added (Bonett and Price 2012, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data")

        p = (r + 1) / (n + 2),    q = (w + 1) / (n + 2),    p - q +- 1.96 ((p + q - (p - q)^2) / (n + 2))^1/2

    and no more than was wrong can be gained, nor than was right be lost. The bootstrap of other metrics draws 1000
    resamples with seed 0.
    """
    n = len(y)
    if metric == "accuracy":
        right, wrong = before == y, before != y
        r, w = int((wrong & (after == y)).sum()), int((right & (after != y)).sum())
        p, q = (r + 1) / (n + 2), (w + 1) / (n + 2)
        half = QUANTILE * float(np.sqrt((p + q - (p - q) ** 2) / (n + 2)))
        return Gain((r - w) / n, max(p - q - half, -float(right.mean())), min(p - q + half, float(wrong.mean())), n)
    draws = np.random.default_rng(0).integers(n, size=(1000, n))
    scores = [_of_counts(_counts(y, predictions, draws), metric) for predictions in (before, after)]
    low, high = np.quantile(scores[1] - scores[0], [0.025, 0.975])
    return Gain(score(y, after, metric) - score(y, before, metric), float(low), float(high), n)


def chance(found: Score, metric: str, n: int, other: int) -> float:
    """Half the 95% interval of a score by the number of its examples alone, if there were others of them.

    Args:
        found: the score.
        metric: `accuracy`, by Wilson's interval; the interval of another metric shrinks with the root of the number.
        n: how many examples the score is of.
        other: how many it would be of.
    """
    if metric != "accuracy":
        return (found.high - found.low) / 2 * float(np.sqrt(n / other))
    p, z2 = found.value, QUANTILE**2
    return float(np.sqrt(z2 * (p * (1 - p) / other + z2 / (4 * other**2))) / (1 + z2 / other))


def _counts(
    y: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], draws: Int[np.ndarray, "r n"]
) -> Float[np.ndarray, "r k k"]:
    """The confusion matrix of each draw of examples, rows labels, columns predictions."""
    k = int(max(y.max(), predictions.max(), 1)) + 1
    cells = (y * k + predictions)[draws] + k * k * np.arange(len(draws))[:, None]
    return np.bincount(cells.ravel(), minlength=len(draws) * k * k).reshape(-1, k, k).astype(float)


def _of_counts(counts: Float[np.ndarray, "r k k"], metric: str) -> Float[np.ndarray, " r"]:
    """The metric of each confusion matrix; scikit-learn's formulas, for all resamples at once."""
    n, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
    labels, predictions = counts.sum(2), counts.sum(1)  # (r, k)
    if metric == "accuracy":
        return right / n
    if metric == "f1":
        top, bottom = 2 * counts[:, 1, 1], labels[:, 1] + predictions[:, 1]
    else:
        top = right * n - (labels * predictions).sum(1)
        bottom = np.sqrt((n**2 - (labels**2).sum(1)) * (n**2 - (predictions**2).sum(1)))
    return np.divide(top, bottom, out=np.zeros_like(n), where=bottom > 0)


def best_threshold(f: Float[np.ndarray, "n 1"], y: Int[np.ndarray, " n"], metric: str) -> float:
    """The threshold on a difference output that scores best; between two outputs, the middle one of equal choices."""
    values = np.unique(f[:, 0])
    places = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    scores = np.array([score(y, predicted_classes(f, place), metric) for place in places])
    best = np.flatnonzero(scores == scores.max())
    return float(places[best[len(best) // 2]])


def majority(y: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """The most frequent class of the test examples, m times: few-shot training data are balanced and cannot name it."""
    return np.full(len(y), np.bincount(y).argmax())
