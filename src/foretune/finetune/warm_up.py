"""A few real steps before anything is measured: the kernel of a model that fine-tuning has begun to move.

The kernel of a network changes fastest at the start of training (Fort et al. 2020, Deep learning versus kernel learning).
A short warm-up pays for these steps and takes kernel, outputs and features behind them.

It trains all parameters in full, at a small rate of AdamW, whatever is to be trained later: the warmed model has the
parameters of the pretrained one under the same names, so that every candidate can still be compared on it. Adapters
would have to be merged, and would favour the blocks that they were on.

It does not rank candidates better, so it is never a default; it predicts the level of the loss more closely.
(`foretune validate --warm-up 4` with MiniLM and a probed head on trec, mr and subj, three seeds, LoRA on 17 sets of
blocks: label regression ranks real runs better on five of the nine and worse on four; simulated Adam misses their
validation loss by 0.053 nats instead of 0.153. On one seed of TREC, with 2 to 32 steps at 2e-5 to 2e-4, the simulated
validation loss ranked better at two of nine settings and worse at six.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from foretune.errors import UsageError
from foretune.finetune.methods import FullTuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.model.outputs import Outputs
from foretune.progress import Progress
from foretune.text.split import Split
from foretune.text.task import Task


@dataclass(frozen=True)
class Warmed:
    """A model after its warm-up.

    Attributes:
        outputs: the same function on the warmed parameters, with the names of the pretrained ones.
        steps: number of steps that were taken.
        seconds: that they took, with two passes over the validation examples; of a warm-up that was kept, then.
    """

    outputs: Outputs
    steps: int
    seconds: float


def warm_up_training(steps: int, batch_size: int = 16) -> Training:
    """The settings of a warm-up, which determine it beside model, data and what trains; see `warmed_outputs`.

    Raises:
        UsageError: steps below one.
    """
    if steps < 1:
        raise UsageError(f"A warm-up of {steps} steps; expected at least one, 2 for example, or no warm-up at all.")
    return Training(
        steps=steps,
        evaluate_every=steps,
        batch_size=batch_size,
        optimiser=AdamWOptimiser(5e-5),
        dropout=False,
    )


def warmed_outputs(
    outputs: Outputs,
    task: Task,
    split: Split,
    steps: int,
    batch_size: int = 16,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Warmed:
    """The model after some steps of full fine-tuning on the training examples, by AdamW at 5e-5 without dropout.

    The last step is kept, whatever validation says of it: neither validation nor test examples have a say.

    Args:
        outputs: the function at the pretrained parameters, which stay as they are.
        task: labels and metric.
        split: training examples, and validation examples for the loss before and after.
        steps: how many.
        batch_size: examples per step.
        out: a folder to keep the run in; a finished one there is read.
        progress: called as the work goes on.

    Raises:
        UsageError: steps below one, a model in half precision, or `out` holds another run.
        NonFiniteError: the loss became infinite or undefined.
        StorageError: `out` cannot be written.
    """
    training = warm_up_training(steps, batch_size)
    if outputs.lm.dtype in (torch.float16, torch.bfloat16):
        raise UsageError(
            f"The model is in {str(outputs.lm.dtype).removeprefix('torch.')}, in which small steps are rounded away. Load "
            "it with dtype='float32' (--dtype float32) for a warm-up."
        )
    run = fine_tuned(outputs, task, replace(split, test=[]), FullTuning(), training, out, progress)
    return Warmed(run.outputs, steps, run.history[-1].seconds)  # without the time that keeping it takes
