r"""Are the probabilities honest? Calibration errors, with and without temperature scaling.

Examples fall into bins of equal width by their confidence, the probability of the predicted class (Tomihari and Sato
2024, "Temperature scaling at test time"; their code uses the same 15 bins):

    ECE = sum_bins n_bin / n |accuracy_bin - confidence_bin|,      MCE = max_bins |accuracy_bin - confidence_bin|

Temperature scaling divides the outputs by one number T > 0, which minimises the cross-entropy on validation data. It leaves
every prediction as it is: `f(x) / T = (V / T) phi(x) + b / T`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.losses import LogLoss
from foretune.analysis.output_derivative import labelled
from foretune.analysis.scores import QUANTILE, Gain, predicted_classes
from foretune.analysis.solvers.estimator import class_probabilities
from foretune.errors import UsageError
from foretune.shapes import Float64, Int

BINS = 15
COLDEST, HOTTEST = 1e-2, 1e2


@dataclass(frozen=True)
class Reliability:
    """Data of a reliability diagram, one entry a bin.

    Attributes:
        edges: edges of the bins, from 0 to 1; a confidence on an edge belongs to the bin below, as in the published
            code.
        confidence, accuracy: means; not a number in an empty bin.
        count: number of examples in each bin.
    """

    edges: Float64[np.ndarray, " bins_plus_1"]
    confidence: Float64[np.ndarray, " bins"]
    accuracy: Float64[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]


@dataclass(frozen=True)
class Calibration:
    """How honest probabilities are.

    Attributes:
        ece, mce: expected and maximum calibration error, 0 to 1.
        loss: mean cross-entropy, in nats.
        reliability: the bins behind the errors.
    """

    ece: float
    mce: float
    loss: float
    reliability: Reliability


@dataclass(frozen=True)
class Temperature:
    """A temperature fitted on validation data.

    Attributes:
        value: the temperature T.
        at_limit: T is where the search ends, because every validation example is right already (T to 0) or the outputs
            say nothing about the labels (T to infinity); take it with care.
    """

    value: float
    at_limit: bool


@dataclass(frozen=True)
class TemperatureScaling:
    """Calibration on test data without and with a temperature fitted on validation data.

    Attributes:
        without: calibration of the outputs as they stand.
        scaled: calibration of the outputs over the temperature.
        temperature: fitted on validation data.
    """

    without: Calibration
    scaled: Calibration
    temperature: Temperature


def cross_entropy(f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"]) -> float:
    """The mean cross-entropy, in nats.

    Raises:
        UsageError: no examples, another number of labels, or a class number without an output.
    """
    return float(_each_loss(f, y).mean())


def _each_loss(f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"]) -> Float64[np.ndarray, " n"]:
    return LogLoss().values(f, labelled(f, y))


def calibration(f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"], bins: int = BINS) -> Calibration:
    """The calibration of the outputs f, by the probability of the predicted class.

    Args:
        f: outputs; one column is the difference form.
        y: class numbers, m = n of them.
        bins: of equal width, each without its lower and with its upper edge, as in the published code.

    Raises:
        UsageError: no bins; otherwise as in `cross_entropy`.
    """
    if bins < 1:
        raise UsageError(f"{bins} bins; expected at least one.")
    loss = cross_entropy(f, y)
    found = _reliability(class_probabilities(f), y, bins)
    used = found.count > 0
    gaps = np.abs(found.accuracy - found.confidence)[used]
    return Calibration(float((gaps * found.count[used]).sum() / len(y)), float(gaps.max()), loss, found)


def _reliability(chances: Float64[np.ndarray, "n k"], y: Int[np.ndarray, " n"], bins: int) -> Reliability:
    confidence, right = chances.max(1), chances.argmax(1) == y
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)  # edges[i] < confidence <= edges[i + 1]
    count, confidences, rights = (
        np.bincount(place, weights=weights, minlength=bins) for weights in (None, confidence, right.astype(float))
    )
    mean_confidence, accuracy = (
        np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in (confidences, rights)
    )
    return Reliability(edges, mean_confidence, accuracy, count.astype(int))


def fitted_temperature(f: Float64[np.ndarray, "n c"], y: Int[np.ndarray, " m"]) -> Temperature:
    """The temperature between 0.01 and 100 that minimises the cross-entropy on validation data.

    The cross-entropy is convex in 1 / T, so that it has one minimum in log T.

    Args:
        f: outputs on validation data.
        y: their class numbers, m = n of them.

    Raises:
        UsageError: as in `cross_entropy`.
    """
    from scipy.optimize import minimize_scalar

    limits = (math.log(COLDEST), math.log(HOTTEST))
    found: Any = minimize_scalar(
        lambda log_t: cross_entropy(f / math.exp(log_t), y), bounds=limits, method="bounded", options={"xatol": 1e-8}
    )
    losses = {limit: cross_entropy(f / math.exp(limit), y) for limit in limits} | {float(found.x): float(found.fun)}
    best = min(losses, key=lambda log_t: losses[log_t])
    separated = bool((predicted_classes(f) == y).all())
    at_limit = separated or min(abs(best - limit) for limit in limits) < 1e-3
    return Temperature(math.exp(best), at_limit)


def temperature_scaling(
    f: Float64[np.ndarray, "n c"],
    y: Int[np.ndarray, " n"],
    f_validation: Float64[np.ndarray, "v c"],
    y_validation: Int[np.ndarray, " v"],
) -> TemperatureScaling:
    """Calibration on test data without and with temperature scaling (Tomihari and Sato 2024).

    Args:
        f, y: outputs and class numbers of test data.
        f_validation, y_validation: of validation data, where the temperature is fitted.

    Raises:
        UsageError: as in `calibration`.
    """
    temperature = fitted_temperature(f_validation, y_validation)
    return TemperatureScaling(calibration(f, y), calibration(f / temperature.value, y), temperature)


def loss_gained(
    y: Int[np.ndarray, " n"], before: Float64[np.ndarray, "n c"], after: Float64[np.ndarray, "n c"]
) -> Gain:
    """How much lower the cross-entropy of outputs is than that of others at their best temperature, in nats.

    Outputs that only become surer, or less sure, gain nothing: the temperature of those before is fitted to the same
    examples. The interval is 1.96 standard errors of the mean over examples to either side.

    Args:
        y: class numbers.
        before, after: outputs on the same examples.

    Raises:
        UsageError: as in `cross_entropy`.
    """
    fallen, n = _each_loss(before / fitted_temperature(before, y).value, y) - _each_loss(after, y), len(y)
    value = float(fallen.mean())
    half = QUANTILE * float(fallen.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Gain(value, value - half, value + half, n)
