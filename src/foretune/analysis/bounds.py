r"""What the spectrum says of the risk, and what a candidate set of blocks changes.

    sigma ||y||^2 / (sigma + lambda_max) <= R <= sigma ||y||^2 / (sigma + lambda_min)                     (6)
    (1 - eta) lambda_i(K) <= lambda_i(K + S) <= (1 + eta) lambda_i(K),    eta = ||K^-1/2 S K^-1/2||       (7)
    rho / a <= R(K + S) / R(K) <= a rho,    rho = lambda_max(K + S + sigma I) / lambda_max(K + sigma I),
                                            a = c / (1 - eta)^2,    kappa(K + sigma I) <= c               (8)

Equation numbers: Afzal et al. 2024, *Can the Spectrum of the Neural Tangent Kernel Anticipate Fine-Tuning Performance?*
K is the training kernel, S the candidate blocks' kernel, y what the kernel has to fit: targets, less the pretrained
outputs where training starts from them.

Premises under which these hold, beyond those printed:

- R is the optimum of the ridge objective `||y - f||^2 + sigma ||f||_H^2`, `sigma y'(K + sigma I)^-1 y`. The empirical
  risk that the source's eq. 4 defines, ||y - f||^2 up to 1/n, falls below the lower bound of eq. 6: for K = sigma = y = 1
  it is 1/4, the bound 1/2. Its bounds have eq. 6's factors squared. Eq. 5 has 1/n before its sum, yet the solution
  printed below it is the one without; the sum is meant here.
- Eq. 7 needs an invertible K.
- Eq. 8 needs eta < 1: for K = 1, S = 2, sigma -> 0 it reads 3 <= 1/3. With eta < 1 it holds for the ridge objective
  even with c = 1; for the empirical risk it fails at eta = 0.2 already (K = 1, S = 0.2, sigma -> 0: 0.77 <= 0.69).

For every S, without a premise, the ratio lies in [1 / (1 + eta_sigma), 1 / (1 + mu)], where eta_sigma and mu are the
largest and smallest eigenvalue of (K + sigma I)^-1/2 S (K + sigma I)^-1/2: (K + sigma I)^-1 - (K + S + sigma I)^-1 is
positive semidefinite. So more blocks never raise this risk, while rho >= 1 and a rho >= 1 never go below one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.spectrum import Spectrum, spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64


@dataclass(frozen=True)
class Bracket:
    """A value between its bounds.

    Attributes:
        low, high: the bounds; 0 and infinity where the bound's premises fail and it says nothing.
        exact: the value itself.
    """

    low: float
    exact: float
    high: float


@dataclass(frozen=True)
class EigenvalueBracket:
    """Eigenvalues between their bounds, ascending.

    Attributes:
        low, high: the bounds of eq. 7; `low` is negative, and says nothing, for eta above one.
        exact: the eigenvalues themselves.
    """

    low: Float64[np.ndarray, " k"]
    exact: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]


@dataclass(frozen=True)
class CandidateBounds:
    """What adding a candidate's kernel S to K does to spectrum and ridge risk.

    Attributes:
        base: `K`, or `K + sigma I` for a K that is singular in single precision: eta and `eigenvalues` are relative to it.
        eta: ||base^-1/2 S base^-1/2||.
        eigenvalues: lambda_i(base + S) and its bounds (eq. 7).
        c: bound on kappa(K + sigma I).
        a: c / (1 - eta)^2; infinite for eta = 1.
        proxy: rho, the ratio of largest eigenvalues; at least 1.
        risk_ratio: R(K + S) / R(K) and the bounds of eq. 8, which say nothing for eta >= 1.
        sharp_risk_ratio: the risk ratio with the bounds that need no premise (see the module).
    """

    base: str
    eta: float
    eigenvalues: EigenvalueBracket
    c: float
    a: float
    proxy: float
    risk_ratio: Bracket
    sharp_risk_ratio: Bracket


def risk_bounds(eigen: Spectrum, y: Float64[np.ndarray, " k"], sigma: float) -> Bracket:
    """The ridge objective's optimum sigma y'(K + sigma I)^-1 y and its bounds (Afzal et al. 2024, eq. 6).

    Args:
        eigen: spectrum of the training kernel.
        y: targets (less pretrained outputs), example i's output a at `i * c + a`.
        sigma: absolute ridge strength beside a sum over examples.

    Raises:
        UsageError: sigma is not positive.
    """
    exact, norm = eigen.ridge_risk(y, sigma), float(y @ y)
    return Bracket(sigma * norm / (sigma + eigen.largest), exact, sigma * norm / (sigma + eigen.smallest))


def candidate_bounds(
    kernel: Float64[np.ndarray, "k k"],
    candidate: Float64[np.ndarray, "l m"],
    y: Float64[np.ndarray, " n"],
    sigma: float,
    c: float | None = None,
) -> CandidateBounds:
    """What adding a candidate's blocks does to the spectrum and to the ridge risk (Afzal et al. 2024, eqs. 7 and 8).

    Args:
        kernel: K, training kernel of the blocks that are trained already.
        candidate: S, training kernel of the blocks to add.
        y: targets (less pretrained outputs), example i's output a at `i * c + a`.
        sigma: absolute ridge strength.
        c: bound on kappa(K + sigma I); kappa itself without one.

    Raises:
        UsageError: shapes differ, a matrix is not a kernel, sigma is not positive, c is below kappa, or y has only zeros.
    """
    if kernel.shape != candidate.shape or y.shape != kernel.shape[:1] or not y.any():
        raise UsageError(
            f"A kernel of shape {kernel.shape}, a candidate of shape {candidate.shape} and y of shape {y.shape}, norm "
            f"{np.linalg.norm(y):g}; expected kernels over the same rows, and one target per row, not all zero."
        )
    before, after = spectrum(kernel), spectrum(kernel + candidate)
    exact = after.ridge_risk(y, sigma) / before.ridge_risk(y, sigma)
    condition = before.condition_number(sigma)
    if c is not None and c < condition:
        raise UsageError(f"c is {c:g}, but kappa(K + sigma I) is {condition:g}; expected c to bound it, or no c.")
    c = condition if c is None else c
    singular = before.rank < len(y)
    shift = sigma if singular else 0.0
    relative = relative_spectrum(before, candidate, shift)
    shifted = relative_spectrum(before, candidate, sigma)
    eta, base = relative.largest, np.clip(before.values, 0, None) + shift
    a = c / (1 - eta) ** 2 if eta != 1 else float("inf")
    proxy = (after.largest + sigma) / (before.largest + sigma)
    low, high = (proxy / a, a * proxy) if eta < 1 else (0.0, float("inf"))
    return CandidateBounds(
        base="K + sigma I" if singular else "K",
        eta=eta,
        eigenvalues=EigenvalueBracket((1 - eta) * base, np.clip(after.values, 0, None) + shift, (1 + eta) * base),
        c=c,
        a=a,
        proxy=proxy,
        risk_ratio=Bracket(low, exact, high),
        sharp_risk_ratio=Bracket(1 / (1 + shifted.largest), exact, 1 / (1 + shifted.smallest)),
    )


def relative_spectrum(base: Spectrum, candidate: Float64[np.ndarray, "k k"], sigma: float) -> Spectrum:
    """The spectrum of (K + sigma I)^-1/2 S (K + sigma I)^-1/2, up to an orthogonal change of basis (eta of eq. 7).

    Args:
        base: spectrum of K.
        candidate: S.
        sigma: zero for an invertible K.

    Raises:
        UsageError: K + sigma I is singular.
    """
    values = np.clip(base.values, 0, None) + sigma
    if not values[0] > 0:
        raise UsageError(
            f"The kernel is singular: rank {base.rank} of {len(values)}, and sigma is {sigma}. Pass a sigma above zero."
        )
    whitening = base.vectors / np.sqrt(values)  # (k, k)
    return spectrum(whitening.T @ candidate @ whitening)
