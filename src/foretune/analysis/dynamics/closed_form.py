r"""Full-batch gradient descent on the squared loss, solved: no step is taken.

With K = V L V' and r = V'(y - f0), every coordinate of V'a is a geometric series,

    (V'a_t)_k = lr / n r_k sum_{s < t} (1 - g_k)^s = lr / n r_k (1 - (1 - g_k)^t) / g_k,    g_k = lr (lambda + L_k / n)

which converges for g_k < 2, to kernel ridge regression with strength n lambda: a = (K + n lambda I)^-1 (y - f0).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretune.analysis.dynamics.curves import CurveRecorder, Curves
from foretune.analysis.dynamics.descent import Descent, GradientDescent
from foretune.analysis.dynamics.space import FunctionSpace
from foretune.analysis.losses import HalfSquaredLoss
from foretune.analysis.spectrum import spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64


def closed_form_curves(space: FunctionSpace, descent: Descent, steps: Sequence[int]) -> Curves:
    """The curves of full-batch gradient descent on the squared loss.

    Args:
        space: a symmetric kernel, with `HalfSquaredLoss()`.
        descent: `GradientDescent` over all examples.
        steps: where to evaluate, ascending; the last one gives coefficients and outputs.

    Raises:
        UsageError: another loss or descent, an asymmetric kernel, counts, or steps out of order.
    """
    if not isinstance(space.loss, HalfSquaredLoss) or not isinstance(descent, GradientDescent):
        raise UsageError(
            f"There is no closed form for {space.loss} and {descent}, only for HalfSquaredLoss() and GradientDescent. "
            "Call curves(...) to simulate the steps."
        )
    if (descent.batch or space.n) < space.n or space.counts is not None:
        raise UsageError(
            f"There is no closed form for batches of {descent.batch} and counts {space.counts}; expected batch=None and "
            "counts=None, or curves(...)."
        )
    if not len(steps) or steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise UsageError(f"Steps {list(steps)}; expected ascending numbers from zero, one at least.")
    eigen = spectrum(space.train_matrix)
    n, lr = space.n, descent.learning_rate
    shares = eigen.coordinates((space.targets - space.f0)[:n].reshape(-1))
    decay = lr * (descent.proximal + np.clip(eigen.values, 0, None) / n)
    record = CurveRecorder(space, np.array([lr]))
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is found in the losses
        for step in steps:
            a = eigen.combined(lr / n * shares * _geometric_sum(decay, step)).reshape(1, n, -1)
            f = record.evaluated(int(step), a)
    return record.curves(a, f)[0]


def _geometric_sum(decay: Float64[np.ndarray, " k"], terms: int) -> Float64[np.ndarray, " k"]:
    """sum_{s < terms} (1 - decay)^s."""
    slow = decay < 0.5
    small = np.where(slow, decay, 0.25)
    # 1 - (1 - g)^t loses all digits for small g
    exact = np.divide(-np.expm1(terms * np.log1p(-small)), small, out=np.full_like(small, terms), where=small > 0)
    large = np.where(slow, 1.0, decay)
    return np.where(slow, exact, (1 - (1 - large) ** terms) / large)
