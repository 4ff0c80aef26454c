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
from foretune.errors import DataError
from foretune.shapes import Float64, Int

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features.

    Attributes:
        weight: (k, i), one row a class.
        bias: (k,).
        strength: the chosen inverse regularisation strength C, on standardised features.
    """

    weight: Float64[np.ndarray, "k i"]
    bias: Float64[np.ndarray, "k"]
    strength: float

    def outputs(self, features: Float64[np.ndarray, "n i"]) -> Float64[np.ndarray, "n k"]:
        """Logits of the classes."""
        return features @ self.weight.T + self.bias

    def predicted(self, features: Float64[np.ndarray, "n i"]) -> Int[np.ndarray, "n"]:
        """Class numbers."""
        return self.outputs(features).argmax(1)


def linear_probe(
    train: Float64[np.ndarray, "n i"],
    y_train: Int[np.ndarray, "n"],
    validation: Float64[np.ndarray, "v i"],
    y_validation: Int[np.ndarray, "v"],
    metric: str,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Logistic regression on standardised features, its strength chosen on validation data; ties go to the stronger.

    Args:
        train, validation: features.
        y_train, y_validation: class numbers, 0 to k - 1; every class occurs in training.
        metric: what validation maximises.
        strengths: inverse regularisation strengths C to choose from.

    Raises:
        DataError: a class has no training example.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    classes = int(max(y_train.max(), y_validation.max(initial=0))) + 1
    missing = sorted(set(range(classes)) - set(y_train.tolist()))
    if missing:
        raise DataError(f"Linear probing needs a training example of every class; class {missing[0]} has none.")
    scaler: Any = StandardScaler().fit(train)
    fits: list[tuple[float, Probe]] = []
    for strength in strengths:
        model: Any = LogisticRegression(C=strength, max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaler.transform(train), y_train)
        probe = _unstandardised(model.coef_, model.intercept_, scaler.mean_, scaler.scale_, strength)
        fits.append((score(y_validation, probe.predicted(validation), metric), probe))
    return max(fits, key=lambda fit: fit[0])[1]


def _unstandardised(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray, strength: float
) -> Probe:
    """The same classifier on features as they are; two classes get one row each, opposite halves of the one fitted."""
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    raw = weight / scale
    return Probe(raw, bias - raw @ mean, strength)
