"""How much fits: tile sizes that keep a kernel computation within a memory budget.

Examples are processed in batches of similar length; the factors of a tile of batches are held while every tile of
columns passes by. The sizes are planned from one measured example: bytes of factors and of saved activations per token.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import UsageError

_PASS_TOKENS = 256
"""A forward and backward pass costs as much as so many tokens more, however few it has: small batches are slow."""
_UNITS = {
    "": 1,
    "b": 1,
    "byte": 1,
    "bytes": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
CHUNK_BYTES = 12 * 2**20
"""Work is done on pieces of this size: two of them stay within a usual last-level cache."""
BATCH = 8
"""Examples per forward pass: small enough that similar lengths meet, large enough for efficient products."""
_ALLOCATOR = 0.85
"""Share of the budget that tensors may fill; the rest is what the allocator keeps between them."""
_FRONT = 0.125
"""Share of the budget for what enters the first wanted layer, at most."""
_SAVED = 1 / 3
"""Share of a pass that it saves at least: half of the layers' forward passes of these and as much again behind them."""
_PIECES = 8
"""Pieces of work kept free for chunks of formed gradients, products and the allocator."""
AUTO = "auto"
_USUAL = 2 * 2**30
"""The budget where none is given."""


def memory_bytes(memory: str | int) -> int:
    """A budget such as `"2GiB"`, `"500MB"` or a number of bytes, in bytes; `"auto"` is 2 GiB.

    Raises:
        UsageError: it cannot be read or is not positive.
    """
    if memory == AUTO:
        return _USUAL
    if isinstance(memory, int):
        amount = float(memory)
    else:
        found = re.fullmatch(r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)\s*", memory)
        unit = _UNITS.get(found[2].lower()) if found else None
        if found is None or unit is None:
            raise UsageError(f"Cannot read the memory budget {memory!r}. Write for example 2GiB, 500MB or 4e9 bytes.")
        amount = float(found[1]) * unit
    if not 0 < amount < math.inf:
        raise UsageError(f"The memory budget is {memory!r}; expected more than zero, and a finite amount.")
    return int(amount)


@dataclass(frozen=True)
class Footprint:
    """What one example costs to hold, measured on one.

    Attributes:
        fixed: bytes of factors whatever the length (biases, norm weights, materialised blocks).
        token: bytes of factors per token.
        graph: bytes per token that live besides the factors while these are being computed.
        front: bytes per token of what enters the first wanted layer, where it is worth keeping; else 0.
    """

    fixed: int
    token: float
    graph: float
    front: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """How work is cut.

    Attributes:
        batch: examples per forward pass at most.
        piece: bytes of a piece of work.
        pair: bytes that a contraction holds for each pair of examples, beside its pieces.
    """

    batch: int = BATCH
    piece: int = CHUNK_BYTES
    pair: int = 0

    @property
    def reserve(self) -> int:
        """Bytes kept free for pieces of work."""
        return _PIECES * self.piece

    @property
    def batches(self) -> list[int]:
        """Examples per forward pass that are tried."""
        return [self.batch >> halved for halved in range(self.batch.bit_length())]


@dataclass(frozen=True)
class TilePlan:
    """Tile sizes.

    Attributes:
        batch: examples per forward pass.
        rows, columns: examples per tile; `columns` covers all of them when everything fits.
        passes: how many examples go through the model in all.
        peak: bytes of factors, activations and work space at most.
        front: how many of them are for what enters the first wanted layer of examples that come again.
    """

    batch: int
    rows: int
    columns: int
    passes: int
    peak: int
    front: int = 0


