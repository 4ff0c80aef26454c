"""Linear probing: logistic regression on the pretrained features, without touching the model.

It is a baseline of every forecast, and the start of a classification head in standard fine-tuning (Malladi et al. 2023,
Appendix A and Table 7; Tomihari and Sato 2024, LP-FT).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.scores import score
from foretune.errors import DataError, NonFiniteError
from foretune.shapes import Float64, Int

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HEAD_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_DEAD = 1e-6


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features.

    Attributes:
        weight: weights of the head, (k, i), one row for each class.
        bias: biases of the head, (k,).
        strength: the chosen inverse regularisation strength C, on scaled features.
    """

    weight: Float64[np.ndarray, "k i"]
    bias: Float64[np.ndarray, " k"]
    strength: float

    def outputs(self, features: Float64[np.ndarray, "n i"]) -> Float64[np.ndarray, "n k"]:
        """Logits of the classes."""
        return features @ self.weight.T + self.bias

    def predicted(self, features: Float64[np.ndarray, "n i"]) -> Int[np.ndarray, " n"]:
        """Class numbers."""
        return self.outputs(features).argmax(1)


def linear_probe(
    train: Float64[np.ndarray, "n i"],
    y_train: Int[np.ndarray, " n"],
    validation: Float64[np.ndarray, "v i"],
    y_validation: Int[np.ndarray, " v"],
    metric: str,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Logistic regression on standardised features, its strength chosen on validation data; ties go to the stronger.

    A feature that hardly varies (its spread below 1e-6 of the others') has no say.

    Args:
        train, validation: features.
        y_train, y_validation: class numbers, 0 to k - 1; every class occurs in training.
        metric: what validation maximises.
        strengths: inverse regularisation strengths C to choose from.

    Raises:
        DataError: a class has no training example, or there is only one class.
        NonFiniteError: a feature is infinite or undefined.
    """
    spread = train.std(0)
    alive = spread > _DEAD * np.sqrt((spread**2).mean())
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=alive)
    return _chosen((train, y_train), (validation, y_validation), metric, scale, strengths)


def head_probe(
    train: Float64[np.ndarray, "n i"],
    y_train: Int[np.ndarray, " n"],
    validation: Float64[np.ndarray, "v i"],
    y_validation: Int[np.ndarray, " v"],
    metric: str,
) -> Probe:
    """Logistic regression on the features as they are, in one common unit: the start of a classification head.

    Standardised features would give large weights to features that hardly vary, and the gradients of everything below
    them with it: MiniLM has one whose spread is 1e-31, and the kernel of its last norm overflowed.

    Args and errors as in `linear_probe`.
    """
    scale = np.full(train.shape[1], 1 / max(float(np.sqrt(train.var(0).mean())), np.finfo(float).tiny))
    return _chosen((train, y_train), (validation, y_validation), metric, scale, HEAD_STRENGTHS)


Labelled = tuple[Float64[np.ndarray, "n i"], Int[np.ndarray, " n"]]


def _chosen(
    train: Labelled,
    validation: Labelled,
    metric: str,
    scale: Float64[np.ndarray, " i"],
    strengths: Sequence[float],
) -> Probe:
    """The best fit on validation, to centred features times `scale`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (features, y), (other, y_other) = train, validation
    classes = int(max(y.max(), y_other.max(initial=0))) + 1
    missing = sorted(set(range(classes)) - set(y.tolist()))
    if missing:
        raise DataError(f"Linear probing needs a training example of every class; class {missing[0]} has none.")
    if classes < 2:
        raise DataError(
            f"All {len(y)} training examples have one label; linear probing needs two or more to tell apart."
        )
    if not (np.isfinite(features).all() and np.isfinite(other).all()):
        raise NonFiniteError(
            "The features for linear probing have infinite or undefined entries; expected numbers. Use a model in float32 "
            "or float64 (--dtype), and look for such numbers in its weights."
        )
    mean = features.mean(0)
    fits: list[tuple[float, Probe]] = []
    for strength in strengths:
        model: Any = LogisticRegression(C=strength, max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((features - mean) * scale, y)
        probe = _on_raw_features(model.coef_, model.intercept_, mean, scale, strength)
        fits.append((score(y_other, probe.predicted(other), metric), probe))
    return max(fits, key=lambda fit: fit[0])[1]


def _on_raw_features(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray, strength: float
) -> Probe:
    """The same classifier on features as they are; two classes get one row each, opposite halves of the one fitted."""
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    raw = weight * scale
    return Probe(raw, bias - raw @ mean, strength)
