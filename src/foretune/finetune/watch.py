"""What happens beside the steps of `transformers.Trainer`: the proximal pull, measurements, the best checkpoint."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from foretune.errors import NonFiniteError
from foretune.finetune.folder import RunFolder
from foretune.finetune.history import Evaluation, best_of_history
from foretune.finetune.training import Proximal, Training
from foretune.finetune.tuned import Tuned
from foretune.progress import Progress

_LOG = logging.getLogger("foretune.run")


@torch.no_grad()
def pull(tuned: Tuned, proximal: Proximal) -> bool:
    """Add `lambda (theta - theta0)` to the gradients, or not where the rule says so; returns whether it did."""
    moved = [
        (parameter.grad, parameter - tuned.start[name].to(parameter))
        for name, parameter in tuned.trained.items()
        if parameter.grad is not None
    ]
    along = sum((((gradient + proximal.strength * step) * step).double().sum().item() for gradient, step in moved), 0.0)
    if proximal.selective and along < 0:
        return False
    for gradient, step in moved:
        gradient.add_(step.to(gradient), alpha=proximal.strength)
    return True


@dataclass
class Watch(TrainerCallback):
    """Follows one run.

    Attributes:
        tuned: the model in training.
        training: settings of the run.
        bound: bound of the distance, for a proximal run.
        folder: where to write, if anywhere.
        progress: called after every step.
        history: evaluations so far.
        best: trained parameters of the best checkpoint.
    """

    tuned: Tuned
    training: Training
    bound: float | None
    folder: RunFolder | None
    progress: Progress | None
    history: list[Evaluation] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._losses: list[float] = []
        self._pulled = 0
        self._before = self.history[-1].seconds if self.history else 0.0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time of the run."""
        return self._before + time.perf_counter() - self._started

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a loss that is not a number; pull towards the start."""
        loss = self.tuned.take_losses()
        _require_finite("training", loss, state.global_step + 1, _rate(kwargs["optimizer"]))
        self._losses.append(loss)
        if self.training.proximal is not None:
            self._pulled += pull(self.tuned, self.training.proximal)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report progress, and sign the checkpoint that the trainer is going to write."""
        if self.folder is not None and control.should_save and state.is_world_process_zero:
            self.folder.sign(state.global_step)
        if self.progress is not None:
            self.progress("fine-tuning steps", state.global_step, state.max_steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, log, and keep the best checkpoint."""
        metrics, rate = kwargs["metrics"], _rate(kwargs["optimizer"])
        _require_finite("validation", metrics["eval_loss"], state.global_step, rate)
        steps = len(self._losses)
        line = Evaluation(
            step=state.global_step,
            validation_loss=metrics["eval_loss"],
            validation_score=metrics["eval_score"],
            losses=tuple(self._losses),
            learning_rate=rate,
            distance=self.tuned.distance(),
            bound=self.bound,
            pulled=self._pulled / steps if steps and self.training.proximal is not None else None,
            classifier_norms=tuple(self.tuned.classifier_norms()),
            seconds=self.seconds,
        )
        self._losses, self._pulled = [], 0
        _LOG.info("step %d: validation loss %.4f, score %.3f", line.step, line.validation_loss, line.validation_score)
        self.history.append(line)
        best = line.step > 0 and best_of_history(self.history, self.training.best_by) is line
        if best:
            self.best = {name: tensor.cpu().clone() for name, tensor in self.tuned.state_dict().items()}
        if self.folder is not None and state.is_world_process_zero:
            if best:
                self.folder.write_best(self.tuned.state_dict(), line.step)
            self.folder.log(line)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark a checkpoint that is complete."""
        if self.folder is not None and state.is_world_process_zero:
            self.folder.mark(state.global_step)


def _rate(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _require_finite(what: str, loss: float, step: int, rate: float) -> None:
    if not math.isfinite(loss) and step <= (what == "training"):
        raise NonFiniteError(
            f"The {what} loss is {loss} before the first step: the outputs of the model as it was loaded are infinite or "
            "undefined. Compute in a wider range of numbers (--dtype float32 or float64), and look at the weights."
        )
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"The {what} loss is {loss} at step {step} with learning rate {rate:g}. Use a smaller learning rate, "
            f"{rate / 10:g} for example, or limit the gradient's norm (clip=1.0)."
        )
