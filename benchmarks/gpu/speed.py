"""Seconds of kernels on the card, part by part, beside what the card can do.

capture       gradient factors of the examples, beside bare forward and backward passes in the same batches
contraction   the products between factors; its operations as a share of a large matrix product's rate in the same dtype
whole         `kernels_of`, with planning, the law, transfers to the host and the kernel there
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import foretune as ft
from benchmarks.gpu.models import SIZES, SMALL_SIZES, Model, chosen, examples
from benchmarks.gpu.record import Record, Table
from foretune.gradients.factors import Products
from foretune.kernels.formula import Formula, contracted
from foretune.kernels.inner_product import contraction_flops
from foretune.kernels.job import Job, job_description
from foretune.kernels.law import check_law
from foretune.kernels.memory_plan import AUTO
from foretune.kernels.tile import Tile, in_pieces_of
from foretune.model.outputs import Outputs

WORDS = 60
SHARE, PASSES = 0.30, 1.3
"""Targets: of the card's matrix product in the contraction, and of bare passes in the capture at 1B."""
_FORMULAS: tuple[Formula, ...] = (ft.SGD(), ft.LoRA(8))


@dataclass(frozen=True)
class Card:
    """A device, and what a large matrix product reaches on it by dtype, in operations a second."""

    device: str
    peak: dict[torch.dtype, float]

    def sync(self) -> None:
        """Wait for what was started."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call, all of its work done."""
        self.sync()
        start = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - start

    def reset(self) -> int:
        """Free what is not held, and begin to watch memory; bytes held."""
        gc.collect()
        if not self.device.startswith("cuda"):
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    @property
    def most(self) -> int:
        """Largest bytes held since `reset`."""
        return torch.cuda.max_memory_allocated() if self.device.startswith("cuda") else 0


def speed(record: Record, device: str, *, small: bool, names: Sequence[str] = (), least: int = 0) -> None:
    """The section: models of the size that people use, N = 256 and 1,024."""
    dtypes = (torch.float32,) if small else (torch.float32, torch.bfloat16)
    card = Card(device, {dtype: _rate(device, dtype, 256 if small else 8192) for dtype in dtypes})
    for dtype, rate in card.peak.items():
        record.figure(what="matrix product", dtype=str(dtype), tflops=rate / 1e12)
    table = Table(
        "Speed",
        ("model", "N", "kernel", "whole, s", "capture, s", "capture / passes", "contraction, s", "share of product rate",
         "peak, GiB", "planned, GiB"),
        notes=[
            "Matrix product of this run: "
            + ", ".join(f"{rate / 1e12:.0f} TFLOP/s in {str(dtype)[6:]}" for dtype, rate in card.peak.items())
            + f". Texts of about {WORDS + 4} tokens, one output, all parameters. Whole: "
            "one run. Capture: the second of two. Passes and contraction: the faster of two."
        ],
    )  # fmt: skip
    record.tables.append(table)
    counts = (8, 16) if small else (256, 1024)
    known = SMALL_SIZES if small else SIZES
    last: dict[str, float] = {}
    for n in counts:
        for name, model in chosen(names, known).items():
            needed = 20.0 if name not in last else 2.5 * last[name] + 10
            if (least and n > least) or not record.within(f"{name}, N = {n}", 0 if small else needed):
                continue
            start = time.monotonic()
            with record.guarded(f"speed of {name}, N = {n}"):
                _measured(record, table, card, name, model, n)
            last[name] = time.monotonic() - start
            card.reset()


