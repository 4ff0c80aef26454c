r"""Runs with Adam in function space: their curves, and the learning rate to begin with.

Adam divides each entry's gradient by the root of its running second moment. With one such root for each block b, that of
the entries' mean square over mini-batches of B at the start, it is gradient descent with the rate that Adam has and the
kernel

    K_adam = sum_b w_b K_b,    w_b = (P_b / E||g_b||^2)^1/2
    E||g_b||^2 = ||g_b||^2 + (s_b - ||g_b||^2) (n - B) / (B (n - 1))

    n^2 ||g_b||^2 = chi' K_b chi,    n s_b = sum_i chi_i' K_b(x_i, x_i) chi_i,    P_b entries

where chi = dl/df: the full gradient, and what a batch drawn without replacement adds to it. The roots are kept, though
gradients shrink as the loss falls, and LoRA's A is at rest, as it is at the start: a model of early training.

The linear regime knows no limit but its loss: where pretrained outputs are close to zero, large steps look good. Real
weights have one. Adam moves an entry by at most about the rate in a step, so that after T steps of rate eta the blocks S,
u = (T eta)^2, have moved by

    ||dW||^2 = P_S u                                 full tuning of P_S entries
    ||dW||^2 = s^2 r (o_S u / 3 + P_S u^2)           LoRA of rank r, o_S output features: B moves from 0, A from its draw

at most (A's entries are of mean square 1 / (3 d) for d inputs). The rate at which this is ||W_S||^2, so that what the
weights computed is lost, is out of reach; a head alone has none. No larger rate is recommended.

Where many blocks move at once, their changes meet in the outputs, and the linear regime ends earlier: with a prompt,
adapters of all linear layers are best at a rate 10 to 30 times below that of a single layer, as lambda_max of their kernels
has it (Lee et al. 2026, arXiv 2602.04998), while the simulation hardly tells these rates apart. There the reach of adapters
is

    min(1, TOGETHER lambda_max(all blocks) / lambda_max(S))  times the rate above

docs/results/rates/README.md and docs/results/prompts/README.md have what that is worth on real grids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foretune.analysis.dynamics import Curves, FunctionSpace, GradientDescent, LogLoss, curves
from foretune.analysis.feature_kernel import Kernel, gradient_squares, weighted_sum
from foretune.analysis.output_derivative import chi
from foretune.analysis.schedule import Schedule
from foretune.analysis.selection import best_by_fold, corrected_loss, folds
from foretune.candidates.candidate import ALPHA, ParameterSizes
from foretune.candidates.joint import function_space
from foretune.experiment.inputs import Inputs
from foretune.finetune.training import Training
from foretune.kernels.lora import LoRA
from foretune.shapes import Bool, Float64


@dataclass(frozen=True)
class PredictedRun:
    """The simulated run of one point of a grid.

    Attributes:
        learning_rate: the run's learning rate.
        steps: steps of the evaluations, the first before training.
        validation_losses: validation loss at each of these steps, nats; infinite once the run has diverged.
    """

    learning_rate: float
    steps: tuple[int, ...]
    validation_losses: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The smallest validation loss after the start."""
        return min(self.validation_losses[1:])

    @property
    def best_step(self) -> int:
        """The step of that loss; of equals the first."""
        return self.steps[1:][self.validation_losses[1:].index(self.lowest)]


def adam_kernel(parts: Sequence[Kernel], entries: Sequence[int], chi: Float64[np.ndarray, "n c"], batch: int) -> Kernel:
    """The kernel that makes gradient descent step as far as Adam does in each block; see the module.

    Args:
        parts: joint kernels of the blocks, arrays or features.
        entries: numbers in each block that have a gradient at the start.
        chi: derivative of each training example's loss by its outputs.
        batch: examples per step.
    """
    n = len(chi)
    noise = (n - batch) / (batch * (n - 1)) if n > 1 else 0.0
    weights = []
    for kernel, count in zip(parts, entries, strict=True):
        whole, own = (square / n**power for square, power in zip(gradient_squares(kernel, chi), (2, 1), strict=True))
        square = whole + (own - whole) * noise
        weights.append(math.sqrt(count / square) if square > 0 else 0.0)
    return weighted_sum(parts, weights)


