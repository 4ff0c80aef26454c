"""Tiles of gradient factors, and the memory that contracting two of them works in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from foretune.gradients.factors import FactorBatch, Products
from foretune.kernels.memory_plan import CHUNK_BYTES
from foretune.shapes import Float, Float64

ALIGNED = 8
"""Entries: a GPU's fast products read and write rows that begin at a multiple of this."""
_PIECE: ContextVar[int | None] = ContextVar("bytes of a piece", default=None)

Tile = Sequence[FactorBatch]


def chunk_bytes() -> int:
    """Bytes of a piece of work here."""
    return _PIECE.get() or CHUNK_BYTES


@contextmanager
def in_pieces_of(size: int) -> Iterator[None]:
    """Work on pieces of another size: a GPU needs larger ones to be busy."""
    before = _PIECE.set(size)
    try:
        yield
    finally:
        _PIECE.reset(before)


class Workspace:
    """Memory that is used again and again: fresh pages cost more than the arithmetic on them."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, size: int) -> Float[Tensor, " size"]:
        """The first `size` entries of a buffer, whatever they hold."""
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size]

    def matrices(self, name: str, *shape: int) -> Float[Tensor, "..."]:
        """A buffer as matrices of a shape, each row of them where a fast product can write it."""
        width = aligned(shape[-1], self.like.device)
        return self.take(name, math.prod(shape[:-1]) * width).view(*shape[:-1], width)[..., : shape[-1]]


def aligned(size: int, device: torch.device) -> int:
    """Entries of a row with what is left free behind it, so that the next begins at a place that suits the device."""
    return size if device.type == "cpu" else -(-size // ALIGNED) * ALIGNED


def by_precision(
    names: Iterable[str], *tiles: Tile, least: torch.dtype = torch.bfloat16
) -> dict[torch.dtype, tuple[list[str], Workspace]]:
    """The blocks by the precision that they are contracted in, each with work space of that precision.

    It is that of the outputs, or of the block's factors where this is finer: a model can compute some of its parts in
    another precision (Mamba, anything under autocast). Half precision counts as single: products of its small
    derivatives would vanish.

    Args:
        names: blocks.
        tiles: where their factors are.
        least: a precision that none goes below.
    """
    found: dict[torch.dtype, list[str]] = defaultdict(list)
    for name in names:
        factors = [factor for tile in tiles for batch in tile if (factor := batch.factors.get(name)) is not None]
        dtypes = {tensor.dtype for factor in factors for tensor in factor.tensors if tensor.is_floating_point()}
        dtype = torch.promote_types(least, tiles[0][0].outputs.dtype)
        for each in dtypes:
            dtype = torch.promote_types(dtype, each)
        found[dtype].append(name)
    return {dtype: (members, Workspace(tiles[0][0].outputs.to(dtype))) for dtype, members in found.items()}


def zero_kernel(rows: Tile, columns: Tile) -> Float64[Tensor, "n c m d"]:
    """A kernel of zeros between two tiles."""
    n, m = sum(len(batch.positions) for batch in rows), sum(len(batch.positions) for batch in columns)
    outputs = rows[0].outputs
    return torch.zeros(n, outputs.shape[1], m, columns[0].outputs.shape[1], dtype=torch.float64, device=outputs.device)


def output_count(tile: Tile) -> int:
    """Examples times outputs of a tile."""
    return sum(batch.outputs.numel() for batch in tile)


def linear_factors(name: str, tile: Tile) -> list[Products]:
    """The factors of a linear block, of the batches that use it."""
    return [factor for batch in tile if isinstance(factor := batch.factors.get(name), Products)]
