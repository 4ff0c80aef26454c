r"""The norm of a classifier, of its rows, and where training pushes them.

Norm(C) of the poster's feature table is the Frobenius norm ||V||: its untrained classifiers of 3 and 2 classes have 0.951
and 0.776, a ratio of sqrt(3/2) = 1.22, where a mean over rows would be the same for both.

For `f(x) = V phi(x) + b` with rows v_k, and the cross-entropy summed over examples (Tomihari and Sato 2024, "Increase in
classifier norms"):

    dL / d||v_k|| = sum_i (softmax(f(x_i))_k - [k = y_i]) ||phi(x_i)|| cos(v_k, phi(x_i))

It is negative, so that gradient descent makes the row longer, as soon as each row points to the features of its own class
and away from the others' (cos >= 0 where k = y_i, cos <= 0 elsewhere).
"""

from __future__ import annotations

import numpy as np

from foretune.analysis.losses import LogLoss
from foretune.analysis.output_derivative import chi
from foretune.errors import UsageError
from foretune.shapes import Float64, Int


def row_norms(weight: Float64[np.ndarray, "k i"]) -> Float64[np.ndarray, " k"]:
    """The norm ||v_k|| of each class's row."""
    return np.linalg.norm(weight, axis=1)


def norm_of_rows(norms: Float64[np.ndarray, " k"]) -> float:
    """The Frobenius norm ||V|| from those of the rows: Norm(C) of the feature table of Tomihari and Sato 2024."""
    return float(np.linalg.norm(norms))


def norm_slopes(
    features: Float64[np.ndarray, "n i"],
    weight: Float64[np.ndarray, "k i"],
    bias: Float64[np.ndarray, " k"],
    y: Int[np.ndarray, " n"],
) -> Float64[np.ndarray, " k"]:
    """dL / d||v_k|| of the summed cross-entropy, for each class.

    Args:
        features: phi(x), one row per example.
        weight, bias: V and b, one row per class; two classes have two rows, also in the difference form.
        y: class numbers.

    Returns:
        One slope a class, in nats per unit of norm; negative where gradient descent makes the row longer.

    Raises:
        UsageError: a row of zeros, which has no direction, a class number without a row, or a single row.
    """
    norms = row_norms(weight)
    if len(weight) < 2 or not (norms > 0).all():
        raise UsageError(
            f"A classifier with row norms {norms.tolist()}; expected two or more rows, none of zeros. Give one row per "
            "class."
        )
    residual = chi(features @ weight.T + bias, y, LogLoss())  # (n, k)
    along = features @ (weight / norms[:, None]).T  # (n, k): ||phi|| cos tau
    return (residual * along).sum(0)