def predicted_runs(
    parts: Sequence[Kernel], entries: Sequence[int], inputs: Inputs, grid: Sequence[Training]
) -> tuple[PredictedRun, ...]:
    """The simulated validation curve of every point of a grid of Adam's.

    Args:
        parts, entries: as in `adam_kernel`.
        inputs: labels and pretrained outputs of training and validation examples.
        grid: settings with AdamW.
    """
    n = inputs.n_train
    spaces = {batch: _adam_space(parts, entries, inputs, batch) for batch in {point.batch_of(n) for point in grid}}
    found = []
    for training in grid:
        batch, rate = training.batch_of(n), training.optimiser.learning_rate
        descent = GradientDescent(rate, batch, seed=training.seed)
        steps, every = training.steps_for(n), training.interval(n)
        (run,) = curves(spaces[batch], descent, steps, every, schedule=training.schedule)
        found.append(_predicted(rate, run))
    return tuple(found)


def _predicted(rate: float, run: Curves) -> PredictedRun:
    return PredictedRun(rate, tuple(map(int, run.steps)), tuple(map(float, run.validation_loss)))


def _adam_space(parts: Sequence[Kernel], entries: Sequence[int], inputs: Inputs, batch: int) -> FunctionSpace:
    """The linear regime in which gradient descent steps as far as Adam does."""
    n = inputs.n_train
    derivative = chi(inputs.f0[:n], inputs.y[:n], LogLoss())
    return function_space(adam_kernel(parts, entries, derivative, batch), inputs)


def best_predicted(runs: Sequence[PredictedRun], within: float = math.inf) -> PredictedRun:
    """The run with the smallest validation loss; of equals the first.

    Args:
        runs: of one candidate.
        within: only rates up to this one; the smallest where all are larger.
    """
    smallest = min(run.learning_rate for run in runs)
    allowed = [run for run in runs if run.learning_rate <= max(within, smallest)]
    return min(allowed, key=lambda run: run.lowest)


def reach(blocks: Sequence[str], rank: int | None, sizes: ParameterSizes, steps: int) -> float:
    """The rate from which on Adam could move some blocks by their own norm; infinite for none, and for zeros.

    Args:
        blocks: parameter names, without those of a head.
        rank: of LoRA; None for full tuning.
        sizes: shapes and norms of the parameters.
        steps: number of steps of the run.
    """
    norm, entries = sizes.norm(blocks), sum(sizes.entries_with_gradient(name, None) for name in blocks)
    if not norm:
        return math.inf
    if rank is None:
        return norm / (steps * math.sqrt(entries))
    scale = LoRA(rank, ALPHA).scaling ** 2 * rank
    linear, square = scale * sum(sizes.widths[name] for name in blocks) / 3, scale * entries
    root = math.hypot(linear, 2 * math.sqrt(square) * norm)
    return norm * math.sqrt(2 / (linear + root)) / steps  # the root of u without a difference, or a square of the norm


TOGETHER = 1 / 6
"""To which share of their norm the adapters of all blocks may move at once, with a prompt; for `reach_beside`."""


def reach_beside(own: float, largest: float, largest_of_all: float) -> float:
    """The reach of adapters whose changes meet in the outputs.

    Args:
        own: `reach(blocks, rank, sizes, steps)`.
        largest: lambda_max of the training kernel of these adapters.
        largest_of_all: of the adapters of all blocks together.
    """
    return own * min(1.0, TOGETHER * largest_of_all / largest) if largest > 0 else own


RATES = tuple(float(rate) for rate in np.geomspace(1e-6, 1e-1, 16))
"""Three a decade."""
STEPS, BATCH, EPOCHS, EVALUATIONS = 48, 16, 3, 12


