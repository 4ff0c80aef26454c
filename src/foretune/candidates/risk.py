r"""Ridge risk at a kernel's own scale.

    R = sigma y'(K_S + sigma I)^-1 y / ||y||^2,    sigma = 0.01 lambda_max(K_S)

A ridge in units of each candidate's own largest eigenvalue: one absolute ridge for all favours whatever has the largest
kernel. 0 is a perfect fit of the training targets, 1 is none.
"""

from __future__ import annotations

import numpy as np

from foretune.analysis.bounds import Bracket, risk_bounds
from foretune.analysis.feature_kernel import Matrix
from foretune.analysis.resolvent import Resolvent
from foretune.analysis.spectrum import Spectrum
from foretune.shapes import Float64

RELATIVE_SIGMA = 0.01
"""Ridge strength over lambda_max: of the whole model for condition numbers of parts, else of the kernel itself."""


def relative_risk(eigen: Spectrum, y: Float64[np.ndarray, " k"]) -> Bracket:
    """The ridge risk over ||y||^2 with the kernel's own sigma, and its bounds (Afzal et al. 2024, eq. 6).

    Args:
        eigen: spectrum of a training kernel; a kernel of zeros fits nothing.
        y: targets, example i's output a at `i * c + a`.
    """
    if not eigen.largest:
        return Bracket(1.0, 1.0, 1.0)
    found, norm = risk_bounds(eigen, y, RELATIVE_SIGMA * eigen.largest), float(y @ y)
    return Bracket(found.low / norm, found.exact / norm, found.high / norm)


def relative_risk_alone(kernel: Matrix, y: Float64[np.ndarray, " k"]) -> float:
    """The exact risk of `relative_risk` without a spectrum: lambda_max and one triangular solve."""
    resolvent = Resolvent.of(kernel)
    if not resolvent.largest:
        return 1.0
    sigma = RELATIVE_SIGMA * resolvent.largest
    return float(sigma * (y @ resolvent.solved(y, sigma)) / (y @ y))
