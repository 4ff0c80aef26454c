r"""Which rows to label next: those whose labels would take the most doubt from all others, chosen one by one.

    V = K_UU - K_UL (K_LL + s I)^-1 K_LU               variance of the unlabelled rows, given the labelled ones
    gain_j = sum_k w_k V_jk^2 / (V_jj + s),    V <- V - V_j V_j' / (V_jj + s)
    w_k = 1 - sum_c p_kc^2                             how unclear row k is to the fit so far

This is the choice of least remaining variance, each row by its Fisher information w, by a pivoted Cholesky decomposition:
the criterion of BAIT (Ash et al. 2021) on the kernel. Rows like one that was chosen gain little afterwards, so that a batch
is diverse; what is clear already is not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import refuse_undefined
from foretune.shapes import Float64, Int


@dataclass(frozen=True)
class Batch:
    """Rows in the order of their choice.

    Attributes:
        places: among the unlabelled rows.
        gains: share of the weighted variance of all unlabelled rows that each takes away, given those before it, 0 to 1.
    """

    places: Int[np.ndarray, " b"]
    gains: Float64[np.ndarray, " b"]


def chosen_batch(
    kernel: Float64[np.ndarray, "e e"], labelled: int, ridge: float, weights: Float64[np.ndarray, " u"], count: int
) -> Batch:
    """The rows to label next.

    Args:
        kernel: between all rows, the labelled ones first.
        labelled: how many of them are.
        ridge: s, above zero.
        weights: w of the unlabelled rows, some of them above zero.
        count: rows to choose, at most all unlabelled ones.

    Raises:
        UsageError: infinite or undefined entries.
    """
    refuse_undefined(kernel)
    known, across = kernel[:labelled, :labelled], kernel[:labelled, labelled:]
    solved = np.linalg.solve(known + ridge * np.eye(labelled), across)
    variance = kernel[labelled:, labelled:] - across.T @ solved
    total, left = float(weights @ np.diag(variance)), np.ones(len(variance), dtype=bool)
    places, gains = [], []
    for _ in range(min(count, len(variance))):
        scale = np.clip(np.diag(variance), 0, None) + ridge
        gain = np.where(left, weights @ variance**2 / scale, -1.0)
        best = int(gain.argmax())
        places.append(best)
        gains.append(float(gain[best]) / total)
        left[best] = False
        variance = variance - np.outer(variance[best], variance[best]) / scale[best]
    return Batch(np.array(places, dtype=int), np.array(gains))
