"""Fine-tuning: one function, from outputs and a split to a run.

Malladi et al. 2023, Appendix A, gives the settings that are used when others are not; see `Training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from foretune.analysis.scores import Score, predicted_classes, scored
from foretune.errors import NonFiniteError, UsageError
from foretune.finetune.copies import outputs_on
from foretune.finetune.data import EncodedSplit, data_hash, encoded_split
from foretune.finetune.folder import FIRST_STAGE, SECOND_STAGE, RunFolder
from foretune.finetune.followers import Followers
from foretune.finetune.history import Evaluation, best_of_history
from foretune.finetune.learnable import refuse_unlearnable
from foretune.finetune.methods import Linearized, LinearProbing, Method, ProbedFirst
from foretune.finetune.quiet import restored_global_state
from foretune.finetune.training import Training
from foretune.finetune.tuned import LinearTuned, Tuned
from foretune.model.fingerprint import outputs_identity, versions_of
from foretune.model.outputs import Outputs
from foretune.progress import Progress
from foretune.shapes import Float, Int
from foretune.store.atomic import library_writes
from foretune.text.task import Split, Task

if TYPE_CHECKING:
    from foretune.finetune.engine import TrainingResult


@dataclass(frozen=True)
class Run:
    """The result of fine-tuning.

    Attributes:
        method, training: what was asked for.
        outputs: the function on the weights of the best checkpoint, for kernels and features; of a linearized run the
            network itself on those weights, while `test_logits` are those of the Taylor model.
        history: an evaluation at the start and at every interval.
        test_logits: test logits of the best checkpoint.
        test_score: with its interval; None without test examples.
        parameters_before, parameters_after: the trained ones by name, at the start and of the best checkpoint.
        seconds: seconds of training.
        probing: the first stage of a run that began with linear probing.
    """

    method: Method
    training: Training
    outputs: Outputs
    history: tuple[Evaluation, ...]
    test_logits: Float[np.ndarray, "m c"]
    test_score: Score | None
    parameters_before: Mapping[str, Tensor]
    parameters_after: Mapping[str, Tensor]
    seconds: float
    probing: Run | None = None

    @property
    def best(self) -> Evaluation:
        """The evaluation whose checkpoint was kept."""
        return best_of_history(self.history, self.training.best_by)

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of the training batch of every step, before the step."""
        return tuple(loss for line in self.history for loss in line.losses)

    @property
    def n_trained(self) -> int:
        """How many numbers were trained."""
        return sum(tensor.numel() for tensor in self.parameters_after.values())

    @property
    def predictions(self) -> Int[np.ndarray, " m"]:
        """The predicted classes of the test examples."""
        return predicted_classes(self.test_logits)


def fine_tuned(
    outputs: Outputs,
    task: Task,
    split: Split,
    method: Method,
    training: Training | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Any] = (),
) -> Run:
    """Fine-tune a copy of the model of `outputs`; the model itself keeps its weights.

    Args:
        outputs: `ft.AnswerLogits` or `ft.HeadLogits`.
        task: labels and metric.
        split: training, validation and test examples.
        method: what is trained, for example `METHODS["lora"]` or `LoRATuning(rank=4)`.
        training: optimiser, loss, steps; the paper's when left out.
        out: a folder to write to; an unfinished run of the same settings there is resumed, a finished one read.
        progress: called as the work goes on.
        callbacks: `transformers.TrainerCallback`s that follow every stage, before the trackers of `report_to`.

    Raises:
        UsageError: the method does not fit the model, or `out` holds another run.
        DataError: no training or validation examples.
        ModelError: every gradient of what is trained is zero, or the same for all training examples.
        NonFiniteError: the loss became infinite or undefined; with the step and the learning rate.
        StorageError: `out` cannot be written.
    """
    training = training or Training()
    folder = None if out is None else Path(out)
    if isinstance(method, ProbedFirst):
        stage = replace(training, optimiser=method.probing, proximal=None)
        first = fine_tuned(
            outputs, task, split, LinearProbing(), stage, folder and folder / FIRST_STAGE, progress, callbacks
        )
        last = folder and folder / SECOND_STAGE
        second = fine_tuned(first.outputs, task, split, method.then, training, last, progress, callbacks)
        return replace(second, method=method, probing=first)
    if isinstance(method, Linearized) and training.precision != "full":
        raise UsageError("The linearized model is exact and so needs full precision. Use precision='full'.")
    followers = Followers(progress, tuple(callbacks))
    with restored_global_state(outputs.lm.device):
        return _one_stage(outputs, task, split, method, training, folder, followers)


