"""What fine-tuning would cost: steps and evaluations counted, one batch of each stage timed, nothing kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foretune.finetune.data import Collator, Encodings, encoded_split
from foretune.finetune.methods import LinearProbing, Method, ProbedFirst
from foretune.finetune.quiet import restored_global_state
from foretune.finetune.run import tuned_by
from foretune.finetune.training import Training
from foretune.model.device import clock
from foretune.model.outputs import Outputs
from foretune.text.task import Split, Task


@dataclass(frozen=True)
class TrainingCost:
    """What some runs would need.

    Attributes:
        runs: number of runs.
        steps: training steps of all runs and stages together.
        evaluations: evaluations on the validation examples, of all runs and stages together.
        trained: number of parameters that the last stage trains.
        seconds: measured on one batch of each stage, extrapolated.
    """

    runs: int
    steps: int
    evaluations: int
    trained: int
    seconds: float


@dataclass(frozen=True)
class _Stage:
    """One stage of a run.

    Attributes:
        trained: number of its parameters.
        step, evaluation: seconds per example of a training step, and of an evaluation.
    """

    trained: int
    step: float
    evaluation: float


def training_cost(outputs: Outputs, task: Task, split: Split, method: Method, grid: Sequence[Training]) -> TrainingCost:
    """Time one batch of each stage, and extrapolate.

    Args:
        outputs, task, split, method: as in `fine_tuned`.
        grid: the settings of each run.

    Raises:
        UsageError: the method does not fit the model.
        DataError: no training or validation examples.
    """
    methods = [LinearProbing(), method.then] if isinstance(method, ProbedFirst) else [method]
    if not grid:
        return TrainingCost(0, 0, 0, 0, 0.0)
    with restored_global_state(outputs.lm.device):
        stages = [_timed(outputs, task, split, each, grid[0]) for each in methods]
    n, validation, test = len(split.train), len(split.validation), len(split.test)
    steps = [training.steps_for(n) for training in grid]
    evaluations = [1 + math.ceil(count / training.interval(n)) for count, training in zip(steps, grid, strict=True)]
    seconds = sum(
        count * training.batch_of(n) * stage.step + (evaluated * validation + test) * stage.evaluation
        for count, evaluated, training in zip(steps, evaluations, grid, strict=True)
        for stage in stages
    )
    return TrainingCost(
        len(grid), len(stages) * sum(steps), len(stages) * sum(evaluations), stages[-1].trained, seconds
    )


def _timed(outputs: Outputs, task: Task, split: Split, method: Method, training: Training) -> _Stage:
    """The cost of an example, of a second pass over one batch: the first pays for what is made once."""
    started = method.start(outputs)
    names, rows = method.names(started), encoded_split(started, task, split).train
    tuned, device = tuned_by(method, started, names, training), started.lm.device
    batch = _batch(started, rows, max(1, training.batch_of(len(rows)) // training.micro_batches))
    size = len(batch["labels"])
    step = evaluation = 0.0
    for _ in range(2):
        start = clock(device)
        tuned(**batch)["loss"].backward()
        step = clock(device) - start
        start = clock(device)
        with torch.no_grad():
            tuned(**batch)
        evaluation = clock(device) - start
    return _Stage(tuned.n_trained, step / size, evaluation / size)


def _batch(outputs: Outputs, rows: Encodings, size: int) -> dict[str, torch.Tensor]:
    """The first examples, as a step reads them."""
    return dict(Collator(outputs)([rows[place] for place in range(min(size, len(rows)))]))
