"""One silent run of `transformers.Trainer`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import Tensor

from foretune.analysis.scores import predicted_classes, score
from foretune.errors import UsageError
from foretune.finetune.data import Collator, EncodedSplit
from foretune.finetune.folder import RunFolder
from foretune.finetune.followers import Followers
from foretune.finetune.history import Evaluation
from foretune.finetune.trackers import logs_in, refuse_missing_trackers
from foretune.finetune.training import Training
from foretune.finetune.tuned import Tuned
from foretune.finetune.watch import Watch
from foretune.progress import Progress
from foretune.shapes import Float
from foretune.store.workspace import temporary_folder


@dataclass(frozen=True)
class TrainingResult:
    """What a trainer leaves behind: history, parameters of the best checkpoint, their test logits, seconds."""

    history: list[Evaluation]
    best: dict[str, Tensor]
    test_logits: Float[np.ndarray, "m c"]
    seconds: float


def train(
    tuned: Tuned,
    data: EncodedSplit,
    metric: str,
    training: Training,
    folder: RunFolder | None,
    followers: Followers,
) -> TrainingResult:
    """Train to the end, from the last complete checkpoint in the folder if there is one; `tuned` ends with the best.

    Raises:
        UsageError: a tracker is not installed.
        NonFiniteError: the loss became infinite or undefined.
    """
    refuse_missing_trackers(training.report_to)
    with temporary_folder() if folder is None else nullcontext(folder.checkpoints) as where:
        resumed = None if folder is None else folder.resumable()
        with logs_in(None if folder is None else folder.path / "tensorboard"):
            trainer = _trainer(tuned, data, metric, training, _arguments(tuned, data, training, where, resumed, folder))
        watch = _watch(trainer, tuned, data, training, folder, followers.progress, resumed)
        trainer.add_callback(watch)
        # before the trackers, which draw what these add to a log
        trainer.callback_handler.callbacks[:0] = followers.callbacks
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        tuned.load_state_dict(watch.best)
        seconds = watch.seconds
        return TrainingResult(watch.history, watch.best, _test_logits(trainer, data, tuned.outputs.n_outputs), seconds)


def _test_logits(trainer: transformers.Trainer, data: EncodedSplit, outputs: int) -> Float[np.ndarray, "m c"]:
    if not len(data.test):
        return np.zeros((0, outputs))
    found: Any = trainer.predict(data.test)  # pyright: ignore[reportArgumentType]
    return np.asarray(found.predictions, dtype=np.float64)


def _watch(
    trainer: transformers.Trainer,
    tuned: Tuned,
    data: EncodedSplit,
    training: Training,
    folder: RunFolder | None,
    progress: Progress | None,
    resumed: Path | None,
) -> Watch:
    bound = None
    if training.proximal is not None:
        metrics = trainer.predict(data.train, metric_key_prefix="start").metrics or {}  # pyright: ignore[reportArgumentType]
        bound = training.proximal.bound(metrics["start_loss"])
    if folder is None or resumed is None:
        return Watch(tuned, training, bound, folder, progress)
    return Watch(tuned, training, bound, folder, progress, folder.history(), folder.best())


def _trainer(
    tuned: Tuned, data: EncodedSplit, metric: str, training: Training, arguments: transformers.TrainingArguments
) -> transformers.Trainer:
    def metrics(found: Any) -> dict[str, float]:
        return {"score": score(found.label_ids, predicted_classes(found.predictions), metric)}

    choice: Any = data
    trainer = transformers.Trainer(
        model=tuned,
        args=arguments,
        data_collator=Collator(tuned.outputs),
        train_dataset=choice.train,
        eval_dataset=choice.validation,
        compute_metrics=metrics,
        optimizers=(training.optimiser.on(tuned.trained.values()), None),  # the schedule is the trainer's
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _arguments(
    tuned: Tuned, data: EncodedSplit, training: Training, where: Path, resumed: Path | None, folder: RunFolder | None
) -> transformers.TrainingArguments:
    n = len(data.train)
    every = training.interval(n)
    micro = _micro_batch(training.batch_of(n), training.micro_batches)
    arguments = transformers.TrainingArguments(
        output_dir=str(where),
        max_steps=training.steps_for(n),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=max(32, micro),
        gradient_accumulation_steps=training.micro_batches,
        learning_rate=training.optimiser.learning_rate,
        lr_scheduler_type=training.schedule,
        max_grad_norm=training.clip or 0.0,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=resumed is None,
        save_strategy="no" if folder is None else "steps",
        save_steps=every,
        save_total_limit=2,
        seed=training.seed,
        bf16=training.precision == "bf16",
        use_cpu=tuned.outputs.lm.device.type == "cpu",
        logging_strategy="steps" if training.report_to else "no",
        logging_steps=every,
        logging_nan_inf_filter=False,
        report_to=list(training.report_to) or "none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
    )
    _ = arguments.device  # decides how many devices there are
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process a GPU (torchrun): replicas would share hidden references
    return arguments


def _micro_batch(batch: int, parts: int) -> int:
    """Examples that one process passes through the model at a time."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes * parts > 1 and batch % (processes * parts):
        raise UsageError(
            f"A batch of {batch} cannot be cut into {parts} equal parts on {processes} process(es). Choose a batch_size "
            f"that is a multiple of {processes * parts}."
        )
    return batch // (processes * parts)
