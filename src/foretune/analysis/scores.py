"""Scores with error bars, and the baselines that every forecast is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.shapes import Float, Int


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


def predicted_classes(f: Float[np.ndarray, "n c"], threshold: float = 0.0) -> Int[np.ndarray, "n"]:
    """The class of each row: the largest output, or the sign of a single difference output above a threshold."""
    return (f[:, 0] > threshold).astype(int) if f.shape[1] == 1 else f.argmax(1)


def score(y: Int[np.ndarray, "n"], predictions: Int[np.ndarray, "n"], metric: str) -> float:
    """Accuracy, F1 of class 1, or the Matthews correlation (GLUE's metric of CoLA); not a number for no examples.

    The Matthews correlation of predictions that are all the same is zero.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if len(y) == 0:
        return float("nan")
    if metric == "accuracy":
        return float(accuracy_score(y, predictions))
    if metric == "matthews":
        return float(matthews_corrcoef(y, predictions))
    return float(f1_score(y, predictions, zero_division=0))  # pyright: ignore[reportArgumentType]


def scored(y: Int[np.ndarray, "n"], predictions: Int[np.ndarray, "n"], metric: str) -> Score:
    """A score with its 95% interval; the bootstrap draws 1000 resamples with seed 0."""
    from scipy.stats import binomtest

    value = score(y, predictions, metric)
    if metric == "accuracy":
        interval = binomtest(int((y == predictions).sum()), len(y)).proportion_ci(method="wilson")
        return Score(value, float(interval.low), float(interval.high))
    generator = np.random.default_rng(0)
    draws = [generator.integers(len(y), size=len(y)) for _ in range(1000)]
    low, high = np.quantile([score(y[draw], predictions[draw], metric) for draw in draws], [0.025, 0.975])
    return Score(value, float(low), float(high), score(y, predictions, "accuracy"))


def best_threshold(f: Float[np.ndarray, "n 1"], y: Int[np.ndarray, "n"], metric: str) -> float:
    """The threshold on a difference output that scores best; between two outputs, the middle one of equal choices."""
    values = np.unique(f[:, 0])
    places = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    scores = np.array([score(y, predicted_classes(f, place), metric) for place in places])
    best = np.flatnonzero(scores == scores.max())
    return float(places[best[len(best) // 2]])


def majority(y: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    """The most frequent class of the test examples, m times: few-shot training data are balanced and cannot name it."""
    return np.full(len(y), np.bincount(y).argmax())
