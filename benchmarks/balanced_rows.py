"""Rows to label next, all classes balanced: tried beside the rule of `foretune labels --unlabelled`, and not offered.

The gain of row j (`foretune.analysis.batch_choice`) is multiplied by how rare its likely classes are so far, n_c rows of
class c, labels and likely ones:

    sum_c p_jc n / (n_c + 1)
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.special import softmax

from foretune.analysis.example_kernel import kernel_factors
from foretune.analysis.leave_one_out import ridge_left_out
from foretune.labelling.next_rows import LEAST_UNCLEAR


def balanced_rows(kernel: np.ndarray, y: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Places among the unlabelled rows.

    Args:
        kernel: (rows, rows), the labelled ones first.
        y: class numbers of the labelled rows.
        classes: how many there are.
        count: rows to choose.
    """
    n = len(y)
    known, across = kernel[:n, :n], kernel[:n, n:]
    fit = ridge_left_out(kernel_factors(known), y, classes)
    system = known + fit.strength * np.eye(n)
    likely = softmax(fit.sharpness * across.T @ scipy.linalg.solve(system, np.eye(classes)[y], assume_a="pos"), axis=1)
    weights = np.maximum(1 - (likely**2).sum(1), LEAST_UNCLEAR)
    variance = kernel[n:, n:] - across.T @ scipy.linalg.solve(system, across, assume_a="pos")
    so_far, places = np.bincount(y, minlength=classes).astype(float), []
    for _ in range(count):
        scale = np.clip(np.diag(variance), 0, None) + fit.strength
        gain = (weights @ variance**2 / scale) * (likely @ (so_far.sum() / (so_far + 1)))
        gain[places] = -1.0
        best = int(gain.argmax())
        places.append(best)
        so_far += likely[best]
        variance = variance - np.outer(variance[best], variance[best]) / scale[best]
    return np.array(places, dtype=int)
