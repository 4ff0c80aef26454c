"""How to train: optimiser, loss, batches, steps, and the pull towards the pretrained parameters.

Settings that are left out are those of Malladi et al. 2023, Appendix A: `32 k C` steps for k examples of each of C
classes, the validation score every `4 k C` steps, and the checkpoint that scores best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from foretune.analysis.schedule import Schedule
from foretune.errors import UsageError
from foretune.finetune.history import Choice
from foretune.finetune.losses import CrossEntropy, Loss
from foretune.finetune.optimisers import AdamWOptimiser, Optimiser

Precision = Literal["full", "bf16"]
"""Forward and backward passes in the model's own precision, or in bfloat16 by autocast."""


@dataclass(frozen=True)
class Proximal:
    """Training on `R~(theta) = R(theta) + lambda/2 ||theta - theta0||^2`.

    Afzal et al., Linearization Explains Fine-Tuning in Large Language Models, Theorem 1. Along gradient descent with
    small steps `R~` never grows, so `||theta_t - theta0|| <= sqrt(2 R(theta0) / lambda)`.

    The selective rule pulls only while `<grad R~(theta_t), theta_t - theta0> >= 0`, and leaves the risk alone while it
    drives the parameters outwards harder than the pull would hold them. The bound survives: where the rule lets go,
    `||grad R|| > lambda ||theta - theta0||`, so that R falls by more than `lambda/2 ||theta - theta0||^2` grows. With
    `grad R` instead of `grad R~` it would not: a risk that falls all the way out would never be pulled at.

    Attributes:
        strength: strength lambda of the proximal penalty, which pulls towards the pretrained weights.
        selective: pull by that rule, with the gradient of the step's batch; else always.

    Raises:
        UsageError: a strength that is not a positive number.
    """

    strength: float
    selective: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise UsageError(f"The proximal strength is {self.strength}; expected a positive number, 0.1 for example.")

    def bound(self, risk: float) -> float:
        """`sqrt(2 R(theta0) / lambda)`, the farthest that the parameters go."""
        return math.sqrt(2 * risk / self.strength)


@dataclass(frozen=True)
class Training:
    """Settings of a run.

    Attributes:
        optimiser: what turns a gradient into a step, with its learning rate.
        loss: what the steps minimise.
        batch_size: examples per step, over all processes; None for all of them (gradient descent).
        micro_batches: split each batch into this many parts, to save memory.
        steps: number of training steps; None for 32 per training example.
        epochs: passes over the training examples, instead of a number of steps.
        evaluate_every: steps between two evaluations; None for an eighth of all steps.
        best_by: choose the best checkpoint by validation score or by validation loss.
        proximal: penalty on the distance from the pretrained weights, if any.
        schedule: schedule of the learning rate: constant, or falling to zero at the last step (linear, cosine).
        clip: clip gradients whose norm is larger than this; None for no clipping.
        dropout: use dropout as the model configures it; without it the model trains in evaluation mode.
        precision: precision of forward and backward passes: full (the model's own), or bf16 (autocast).
        seed: seed for batches and dropout.
        report_to: loggers of `transformers.Trainer`, such as ("tensorboard",).

    Raises:
        UsageError: a number out of range, or both steps and epochs.
    """

    optimiser: Optimiser = field(default_factory=AdamWOptimiser)
    loss: Loss = field(default_factory=CrossEntropy)
    batch_size: int | None = 4
    micro_batches: int = 1
    steps: int | None = None
    epochs: float | None = None
    evaluate_every: int | None = None
    best_by: Choice = "score"
    proximal: Proximal | None = None
    schedule: Schedule = "constant"
    clip: float | None = None
    dropout: bool = True
    precision: Precision = "full"
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batches", "steps", "epochs", "evaluate_every", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value}; expected a number above 0.")
        if self.steps is not None and self.epochs is not None:
            raise UsageError(f"Both steps ({self.steps}) and epochs ({self.epochs}) are given; expected one of them.")
        choices = {
            "best_by": ("score", "loss"),
            "schedule": ("constant", "linear", "cosine"),
            "precision": ("full", "bf16"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(f"Unknown {name} {getattr(self, name)!r}. Expected one of {', '.join(known)}.")

    @property
    def key(self) -> str:
        """What determines a run: the settings, but for whom it reports to."""
        return repr(replace(self, report_to=()))

    def batch_of(self, n: int) -> int:
        """Examples a step, of n."""
        return n if self.batch_size is None else min(self.batch_size, n)

    def steps_for(self, n: int) -> int:
        """Number of steps on n training examples."""
        if self.epochs is not None:
            return math.ceil(self.epochs * n / self.batch_of(n))
        return self.steps or 32 * n

    def interval(self, n: int) -> int:
        """Steps between two evaluations on n training examples."""
        if self.evaluate_every is not None:
            return self.evaluate_every
        return 4 * n if self.steps is None and self.epochs is None else max(1, self.steps_for(n) // 8)