def _measured(record: Record, table: Table, card: Card, name: str, model: Model, n: int) -> None:
    outputs = model.outputs(model.made(model.dtype, card.device).to(card.device), name)
    rows = examples(n, WORDS if n > 16 else 8)
    job = ft.separate_job(outputs, rows, None, None)
    sgd = _FORMULAS[0]
    for formula in _FORMULAS:
        ft.block_kernels(outputs, rows[:16], formula=formula)  # libraries start
    plan = job.plan(AUTO, job.array_bytes(sgd))
    part = range(min(plan.rows, n))
    law = card.seconds(lambda: check_law(job.source, {sgd: sgd.blocks(job.kinds)}, part, plan.batch))
    identity = card.seconds(lambda: job_description(job))
    tile: list[Tile] = []
    for _ in range(2):
        tile.clear()
        capture = card.seconds(lambda: tile.append(job.source.capture(part, plan.batch)))
    bare = min(_bare(card, outputs, job, part, plan.batch) for _ in range(2))
    shared = {"model": name, "n": n, "batch": plan.batch, "rows": plan.rows, "columns": plan.columns}
    record.figure(**shared, capture=capture, bare=bare, examples=len(part), law=law, identity=identity)
    rates = {formula: _contraction(card, job, tile[0], formula) for formula in _FORMULAS}
    flops = _flops(job, tile[0])
    share = flops / rates[sgd] / card.peak[model.dtype]
    labelled = {formula.label: seconds for formula, seconds in rates.items()}
    record.figure(**shared, **labelled, tflop=flops / 1e12, share=share)
    tile.clear()
    for formula in _FORMULAS:
        held = card.reset()
        whole = card.seconds(lambda formula=formula: ft.kernels_of(job, [formula]))
        peak, planned = (card.most - held) / 2**30, plan.peak / 2**30
        record.figure(**shared, formula=formula.label, whole=whole, peak_gib=peak, planned_gib=planned)
        some = "" if len(part) == n else f" ({len(part)} examples)"
        times = (f"{whole:.2f}", f"{capture:.2f}{some}", f"{capture / bare:.2f}", f"{rates[formula]:.3f}{some}")
        shown = f"{share:.0%}" if formula is sgd else ""
        table.rows.append((name, f"{n:,}", formula.label, *times, shown, f"{peak:.1f}", f"{planned:.1f}"))
        if card.device.startswith("cuda") and peak > planned:
            record.misses.append(f"{name}, N = {n}, {formula.label}: {peak:.1f} GiB against {planned:.1f} GiB planned")
    if share < SHARE:
        record.misses.append(f"{name}, N = {n}: contraction at {share:.0%} of the product rate; target {SHARE:.0%}")
    if "1.2B" in name and capture > PASSES * bare:
        record.misses.append(f"{name}, N = {n}: capture takes {capture / bare:.2f} times bare passes; target {PASSES}")


def _contraction(card: Card, job: Job, tile: Tile, formula: Formula) -> float:
    """The faster of two contractions of a tile with itself, kernels left on the card."""
    names = {formula: formula.blocks(job.kinds)}

    def work() -> None:
        with in_pieces_of(job.sizes(AUTO).piece):
            for _ in contracted(tile, tile, names):
                pass

    return min(card.seconds(work) for _ in range(2))


def _flops(job: Job, tile: Tile) -> float:
    """Operations of the cheaper way to contract each linear block, one triangle."""
    total = 0.0
    for name in job.source.parameters:
        used = [batch.factors[name] for batch in tile if isinstance(batch.factors.get(name), Products)]
        if used:
            total += 2 * min(contraction_flops(used, used, same=True, weighted=False))
    return total


def _bare(card: Card, outputs: Outputs, job: Job, part: range, batch: int) -> float:
    """Forward and backward passes alone, the graph started at the embedding output, in the batches of a capture."""
    encoded = sorted((job.source.encoded[place] for place in part), key=lambda item: -len(item.ids))
    size = 1 if job.source.single else batch
    table = next(module for module in outputs.module.modules() if isinstance(module, torch.nn.Embedding))
    started: list[torch.Tensor] = []

    def begin(_module: torch.nn.Module, _args: tuple, result: torch.Tensor) -> torch.Tensor:
        started.append(result.requires_grad_())
        return result.clone()

    def passes() -> None:
        for first in range(0, len(encoded), size):
            logits = outputs.forward(outputs.collate(encoded[first : first + size]))
            torch.autograd.grad(logits.sum(), started[-1:])
            started.clear()

    handle = table.register_forward_hook(begin)
    try:
        return card.seconds(passes)
    finally:
        handle.remove()


def _rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a large matrix product on random numbers, the median of some."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    card = Card(device, {})
    for _ in range(2):
        a @ b
    return 2 * size**3 / statistics.median(card.seconds(lambda: a @ b) for _ in range(7))
