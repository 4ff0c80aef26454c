"""What a simulated run leaves behind: losses and scores, evaluation by evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from foretune.analysis.dynamics.space import FunctionSpace
from foretune.analysis.scores import predicted_classes, score
from foretune.shapes import Float64, Int

DIVERGED = 1e6
"""A training loss above this multiple of its start (of one, if that is more) counts as infinite."""


@dataclass(frozen=True)
class Curves:
    """One run.

    Attributes:
        learning_rate: learning rate of the run.
        steps: where the rest was recorded; 0 is before training.
        train_loss, validation_loss, test_loss: mean losses there, without the proximal term; infinite once the run has
            diverged, and not a number for no examples.
        validation_score, test_score: accuracy or F1; not a number for no examples and once the run has diverged.
        diverged: whether the training loss passed `DIVERGED` times its start.
        validation_each: loss of each validation example there; infinite once the run has diverged.
        coefficients: a at the last step, (n, c): f(x) = f0(x) + K(x, X) a. Not a number once diverged.
        outputs: f at the last step, all rows. Not a number once diverged.
    """

    learning_rate: float
    steps: Int[np.ndarray, " t"]
    train_loss: Float64[np.ndarray, " t"]
    validation_loss: Float64[np.ndarray, " t"]
    validation_score: Float64[np.ndarray, " t"]
    test_loss: Float64[np.ndarray, " t"]
    test_score: Float64[np.ndarray, " t"]
    diverged: bool
    validation_each: Float64[np.ndarray, "t v"] = field(repr=False)
    coefficients: Float64[np.ndarray, "n c"] = field(repr=False)
    outputs: Float64[np.ndarray, "r c"] = field(repr=False)


class CurveRecorder:
    """The record of runs that go on side by side, along the axis `l`.

    Args:
        space: what they train on.
        rates: their learning rates.
    """

    def __init__(self, space: FunctionSpace, rates: Float64[np.ndarray, " l"]) -> None:
        self.space, self.rates = space, rates
        self.matrix, self.targets = space.matrix, space.targets
        stop = space.n + space.n_validation
        self.parts = (slice(0, space.n), slice(space.n, stop), slice(stop, None))
        before = space.loss.values(space.f0, self.targets)[: space.n]
        self.limit = DIVERGED * max(float(np.average(before, weights=space.counts)), 1.0)
        self.diverged = np.zeros(len(rates), dtype=bool)
        self.steps: list[int] = []
        self.losses: list[Float64[np.ndarray, "l part"]] = []
        self.scores: list[Float64[np.ndarray, "l part"]] = []
        self.each: list[Float64[np.ndarray, "l v"]] = []

    def evaluated(self, step: int, a: Float64[np.ndarray, "l n c"]) -> Float64[np.ndarray, "l r c"]:
        """Record a step, mark the runs that have diverged by now, and return the outputs of all rows."""
        f = (a.reshape(len(a), -1) @ self.matrix.T).reshape(len(a), *self.space.f0.shape)
        f += self.space.f0
        values = self.space.loss.values(f, self.targets)  # (l, r)
        train = np.average(values[:, self.parts[0]], axis=1, weights=self.space.counts)
        self.diverged |= ~(train <= self.limit)  # an undefined loss is not below the limit
        values[self.diverged], train[self.diverged] = np.inf, np.inf
        scores = np.column_stack([self._scores(f[:, part], self.space.y[part]) for part in self.parts[1:]])
        scores[self.diverged] = np.nan
        self.steps.append(step)
        self.losses.append(np.column_stack([train, *(_means(values[:, part]) for part in self.parts[1:])]))
        self.scores.append(scores)
        self.each.append(values[:, self.parts[1]].copy())  # not a view, which would keep all rows
        return f

    def curves(self, a: Float64[np.ndarray, "l n c"], f: Float64[np.ndarray, "l r c"]) -> tuple[Curves, ...]:
        """Every run, with its last coefficients and outputs."""
        each = np.stack(self.each)  # (t, l, v)
        losses, scores, steps = np.stack(self.losses), np.stack(self.scores), np.array(self.steps)
        a, f = (np.where(self.diverged[:, None, None], np.nan, last) for last in (a, f))
        return tuple(
            Curves(
                learning_rate=float(rate),
                steps=steps,
                train_loss=losses[:, run, 0],
                validation_loss=losses[:, run, 1],
                validation_score=scores[:, run, 0],
                test_loss=losses[:, run, 2],
                test_score=scores[:, run, 1],
                diverged=bool(self.diverged[run]),
                validation_each=each[:, run],
                coefficients=a[run],
                outputs=f[run],
            )
            for run, rate in enumerate(self.rates)
        )

    def _scores(self, f: Float64[np.ndarray, "l p c"], y: Int[np.ndarray, " p"]) -> Float64[np.ndarray, " l"]:
        predictions = predicted_classes(f.reshape(-1, f.shape[-1])).reshape(f.shape[:2])
        if self.space.metric == "accuracy" and len(y):  # all runs at once: scikit-learn's costs more than the steps
            return (predictions == y).mean(1)
        return np.array([score(y, of_run, self.space.metric) for of_run in predictions])


def _means(values: Float64[np.ndarray, "l p"]) -> Float64[np.ndarray, " l"]:
    """Means over examples, not a number for none."""
    return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)