def planned_run(
    n: int,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = BATCH,
    schedule: Schedule = "constant",
) -> Training:
    """The run of AdamW that is forecast: three passes over the training examples, and 48 steps at least, if nobody says.

    It is evaluated `EVALUATIONS` times, trains without dropout, and its best checkpoint is that of the lowest validation
    loss.

    Args:
        n: training examples.
        steps: number of training steps.
        epochs: passes over the training examples, instead of steps.
        batch_size: examples a step.
        schedule: of the learning rate.

    Raises:
        UsageError: both steps and epochs.
    """
    asked = Training(
        steps=steps, epochs=epochs, batch_size=batch_size, schedule=schedule, best_by="loss", dropout=False
    )
    if steps is None and epochs is None:
        asked = replace(asked, steps=max(STEPS, replace(asked, epochs=EPOCHS).steps_for(n)))
    total = asked.steps_for(n)
    return replace(asked, steps=total, epochs=None, evaluate_every=max(1, total // EVALUATIONS))


@dataclass(frozen=True)
class AdamRate:
    """Where to begin with AdamW.

    Attributes:
        learning_rate: learning rate of the lowest simulated validation loss; None where no rate lowers it.
        worse_from: the smallest rate above it after which no evaluation is better than the start; infinite for none.
        reach: no larger rate was considered (`reach`); infinite for a head alone.
        validation_loss: lowest simulated validation loss, nats, as it was chosen among rates and evaluations.
        expected_loss: the same without the luck of that choice (`analysis.selection`), nats.
        steps, batch: number of steps and batch size of the simulated runs.
        schedule: of their learning rate.
        runs: one for each rate that was tried, from the smallest.
    """

    learning_rate: float | None
    worse_from: float
    reach: float
    validation_loss: float
    expected_loss: float
    steps: int
    batch: int
    schedule: Schedule
    runs: tuple[PredictedRun, ...]

    @property
    def predicted(self) -> PredictedRun | None:
        """The simulated run of the learning rate that was chosen; None where no rate lowers the loss."""
        return next((run for run in self.runs if run.learning_rate == self.learning_rate), None)

    @property
    def at_limit(self) -> bool:
        """Whether it is the largest rate that was tried: a larger one may be better, or overwrite the weights."""
        return self.learning_rate == _within(self.reach)[-1]

    @property
    def falling(self) -> str:
        """The schedule in words, where the rate does not stay."""
        return "" if self.schedule == "constant" else f", {self.schedule} schedule"

    @property
    def words(self) -> str:
        """The rate, and what it is of."""
        tried, runs = _within(self.reach), f"simulated: {self.steps} steps, batches of {self.batch}{self.falling}"
        if self.learning_rate is None:
            return f"no learning rate from {tried[0]:.0e} to {tried[-1]:.0e} lowers the validation loss ({runs})"
        notes = [runs]
        if self.at_limit:
            limit = "" if tried[-1] == RATES[-1] else ": a higher rate could leave what the kernel describes"
            notes.append(f"the largest tried{limit}")
        elif not math.isinf(self.worse_from):
            notes.append(f"from {self.worse_from:.1e} on nothing is better than the start")
        return f"learning rate {self.learning_rate:.1e} ({'; '.join(notes)})"


def adam_rate(
    parts: Sequence[Kernel],
    entries: Sequence[int],
    inputs: Inputs,
    planned: Training,
    within: float = math.inf,
    choosing: Bool[np.ndarray, "b v"] | None = None,
) -> AdamRate:
    """The learning rate of AdamW with the lowest simulated validation loss, of equals the smallest.

    Args:
        parts, entries: as in `adam_kernel`.
        inputs: labels and pretrained outputs.
        planned: the run, `planned_run(n)`; its rate does not matter.
        within: no larger rate is tried, `reach(blocks, rank, sizes, steps)`.
        choosing: folds of the validation examples, `analysis.selection.folds`; of their labels without any.
    """
    n, rates = inputs.n_train, _within(within)
    batch, steps, schedule = planned.batch_of(n), planned.steps_for(n), planned.schedule
    space = _adam_space(parts, entries, inputs, batch)
    runs = curves(space, GradientDescent(1.0, batch), steps, planned.interval(n), rates, schedule=schedule)
    start = float(runs[0].validation_loss[0])
    tried = tuple(map(_predicted, rates, runs))
    lowest = [run.lowest for run in tried]
    best = int(np.argmin(lowest))
    if not lowest[best] < start:
        return AdamRate(None, rates[0], within, start, start, steps, batch, schedule, tried)
    worse = (rate for rate, loss in zip(rates[best:], lowest[best:], strict=True) if loss >= start)
    choosing = folds(inputs.y[n : n + inputs.n_validation]) if choosing is None else choosing
    expected = corrected_loss(
        [best_by_fold(np.concatenate([run.validation_each[1:] for run in runs]), choosing)]
    ).corrected
    above = next(worse, math.inf)
    return AdamRate(rates[best], above, within, lowest[best], expected, steps, batch, schedule, tried)


def adam_run(parts: Sequence[Kernel], entries: Sequence[int], inputs: Inputs, found: AdamRate) -> Curves | None:
    """The simulated run of the rate that was found, up to its lowest validation loss; None where no rate lowers it.

    Args:
        parts, entries, inputs: as they were given to `adam_rate`.
        found: what it said.
    """
    if found.predicted is None:
        return None
    space, steps = _adam_space(parts, entries, inputs, found.batch), found.predicted.best_step
    descent = GradientDescent(found.predicted.learning_rate, found.batch)
    (run,) = curves(space, descent, steps, steps, schedule=found.schedule, scheduled=found.steps)
    return run


def _within(reach: float) -> tuple[float, ...]:
    """The rates up to a limit, the smallest always."""
    return tuple(rate for rate in RATES if rate <= max(reach, RATES[0]))
