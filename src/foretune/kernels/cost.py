"""What a kernel would cost: one batch and one product timed, the rest counted; nothing is kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foretune.gradients.factors import Products
from foretune.kernels.budget import device_bytes
from foretune.kernels.feature_pass import FeatureMaker, pass_sizes
from foretune.kernels.formula import Formula, contracted
from foretune.kernels.inner_product import contraction_flops
from foretune.kernels.job import Job
from foretune.kernels.passing import CHUNK, each_batch
from foretune.kernels.sgd import SGD
from foretune.kernels.sketch import Sketch
from foretune.kernels.tile import Tile, in_pieces_of
from foretune.model.device import clock


@dataclass(frozen=True)
class KernelCost:
    """What a computation would need.

    Attributes:
        train, evaluation: number of training and of other examples.
        blocks, outputs: number of the kernel's blocks and outputs.
        longest: tokens of the longest example.
        batch, rows, columns: examples per forward pass and per tile.
        passes: examples through the model.
        seconds: measured on one batch and one product, extrapolated.
        memory: bytes above the model: factors held, the activations of a batch, and the kernel.
        budget: bytes that are allowed.
        disk: bytes of the kernel folder while it is being written.
    """

    train: int
    evaluation: int
    blocks: int
    outputs: int
    longest: int
    batch: int
    rows: int
    columns: int
    passes: int
    seconds: float
    memory: int
    budget: int
    disk: int


def kernel_cost(job: Job, formulas: Sequence[Formula], memory: str | int) -> KernelCost:
    """Time one batch and its contractions, and extrapolate.

    Raises:
        UsageError: the memory budget is too small.
    """
    job.refuse_too_large(formulas, memory)
    array = sum(job.array_bytes(formula) for formula in formulas)
    plan = job.plan(memory, array)
    source, lengths = job.source, job.source.lengths
    places = _typical(job, plan.batch)
    if job.device.type != "cpu":
        source.capture(places[:1], 1)  # libraries start
    with source.keeping(plan.front):
        start = clock(job.device)
        tile = source.capture(places, plan.batch)
        first = again = clock(job.device) - start
        if source.held_in_front:
            kept = min(1.0, plan.front / (source.held_in_front / len(places) * len(job.columns)))
            start = clock(job.device)
            source.capture(places, plan.batch)
            again = kept * (clock(job.device) - start) + (1 - kept) * first
    capture_seconds = (first * len(lengths) + again * (plan.passes - len(lengths))) / len(places)
    with in_pieces_of(job.sizes(memory).piece):
        contraction = sum(_contraction_seconds(formula, job, tile, plan.passes) for formula in formulas)
    return KernelCost(
        train=job.n,
        evaluation=len(job.columns) - (job.n if job.overlap else 0),
        blocks=sum(len(formula.blocks(job.kinds)) for formula in formulas),
        outputs=source.outputs.n_outputs,
        longest=max(lengths),
        batch=plan.batch,
        rows=plan.rows,
        columns=plan.columns,
        passes=plan.passes,
        seconds=capture_seconds + contraction,
        memory=plan.peak + array,
        budget=device_bytes(memory, job.device),
        disk=2 * array,
    )


def sketch_cost(
    job: Job, formulas: Sequence[Formula], sketch: Sketch, memory: str | int, *, on_disk: bool
) -> KernelCost:
    """Time the features of one batch, and extrapolate: every example goes through the model once.

    Raises:
        UsageError: the memory budget is too small.
    """
    blocks = {formula: formula.blocks(job.kinds) for formula in formulas}
    sizes = pass_sizes(job, blocks, sketch, memory, on_disk=on_disk)
    maker, total = FeatureMaker(job, blocks, sketch, sizes.batch, sizes.once), len(job.columns)
    places = _typical(job, max(sizes.batch, CHUNK))
    start = clock(job.device)
    maker.prepare()
    first = clock(job.device) - start
    for captured in each_batch(job, places[: sizes.batch], sizes.batch):
        maker.features(captured)  # signs are drawn
    start = clock(job.device)
    for captured in each_batch(job, places, sizes.batch):
        maker.features(captured)
    return KernelCost(
        train=job.n,
        evaluation=total - job.n,
        blocks=sum(map(len, blocks.values())),
        outputs=job.source.outputs.n_outputs,
        longest=max(job.source.lengths),
        batch=sizes.batch,
        rows=sizes.batch,
        columns=sizes.batch,
        passes=total,
        seconds=first + (clock(job.device) - start) / len(places) * total,
        memory=0 if on_disk else sizes.held,
        budget=device_bytes(memory, job.device),
        disk=sizes.held,
    )


def _typical(job: Job, count: int) -> list[int]:
    """The places of some examples of middling length."""
    lengths = job.source.lengths
    mean = sum(lengths) / len(lengths)
    return sorted(range(len(lengths)), key=lambda place: abs(lengths[place] - mean))[:count]


def _contraction_seconds(formula: Formula, job: Job, tile: Tile, passes: int) -> float:
    """Products of pairs at the measured rate for the SGD kernel; formed gradients, one example after another, else."""
    examples = sum(len(batch.positions) for batch in tile)
    if isinstance(formula, SGD):
        linear = [factor for batch in tile for factor in batch.factors.values() if isinstance(factor, Products)]
        per_pair = sum(min(contraction_flops([factor], [factor], same=False)) for factor in linear) / examples**2
        pairs = job.n * (len(job.columns) - (job.n / 2 if job.overlap else 0))
        return 2 * per_pair * pairs / product_rate(device=job.device, dtype=tile[0].outputs.dtype)
    start = clock(job.device)
    for _ in contracted(tile, tile, {formula: formula.blocks(job.kinds)}):
        pass
    return (clock(job.device) - start) / examples * passes


def product_rate(
    size: int | None = None,
    repeats: int = 5,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Floating-point operations a second of a product of two square matrices on a device, the median of some."""
    device = device or torch.device("cpu")
    size = size or (1024 if device.type == "cpu" else 4096)
    a = torch.randn(size, size, device=device, dtype=dtype)
    torch.mm(a, a)
    times = []
    for _ in range(repeats):
        start = clock(device)
        torch.mm(a, a)
        times.append(clock(device) - start)
    return 2 * size**3 / statistics.median(times)