def tuned_by(method: Method, started: Outputs, names: Sequence[str], training: Training) -> Tuned:
    """The module that a trainer sees for a method.

    Args:
        method: decides whether the model is linearized.
        started: where training starts, on a model of its own.
        names: what is trained.
        training: loss and dropout.
    """
    if isinstance(method, Linearized):
        return LinearTuned(started, names, training.loss)
    return Tuned(started, names, training.loss, dropout=training.dropout)


def _one_stage(
    outputs: Outputs,
    task: Task,
    split: Split,
    method: Method,
    training: Training,
    out: Path | None,
    followers: Followers,
) -> Run:
    """See `fine_tuned`."""
    started = method.start(outputs)
    data = encoded_split(started, task, split)
    folder = None if out is None else RunFolder(out, _identity(outputs, task, data, method, training))
    names = method.names(started)
    tuned = tuned_by(method, started, names, training)
    result = _kept_or_trained(tuned, data, task, training, folder, followers)
    return _run(tuned, result, data, task, method, training)


def _kept_or_trained(
    tuned: Tuned,
    data: EncodedSplit,
    task: Task,
    training: Training,
    folder: RunFolder | None,
    followers: Followers,
) -> TrainingResult:
    """Train, or read what was trained before."""
    if folder is not None and folder.finished:
        return _read(folder)
    if folder is not None and folder.failure is not None:
        raise NonFiniteError(folder.failure)
    if folder is None:
        return _train_to_end(tuned, data, task, training, None, followers)
    with folder.writing():
        if folder.finished:  # by another process, since
            return _read(folder)
        return _train_to_end(tuned, data, task, training, folder, followers)


def _read(folder: RunFolder) -> TrainingResult:
    """What a finished run left in its folder."""
    from foretune.finetune.engine import TrainingResult

    numbers, logits = folder.result()
    return TrainingResult(folder.history(), folder.best(), logits, numbers["seconds"])


def _train_to_end(
    tuned: Tuned,
    data: EncodedSplit,
    task: Task,
    training: Training,
    folder: RunFolder | None,
    followers: Followers,
) -> TrainingResult:
    """Train, and keep the result."""
    from foretune.finetune.engine import train

    refuse_unlearnable(tuned.outputs, tuned.trained, data.train.encoded)
    with nullcontext() if folder is None else library_writes(folder.path):
        try:
            result = train(tuned, data, task.metric, training, folder, followers)
        except NonFiniteError as error:
            if folder is not None:
                folder.fail(str(error))
            raise
    if folder is not None:
        found = _test_score(result.test_logits, data, task)
        chosen = best_of_history(result.history, training.best_by)
        numbers: dict[str, Any] = {
            "step": chosen.step,
            "steps": result.history[-1].step,
            "validation_score": chosen.validation_score,
            "validation_loss": chosen.validation_loss,
            "metric": task.metric,
            "test_score": None if found is None else {"value": found.value, "low": found.low, "high": found.high},
            "trained_parameters": tuned.n_trained,
            "seconds": result.seconds,
        }
        folder.finish(numbers, result.test_logits)
    return result


def _test_score(logits: Float[np.ndarray, "m c"], data: EncodedSplit, task: Task) -> Score | None:
    if not len(logits):
        return None
    return scored(np.array(data.test.labels), predicted_classes(logits), task.metric)


def _run(
    tuned: Tuned, result: TrainingResult, data: EncodedSplit, task: Task, method: Method, training: Training
) -> Run:
    """The run with its outputs on the best parameters, in one memory with the copy of the language model."""
    lm = tuned.outputs.lm
    tuned.load_state_dict(result.best)
    with torch.no_grad():
        for name, parameter in lm.module.named_parameters():
            if name in result.best:
                parameter.copy_(result.best[name])
    outputs = outputs_on(lm, tuned.outputs)
    after = outputs.parameters()
    return Run(
        method=method,
        training=training,
        outputs=outputs,
        history=tuple(result.history),
        test_logits=result.test_logits,
        test_score=_test_score(result.test_logits, data, task),
        parameters_before=tuned.start,
        parameters_after={name: after[name] for name in tuned.trained},
        seconds=result.seconds,
    )


def _identity(
    outputs: Outputs, task: Task, data: EncodedSplit, method: Method, training: Training
) -> dict[str, object]:
    """Everything that determines a run."""
    return {
        **outputs_identity(outputs),
        "labels": list(task.labels),
        "metric": task.metric,
        "train": data_hash(data.train.rows),
        "validation": data_hash(data.validation.rows),
        "test": data_hash(data.test.rows),
        "method": repr(method),
        "training": training.key,
        "versions": versions_of("torch", "transformers", "peft"),
    }
