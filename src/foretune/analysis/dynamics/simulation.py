r"""Gradient descent and sign steps in function space: what training does to the outputs, no parameter ever moved.

    f_{t+1} - f0 = (1 - lr lambda) (f_t - f0) - lr / B sum_{i in batch} K(., x_i) chi_i,    chi = dl/df

The kernel analog of Malladi et al. 2023, Definition 2.3, for the mean loss of a batch; lambda is the strength of a pull
towards theta0, the proximal term of Afzal et al., *Linearization Explains Fine-Tuning in Large Language Models*. Outputs
never leave `f0 + K(., X) a`, so that the state is a alone, (n, c) per run:

    a <- (1 - lr lambda) a,    a_i <- a_i - lr / B chi_i  for i in the batch

A step needs the outputs of its batch only, an evaluation those of all rows. This is training of the linearized model up
to rounding, with theta - theta0 = sum_i df(x_i)' a_i. Many learning rates run at once, along the leading axis `l`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from foretune.analysis.dynamics.curves import CurveRecorder, Curves
from foretune.analysis.dynamics.descent import Descent, drawn_batches
from foretune.analysis.dynamics.space import FunctionSpace
from foretune.analysis.feature_kernel import FeatureMatrix, Matrix
from foretune.analysis.schedule import Schedule, rate_factor
from foretune.errors import UsageError
from foretune.shapes import Float, Float64, Int


def curves(
    space: FunctionSpace,
    descent: Descent,
    steps: int,
    every: int = 10,
    rates: Sequence[float] | None = None,
    batches: Sequence[Int[np.ndarray, " _"]] | None = None,
    schedule: Schedule = "constant",
    scheduled: int | None = None,
) -> tuple[Curves, ...]:
    """Training curves in the linear regime, one run per learning rate, all over the same batches.

    Args:
        space: kernel, pretrained outputs, labels and loss.
        descent: how a run steps.
        steps: how many.
        every: steps between evaluations; the first and the last step are always evaluated.
        rates: learning rates; the descent's own without any.
        batches: training examples of each step, such as those of a real run; drawn by the descent's seed without any.
        schedule: how the rates change over the steps.
        scheduled: number of steps of the schedule, for a run that is stopped before its end; `steps` without one.

    Raises:
        UsageError: a number is out of range, or the batches do not fit.
    """
    lr = np.array([descent.learning_rate] if rates is None else rates, dtype=np.float64)
    if steps < 0 or every < 1 or not len(lr) or not (np.isfinite(lr) & (lr > 0)).all():
        raise UsageError(f"{steps} steps, every {every}, rates {lr}; expected steps >= 0, every >= 1, positive rates.")
    draws = drawn_batches(space.n, descent) if batches is None else _given_batches(space.n, batches, steps)
    record = CurveRecorder(space, lr)
    run = _Runs(space, descent, lr)
    with np.errstate(over="ignore", invalid="ignore"):  # a diverging run is found, and stopped, when it is evaluated
        f = record.evaluated(0, run.a)
        for step in range(1, steps + 1):
            run.step(next(draws), rate_factor(schedule, step - 1, scheduled or steps))
            if step % every == 0 or step == steps:
                f = record.evaluated(step, run.a)
                run.stop(record.diverged)
    return record.curves(run.a, f)


class _Runs:
    """The coefficients of all runs, and one step of them."""

    def __init__(self, space: FunctionSpace, descent: Descent, lr: Float64[np.ndarray, " l"]) -> None:
        n, c = space.n, space.f0.shape[1]
        self.descent, self.loss = descent, space.loss
        self.f0, self.targets = space.f0[:n].astype(np.float64), space.targets[:n]
        self.rows = _smaller(space.train_matrix)
        self.counts = np.ones((n, 1)) if space.counts is None else space.counts[:, None].astype(np.float64)
        self.block = np.empty(0) if isinstance(self.rows, FeatureMatrix) else np.empty((n, c, n * c), self.rows.dtype)
        self.a = np.zeros((len(lr), n, c))
        self.rate = lr[:, None, None].copy()

    def step(self, batch: Int[np.ndarray, " b"], factor: float) -> None:
        """One step of every run over the same training examples, at a share of its rate."""
        runs, n, c = self.a.shape
        picked = slice(None) if len(batch) == n else batch  # all examples, in whichever order
        rows, a = self._rows_of(batch), self.a.reshape(runs, -1)
        if not isinstance(rows, FeatureMatrix):
            a = a.astype(rows.dtype, copy=False)
        f = (a @ rows.T).reshape(runs, -1, c) + self.f0[picked]
        change = self.descent.direction(self.loss.derivative(f, self.targets[picked]))
        rate, counts = self.rate * factor, self.counts[picked]
        change *= rate * counts / counts.sum()
        self.a *= 1 - rate * self.descent.proximal
        self.a[:, picked] -= change

    def _rows_of(self, batch: Int[np.ndarray, " b"]) -> Float[np.ndarray, "r s"] | FeatureMatrix:
        """The kernel's rows of a batch; all of them, in their own order, for all examples."""
        _, n, c = self.a.shape
        if len(batch) == n:
            return self.rows
        if isinstance(self.rows, FeatureMatrix):
            return self.rows[(batch[:, None] * c + np.arange(c)).reshape(-1)]
        rows, into = self.rows.reshape(n, c, n * c), self.block[: len(batch)]
        return np.take(rows, batch, axis=0, out=into, mode="clip").reshape(-1, n * c)  # else numpy buffers the output

    def stop(self, diverged: np.ndarray) -> None:
        """Set diverged runs to rest, where nothing overflows."""
        self.a[diverged], self.rate[diverged] = 0.0, 0.0


def _smaller(rows: Matrix) -> Float[np.ndarray, "r s"] | FeatureMatrix:
    """Features, multiplied out in their own precision where a product with the array is the cheaper one."""
    if isinstance(rows, FeatureMatrix) and len(rows) <= rows.left.shape[1] + rows.right.shape[1]:
        return rows.left @ rows.right.T
    return rows


def _given_batches(n: int, batches: Sequence[Int[np.ndarray, " _"]], steps: int) -> Iterator[Int[np.ndarray, " _"]]:
    if len(batches) < steps:
        raise UsageError(f"{len(batches)} batches for {steps} steps; expected one per step.")
    for number, batch in enumerate(batches):
        if not len(batch) or len(np.unique(batch)) < len(batch) or batch.min() < 0 or batch.max() >= n:
            raise UsageError(f"Batch {number} is {batch}; expected different numbers from 0 to {n - 1}, one at least.")
    return iter(batches)
