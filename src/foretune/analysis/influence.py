r"""Which training rows a kernel fit rests on, for rows that it is asked about.

    f(x) = sum_i K(x, x_i) alpha_i,    alpha = G T,    G = (K + s I)^-1        representer values (Yeh et al. 2018)
    f(x) - f_(-i)(x) = (k_x' G)_i alpha_i / G_ii                               what leaving row i out takes away, exact

The first is a row's share in the output as it stands; the second what would be missing if the row had not been there, when
the others take its place as far as they can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import refuse_undefined
from foretune.shapes import Float64


@dataclass(frozen=True)
class Influences:
    """What each training row does to the outputs of the rows that were asked about.

    Attributes:
        outputs: the outputs f of the fit.
        shares: representer values; they sum to the outputs.
        removals: outputs less those of the fit without each training row.
    """

    outputs: Float64[np.ndarray, "t c"]
    shares: Float64[np.ndarray, "t n c"]
    removals: Float64[np.ndarray, "t n c"]


def row_influences(
    train: Float64[np.ndarray, "n n"],
    asked: Float64[np.ndarray, "t n"],
    wanted: Float64[np.ndarray, "n c"],
    ridge: float,
) -> Influences:
    """The influence of every training row on every row that is asked about, by ridge regression.

    Args:
        train: kernel between training rows.
        asked: kernel of the other rows against them.
        wanted: targets.
        ridge: s, above zero.

    Raises:
        UsageError: infinite or undefined entries.
    """
    refuse_undefined(train)
    refuse_undefined(asked)
    inverse = np.linalg.inv(train + ridge * np.eye(len(train)))
    alpha = inverse @ wanted
    shares = asked[:, :, None] * alpha
    removals = (asked @ inverse)[:, :, None] * (alpha / np.diag(inverse)[:, None])
    return Influences(asked @ alpha, shares, removals)
