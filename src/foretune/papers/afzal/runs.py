r"""LoRA on attention projections of some layers, and what its runs of ten epochs leave behind.

Convergence rate of a run of E epochs with mean training losses L_1 ... L_E, one number per epoch:

    rate = -slope of log L_e against e, by least squares

so that L falls about as exp(-rate * epochs): the rate of linear convergence. The paper does not define its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foretune.analysis.groups import key_weights, layers, query_value_weights
from foretune.candidates.candidate import Candidate, ParameterSizes, candidate
from foretune.candidates.pool import PARTS, pool_blocks, pool_formulas
from foretune.errors import NonFiniteError, UsageError
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork, missing_kernels
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.training import Training
from foretune.model.outputs import Outputs

RANK = 8
EPOCHS, BATCH, RATE = 10, 16, 2e-4
SIGMA = 0.01
"""Ridge strength over lambda_max of the kernel of all adapted weights together; the paper does not give its sigma."""


@dataclass(frozen=True)
class TrainedPlacement:
    """A run that was made to its end.

    Attributes:
        losses: mean training loss of each epoch, nats.
        score: score on test examples, at the last step.
        failure: why the run broke off, or None; all else is then empty or not a number.
    """

    losses: tuple[float, ...] = ()
    score: float = float("nan")
    failure: str | None = None

    @property
    def rate(self) -> float:
        """Convergence rate, one number per epoch; see the module."""
        if len(self.losses) < 2 or min(self.losses) <= 0:
            return float("nan")
        return -float(np.polyfit(np.arange(len(self.losses)), np.log(self.losses), 1)[0])

    @property
    def risk(self) -> float:
        """The empirical risk at the end: the mean training loss of the last epoch."""
        return self.losses[-1] if self.losses else float("nan")


def single_training(budget: Budget) -> Training:
    """Ten epochs of AdamW, or what the budget leaves of them.

    Raises:
        UsageError: several batch sizes or learning rates, where every placement has one run.
    """
    rates = budget.learning_rates.get("adamw") or (RATE,)
    sizes = budget.batch_sizes or (BATCH,)
    for what, values in (("learning rates", rates), ("batch sizes", sizes)):
        if len(values) != 1:
            raise UsageError(f"Every placement has one run, but there are {len(values)} {what}. Give one, or none.")
    epochs = EPOCHS if budget.steps is None else None
    return Training(AdamWOptimiser(rates[0]), batch_size=sizes[0], steps=budget.steps, epochs=epochs)


def projections(outputs: Outputs, what: str) -> dict[str, list[str]]:
    """Layer -> its weights of a kind, layers in order.

    Args:
        outputs: the model as a function.
        what: `W_k`, or `W_q, W_v`.

    Raises:
        UsageError: the model has no such weights of their own, or fewer than two layers.
    """
    linear = [name for name, kind in outputs.kinds().items() if kind == "linear"]
    chosen = layers(key_weights(linear) if what == "W_k" else query_value_weights(linear))
    if len(chosen) < 2:
        raise UsageError(
            f"{outputs.lm.name} has no {what} of their own in two or more layers (query, key and value may be one weight). "
            "Use a model with separate projections, minilm for example."
        )
    return chosen


def placement(name: str, blocks: Sequence[str], sizes: ParameterSizes, head: Sequence[str]) -> Candidate:
    """LoRA of rank 8 on some weights; the head is trained too."""
    return candidate(name, "projections", blocks, RANK, sizes, head)


def trained_placement(cell: Experiment, item: Candidate, training: Training) -> TrainedPlacement:
    """The run of a placement, made or read."""
    n = len(cell.split.train)
    batch, whole = training.batch_of(n), _to_its_end(cell, training)
    key = {"method": repr(item.tuning), "training": repr(whole)}
    name = f"epochs-{item.label.replace(' ', '-').replace(',', '')}"

    def run() -> Mapping[str, Any]:
        try:
            done = cell.run(item.tuning, [whole])
        except NonFiniteError as error:
            return {"failure": str(error)}
        score = float("nan") if done.test_score is None else done.test_score.value
        return {"losses": epoch_means(done.losses, max(1, n // batch)), "score": score}

    found = cell.value(name, key, run)
    return TrainedPlacement(**{**found, "losses": tuple(found.get("losses", ()))})


def placement_work(cell: Experiment, items: Sequence[Candidate], training: Training) -> StudyWork:
    """The runs of some placements, and the kernels of their pool."""
    grid = [_to_its_end(cell, training)]
    kernels = missing_kernels(cell, pool_formulas(RANK), PARTS, pool_blocks(cell, RANK))
    return StudyWork([(item.tuning, grid) for item in items], kernels)


def _to_its_end(cell: Experiment, training: Training) -> Training:
    """The settings of a run whose last step is evaluated alone."""
    return replace(training, evaluate_every=training.steps_for(len(cell.split.train)))


def epoch_means(losses: Sequence[float], steps: int) -> list[float]:
    """The mean of each whole epoch of so many steps; of a run shorter than two epochs, of its halves."""
    width = steps if len(losses) >= 2 * steps else max(1, len(losses) // 2)
    return [float(np.mean(losses[start : start + width])) for start in range(0, len(losses) - width + 1, width)]


def mean_of(every: Sequence[object], name: str) -> float:
    """The mean of one number of each."""
    return float(np.mean([getattr(one, name) for one in every]))