def tile_plan(
    footprint: Footprint,
    lengths: tuple[Sequence[int], Sequence[int]],
    budget: int,
    arrays: int = 0,
    *,
    overlap: bool,
    single: bool,
    sizes: Sizes = Sizes(),
) -> TilePlan:
    """Tile sizes that keep factors and activations within `budget` bytes.

    Args:
        footprint: bytes per example and token.
        lengths: tokens of the row examples and of the column examples.
        budget: bytes above the model's own.
        arrays: how many of them the kernels themselves take.
        overlap: the columns begin with the rows themselves (a symmetric part), so that these need no second copy.
        single: one example per forward pass.
        sizes: how work is cut.

    Raises:
        UsageError: not even one example against another fits; the message says how much is needed.
    """
    refuse_too_large(arrays, budget)
    rows, columns = lengths
    n, m = len(rows), len(columns)
    streamed = [part for part in (columns[n:] if overlap else columns,) if part]  # the rows are held already
    reserve, most = sizes.reserve + sizes.pair * n * m, sizes.batch
    longest = max((*rows, *columns))
    padded = sum(max(columns[start : start + most]) * most for start in range(0, m, most))  # in any tiles, at most
    plans = []
    for batch in [1] if single else sizes.batches:
        graph = int(batch * longest * footprint.graph)
        room = int((budget - arrays) * _ALLOCATOR) - reserve - graph
        everything = _held(footprint, columns if overlap else (*rows, *columns), most)
        held = _held(footprint, rows, most)
        if everything <= room:
            plans.append(TilePlan(batch, n, m, m if overlap else n + m, everything + graph + reserve))
            continue
        beside = _widest(footprint, streamed, room - held, batch, most)  # all rows held, columns in a stream
        if beside:
            peak = held + _largest(footprint, streamed, beside, most) + graph + reserve
            plans.append(TilePlan(batch, n, beside, m if overlap else n + m, peak))
        for front in {0, min(int(budget * _FRONT), int(footprint.front * padded))}:
            half = _widest(footprint, [rows, *streamed], (room - front) // 2, batch, most)
            if half:
                peak = 2 * _largest(footprint, [rows, *streamed], half, most) + graph + reserve + front
                plans.append(TilePlan(batch, min(n, half), min(m, half), n + -(-n // half) * m, peak, front))
    if plans and arrays <= budget // 2:
        mean = sum(columns) / m
        once = m if overlap else n + m

        def cost(plan: TilePlan) -> float:
            saved = _SAVED * plan.front / (footprint.front * padded) if plan.front else 0.0
            return (plan.passes - saved * (plan.passes - once)) * (mean + _PASS_TOKENS / plan.batch)

        return min(plans, key=lambda plan: (cost(plan), -plan.batch))
    pair = reserve + footprint.graph * longest + 2 * (footprint.fixed + footprint.token * longest)
    needed = max(2 * arrays, arrays + pair / _ALLOCATOR)
    raise UsageError(
        f"The memory budget of {memory_text(budget)} is too small: {memory_text(needed)} are needed, "
        f"{memory_text(arrays)} of them for the kernels themselves (half of the budget at most) and the rest for two "
        f"examples of {longest} tokens. Use --memory "
        f"{memory_text(needed).replace(' ', '')}, fewer examples, --blocks, or a smaller --max-length."
    )


def one_pass_batch(
    footprint: Footprint, longest: int, budget: int, beside: int, *, single: bool, sizes: Sizes = Sizes()
) -> int:
    """Examples per forward pass that fit into `budget` bytes when every batch is forgotten before the next.

    Args:
        footprint: bytes per example and token.
        longest: tokens of the longest example.
        budget: bytes above the model's own.
        beside: how many of them are taken by what is held for longer.
        single: one example per forward pass.
        sizes: how work is cut.

    Raises:
        UsageError: not even one example fits; the message says how much is needed.
    """
    each = footprint.fixed + longest * (footprint.token + footprint.graph)
    for batch in [1] if single else sizes.batches:
        if beside + sizes.reserve + batch * each <= budget * _ALLOCATOR:
            return batch
    needed = memory_text((beside + sizes.reserve + each) / _ALLOCATOR)
    raise UsageError(
        f"The memory budget of {memory_text(budget)} is too small: {needed} are needed for one example of {longest} tokens "
        f"at a time. Use --memory {needed.replace(' ', '')}, --blocks, or a smaller --max-length."
    )


def refuse_too_large(arrays: int, budget: int) -> None:
    """See that kernels fit into half of a budget, and into this machine.

    Args:
        arrays: bytes of the kernels.
        budget: bytes allowed.

    Raises:
        UsageError: they do not, and no larger budget helps here; the message says what makes them smaller.
    """
    here = machine_memory()
    if 2 * arrays > here and (arrays > budget // 2 or arrays > here):
        raise UsageError(
            f"The kernels take {memory_text(arrays)}, too many for this machine's {memory_text(here)} of memory (half of "
            "it at most). They grow with the number of parameter blocks, and with the squares of the numbers of labels and "
            "of examples. Choose fewer labels (--labels a,b), fewer examples (--k, --test), fewer blocks (--layers 10,11 "
            "or --blocks) or one kernel (--formula sgd of `foretune kernel`)."
        )


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 2**63


def memory_text(size: int | float) -> str:
    """A number of bytes in MiB, rounded up, or in GiB from 10 GiB on."""
    return f"{math.ceil(size / 2**20 + 1)} MiB" if size < 10 * 2**30 else f"{math.ceil(size / 2**30)} GiB"


def _held(footprint: Footprint, lengths: Sequence[int], most: int) -> int:
    """Bytes of the factors of some examples, padded in batches of similar length, `most` examples each."""
    ordered = sorted(lengths, reverse=True)
    tokens = sum(ordered[start] * len(ordered[start : start + most]) for start in range(0, len(ordered), most))
    return int(footprint.fixed * len(lengths) + footprint.token * tokens)


def _largest(footprint: Footprint, runs: Sequence[Sequence[int]], size: int, most: int) -> int:
    """Bytes of the largest tile when runs of examples are cut into tiles of `size`, none across two runs."""
    tiles = (run[start : start + size] for run in runs for start in range(0, len(run), size))
    return max(_held(footprint, tile, most) for tile in tiles)


def _widest(footprint: Footprint, runs: Sequence[Sequence[int]], room: int, batch: int, most: int) -> int:
    """A number of examples, a multiple of `batch`, whose tiles fit into `room` bytes, as hardly larger ones do; 0 for none.

    Found by halving: larger tiles hold more, but for where they happen to be cut.
    """
    low, high = 0, -(-max(map(len, runs), default=0) // batch)
    while low < high:
        middle = (low + high + 1) // 2
        if _largest(footprint, runs, middle * batch, most) <= room:
            low = middle
        else:
            high = middle - 1
    return low * batch
