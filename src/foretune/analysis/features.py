r"""How features changed: direction, distance and how well they separate the classes.

Tomihari and Sato 2024, "Small feature changes in LP-FT", the columns of their table:

    CS(F)    mean cosine similarity between the features of two different examples of one model; pretrained features lie
             in a narrow cone (0.99), and fine-tuning opens it
    Diff(F)  mean ||phi(x) - phi_0(x)||
    FDR(F)   Fisher's discriminant ratio tr(S_W^-1 S_B), scatter within and between classes

The poster gives no formula for the ratio. S_W is singular for fewer examples than features, so that a small ridge
`ridge * tr(S_W) / i` is added; compare only ratios that were computed with the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.errors import UsageError
from foretune.shapes import Float64, Int


@dataclass(frozen=True)
class FeatureChange:
    """Features of the same examples before and after fine-tuning.

    Attributes:
        similarity: (before, after): mean cosine similarity between two different examples, CS(F).
        fisher: (before, after): Fisher's discriminant ratio, FDR(F).
        difference: mean ||phi(x) - phi_0(x)||, Diff(F).
        cosine: mean cosine between phi(x) and phi_0(x): 1 where no feature turned.
        relative: `difference` over the mean ||phi_0(x)||.
    """

    similarity: tuple[float, float]
    fisher: tuple[float, float]
    difference: float
    cosine: float
    relative: float


def feature_change(
    before: Float64[np.ndarray, "n i"],
    after: Float64[np.ndarray, "n i"],
    y: Int[np.ndarray, " n"],
) -> FeatureChange:
    """The change of features (Tomihari and Sato 2024, feature table).

    Args:
        before, after: features of the same examples.
        y: class numbers.

    Raises:
        UsageError: fewer than two examples or classes, or a feature vector of zeros.
    """
    step = np.linalg.norm(after - before, axis=1)
    return FeatureChange(
        similarity=(pairwise_similarity(before), pairwise_similarity(after)),
        fisher=(fisher_ratio(before, y), fisher_ratio(after, y)),
        difference=float(step.mean()),
        cosine=float((_directions(before) * _directions(after)).sum(1).mean()),
        relative=float(step.mean() / np.linalg.norm(before, axis=1).mean()),
    )


def pairwise_similarity(features: Float64[np.ndarray, "n i"]) -> float:
    """The mean cosine similarity over pairs of different examples, CS(F).

    Raises:
        UsageError: fewer than two examples, or a feature vector of zeros.
    """
    n = len(features)
    if n < 2:
        raise UsageError(f"{n} examples; a similarity between examples needs at least two.")
    total = _directions(features).sum(0)
    return float((total @ total - n) / (n * (n - 1)))


def fisher_ratio(features: Float64[np.ndarray, "n i"], y: Int[np.ndarray, " n"], ridge: float = 1e-6) -> float:
    """Fisher's discriminant ratio `tr((S_W + ridge tr(S_W) / i I)^-1 S_B)`, infinite for classes that are points.

    Args:
        features: one row per example.
        y: class numbers.
        ridge: see the module.

    Raises:
        UsageError: a single class, or a ridge that is not positive.
    """
    classes = np.unique(y)
    if len(classes) < 2 or not ridge > 0:
        raise UsageError(f"{len(classes)} classes and ridge {ridge}; expected at least two classes, ridge above 0.")
    centre, width = features.mean(0), features.shape[1]
    means = {k: features[y == k].mean(0) for k in classes}
    inner = features - np.stack([means[k] for k in y])  # (n, i)
    between = np.stack([np.sqrt((y == k).sum()) * (means[k] - centre) for k in classes])  # (k, i)
    within = inner.T @ inner
    if not np.trace(within) > 0:
        return float("inf") if between.any() else 0.0
    within += ridge * np.trace(within) / width * np.eye(width)
    return float((between.T * np.linalg.solve(within, between.T)).sum())


def _directions(features: Float64[np.ndarray, "n i"]) -> Float64[np.ndarray, "n i"]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise UsageError(f"Example {int((lengths[:, 0] > 0).argmin())} has features of zeros, which have no direction.")
    return features / lengths
