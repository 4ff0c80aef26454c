"""Kernels of a model on examples: what users call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from foretune.errors import UsageError
from foretune.kernels.block_kernel import BlockKernel, Pattern
from foretune.kernels.engine import Carry, run_job
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job, separate_job
from foretune.kernels.law import check_law
from foretune.kernels.memory_plan import AUTO
from foretune.kernels.passing import batch_within, chunks_of
from foretune.kernels.projected import projected_features_of
from foretune.kernels.projection import Projection
from foretune.kernels.sgd import SGD
from foretune.model.outputs import Outputs
from foretune.progress import Progress
from foretune.shapes import Float64
from foretune.text.example import AnyRows, Example


def block_kernels(
    outputs: Outputs,
    rows: AnyRows,
    columns: AnyRows | None = None,
    formula: Formula | None = None,
    blocks: Pattern | None = None,
    memory: str | int = AUTO,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> BlockKernel:
    """The kernel of every parameter block between `rows` and `columns`.

    Args:
        outputs: the model as a function of its parameters, with c outputs.
        rows: n examples.
        columns: m examples; the rows themselves when left out.
        formula: which kernel; `SGD()` when left out.
        blocks: globs or a predicate on parameter names; all trainable parameters when left out.
        memory: budget above the model's own footprint, such as `"2GiB"`; `"auto"` is that on the CPU, and most of what is
            free on a GPU. On a GPU it is the card's alone, without the kernels, which are on the host.
        out: a folder to write to while computing; an unfinished computation there is resumed.
        progress: called as the work goes on.

    Returns:
        Block kernels of shape (b, n, c, m, c), float64.

    Raises:
        UsageError: no examples, no matching block, or too little memory.
        UsageError: `out` holds another computation.
        NonFiniteError: infinite or undefined activations or gradients, with the module's name.
    """
    job = separate_job(outputs, rows, columns, blocks)
    return run_job(job, [formula or SGD()], memory, [None if out is None else Path(out)], progress)[0]


def joint_kernels(
    outputs: Outputs,
    train: Sequence[Example],
    evaluation: Sequence[Example],
    formula: Formula | None = None,
    blocks: Pattern | None = None,
    memory: str | int = AUTO,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> BlockKernel:
    """The kernel between the training examples and (training, then evaluation) examples, in one pass over the data.

    Args and errors as in `block_kernels`.

    Returns:
        Block kernels of shape (b, n, c, n + m, c): the first n columns are the symmetric training kernel.
    """
    job = joint_job(outputs, train, evaluation, blocks)
    return run_job(job, [formula or SGD()], memory, [None if out is None else Path(out)], progress)[0]


def kernels_of(
    job: Job,
    formulas: Sequence[Formula],
    memory: str | int = AUTO,
    out: str | Path | None = None,
    progress: Progress | None = None,
    started: Callable[[], None] | None = None,
    carry: Carry | None = None,
) -> dict[str, BlockKernel]:
    """The kernels of several formulas from one pass over the data.

    Args:
        job: `separate_job(outputs, rows, columns, blocks)` or `joint_job(outputs, train, evaluation, blocks)`.
        formulas: with different labels.
        memory: budget above the model's own footprint.
        out: each kernel goes to a folder of this name inside; an unfinished computation there is resumed.
        progress: called as the work goes on.
        started: called before the work, once every folder has been found to hold this computation, or nothing.
        carry: makes the tiles, in the folders of `out`.

    Returns:
        Label of the formula (`sgd`, `lora-r8`) -> block kernel.

    Raises:
        UsageError: no formula, or two with the same label; otherwise as in `block_kernels`.
    """
    labels = [formula.label for formula in formulas]
    if not labels or len(set(labels)) < len(labels):
        raise UsageError(f"The formulas are {', '.join(labels) or '(none)'}; expected at least one, each label once.")
    folders = [None if out is None else Path(out) / label for label in labels]
    return dict(zip(labels, run_job(job, formulas, memory, folders, progress, started, carry), strict=True))


@torch.inference_mode(False)
def projected_features(
    outputs: Outputs,
    rows: AnyRows,
    projection: Projection,
    blocks: Pattern | None = None,
    memory: str | int = AUTO,
    progress: Progress | None = None,
) -> Float64[np.ndarray, "n c k"]:
    """The gradient of every example and output, projected to k dimensions; `K = phi phi^T` is the projected kernel.

    Args:
        outputs: the model as a function of its parameters, with c outputs.
        rows: n examples.
        projection: `IntrinsicDimension`, `Rademacher` or `Kronecker`, with k and a seed.
        blocks: globs or a predicate on parameter names; all trainable parameters when left out.
        memory: budget above the model's own footprint.
        progress: called as the work goes on.

    Returns:
        phi of shape (n, c, k), float64.

    Raises:
        UsageError, NonFiniteError: see `block_kernels`.
    """
    job = separate_job(outputs, rows, None, blocks)
    batch = batch_within(job, memory, 8 * job.n * outputs.n_outputs * projection.k)
    check_law(job.source, {projection: projection.blocks(job.kinds)}, chunks_of(job.n)[0], batch)
    return projected_features_of(job, [projection], batch, job.sizes(memory).piece, progress)[projection]
