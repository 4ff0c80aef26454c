"""Time, memory and disk of a kernel, before it is computed, and the page that says so."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from foretune.gradients.factors import Products
from foretune.kernels.budget import device_bytes
from foretune.kernels.feature_pass import pass_sizes
from foretune.kernels.formula import Formula, contracted
from foretune.kernels.job import Job
from foretune.kernels.sgd import SGD, contraction_flops
from foretune.kernels.sketch import Sketch, Sketcher
from foretune.kernels.tile import Tile, in_pieces_of
from foretune.model.device import clock
from foretune.page import Column, Fact, Page, Table

_MIB = 2**20


@dataclass(frozen=True)
class Estimate:
    """What a computation would need.

    Attributes:
        train, evaluation: number of training and of other examples.
        blocks, outputs: number of the kernel's blocks and outputs.
        longest: tokens of the longest example.
        batch, rows, columns: examples per forward pass and per tile.
        passes: examples through the model.
        seconds: measured on one batch and one product, extrapolated.
        memory: bytes above the model: factors held, the activations of a batch, and the kernel.
        budget: bytes allowed.
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


def estimate(job: Job, formulas: Sequence[Formula], memory: str | int) -> Estimate:
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
    start = clock(job.device)
    tile = source.capture(places, plan.batch)
    capture_seconds = (clock(job.device) - start) / len(places) * plan.passes
    with in_pieces_of(job.sizes(memory).piece):
        contraction = sum(_contraction_seconds(formula, job, tile, plan.passes) for formula in formulas)
    return Estimate(
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


def sketch_estimate(
    job: Job, formulas: Sequence[Formula], sketch: Sketch, memory: str | int, *, on_disk: bool
) -> Estimate:
    """Time one batch and its sketch, and extrapolate: every example goes through the model once.

    Raises:
        UsageError: the memory budget is too small.
    """
    blocks = {formula: formula.blocks(job.kinds) for formula in formulas}
    batch, held = pass_sizes(job, blocks, sketch, memory, on_disk=on_disk)
    places, sketcher = _typical(job, batch), Sketcher(sketch)
    start = clock(job.device)
    for _ in range(2):  # the first draws the signs
        start = clock(job.device)
        for captured in job.source.capture(places, batch):
            sketcher.features(captured, blocks)
    total = len(job.columns)
    return Estimate(
        train=job.n,
        evaluation=total - job.n,
        blocks=sum(map(len, blocks.values())),
        outputs=job.source.outputs.n_outputs,
        longest=max(job.source.lengths),
        batch=batch,
        rows=batch,
        columns=batch,
        passes=total,
        seconds=(clock(job.device) - start) / len(places) * total,
        memory=0 if on_disk else held,
        budget=device_bytes(memory, job.device),
        disk=held,
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


@dataclass(frozen=True, kw_only=True)
class PlanData(Estimate):
    """An estimate for programs.

    Attributes:
        about: what was read and what would be asked.
    """

    about: Mapping[str, Any]


def plan_page(found: Estimate, about: tuple[Fact, ...], data: object) -> Page:
    """What a computation would need, why, and what makes it cheaper.

    Args:
        found: the estimate.
        about: what was read and would be asked.
        data: the same for programs.
    """
    rows = (
        ("examples (training x evaluation)", f"{found.train} x {found.evaluation}"),
        ("parameter blocks, outputs", f"{found.blocks}, {found.outputs}"),
        ("longest example", f"{found.longest} tokens"),
        ("examples per forward pass / row tile / column tile", f"{found.batch} / {found.rows} / {found.columns}"),
        ("examples through the model", f"{found.passes}"),
        ("time", f"about {found.seconds:,.0f} s"),
        ("memory above the model", f"about {found.memory / _MIB:,.0f} MiB of {found.budget / _MIB:,.0f} MiB"),
        ("disk with --out", f"{found.disk / _MIB:,.1f} MiB"),
    )
    caption = "The model was loaded and one batch was timed; no kernel was computed"
    return Page(
        title="Plan",
        answer=(
            f"About {found.seconds:,.0f} s, {found.memory / _MIB:,.0f} MiB of memory above the model, and "
            f"{found.disk / _MIB:,.1f} MiB of disk with --out."
        ),
        about=about,
        tables=(Table((Column("what", words=True), Column("how much", words=False)), rows, caption),),
        findings=tuple(_reasons(found)),
        kind="plan",
        data=data,
    )


def _reasons(needed: Estimate) -> list[str]:
    """What the time and the size of a plan grow with, and which options change that."""
    held = needed.train + needed.evaluation
    found = [
        "Time and size grow with the examples (--k, --test), the length of the texts (--max-length) and the parameters "
        "(--layers, --blocks, --exclude-embeddings)."
    ]
    if needed.outputs > 1:
        found.append(
            f"{needed.outputs} outputs mean {needed.outputs} backward passes for each example, and a kernel "
            f"{needed.outputs**2} times as large as that of one output. Data with fewer labels needs less"
            f"{'; two labels need one output without --no-difference' if needed.outputs == 2 else ''}."
        )
    if needed.passes > held:
        found.append(
            f"{needed.passes:,} passes for {held:,} examples: the factors of all of them do not fit into "
            f"{needed.budget / _MIB:,.0f} MiB, so that some are computed again. A larger --memory needs fewer."
        )
    return found
