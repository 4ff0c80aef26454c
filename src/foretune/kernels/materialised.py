r"""Kernels of a block through its gradients, formed for all examples a few entries at a time.

linear     dW[n, c] = sum_t g[n, c, t] (outer) x[n, t], some output rows at a time
embedding  only the rows that both sides touch; repeated tokens of an example add up
dense      as it is
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, Products, Rows
from foretune.kernels import tile as tiles_of
from foretune.kernels.tile import Tile, Workspace, output_count, zero_kernel
from foretune.shapes import Float, Int


def materialised_kernel(
    name: str, rows: Tile, columns: Tile, space: Workspace, *, same: bool
) -> Float[Tensor, "n c m d"]:
    """The kernel of one block through its materialised gradients, a chunk of entries at a time."""
    left = [batch.factors.get(name) for batch in rows]
    right = left if same else [batch.factors.get(name) for batch in columns]
    kernel = zero_kernel(rows, columns)  # (n, c, m, d)
    n, c, m, d = kernel.shape
    matrix = kernel.view(n * c, m * d)
    present = next((factor for factor in (*left, *right) if factor is not None), None)
    if present is None:
        return kernel
    for first, second in _chunks(present, (left, right), (rows, columns), space, same=same):
        if same:
            _add_symmetric(matrix, first)
        else:
            matrix += (first @ second.T).double()
    if same:
        matrix.copy_(matrix.tril() + matrix.tril(-1).T)
    return kernel


def _add_symmetric(matrix: Tensor, chunk: Float[Tensor, "k p"], depth: int = 3) -> None:
    """Add the lower triangle of `chunk @ chunk.T` to `matrix`, halving squares on the diagonal `depth` times."""
    size = len(chunk)
    if depth == 0 or size < 32:
        matrix += (chunk @ chunk.T).double()
        return
    half = size // 2
    _add_symmetric(matrix[:half, :half], chunk[:half], depth - 1)
    _add_symmetric(matrix[half:, half:], chunk[half:], depth - 1)
    matrix[half:, :half] += (chunk[half:] @ chunk[:half].T).double()


def _chunks(
    kind: Factor,
    factors: tuple[list[Factor | None], list[Factor | None]],
    tiles: tuple[Tile, Tile],
    space: Workspace,
    *,
    same: bool,
) -> Iterator[tuple[Float[Tensor, "k p"], Float[Tensor, "l p"]]]:
    """Materialised gradients of both sides, as matrices (examples * outputs, entries), some entries at a time."""
    examples = max(output_count(tile) for tile in tiles)
    if isinstance(kind, Dense):
        count, width = 1, kind.values.shape[-1]
    elif isinstance(kind, Rows):
        ids = _common_ids(*factors)
        count, width = len(ids), kind.values.shape[-1]
    else:
        count, width = kind.g.shape[-1], kind.x.shape[-1]
    step = max(1, tiles_of.CHUNK_BYTES // (examples * width * space.like.element_size()))
    sides = [
        _Side(side, tile, partial(space.take, f"chunk {number}"))
        for number, (side, tile) in enumerate(zip(factors, tiles, strict=True))
    ]
    if same:
        sides.pop()
    for start in range(0, count, step):
        stop = min(start + step, count)
        if isinstance(kind, Dense):
            chunks = [side.filled(width, _dense_gradients) for side in sides]
        elif isinstance(kind, Rows):
            chunks = [side.filled((stop - start) * width, partial(_row_gradients, ids[start:stop])) for side in sides]
        else:
            chunks = [side.filled((stop - start) * width, partial(_weight_gradients, start, stop)) for side in sides]
        yield chunks[0], chunks[-1]


class _Side:
    """Materialised gradients of one tile, in a buffer that is filled again for each chunk of entries."""

    def __init__(self, factors: list[Factor | None], tile: Tile, take: Callable[[int], Tensor]) -> None:
        self.factors, self.take = factors, take
        self.counts = [batch.outputs.numel() for batch in tile]

    def filled(self, size: int, fill: Callable[[Any, Tensor], None]) -> Float[Tensor, "k p"]:
        """Gradients (examples * outputs, `size`); a batch that does not use the block is zero."""
        matrix = self.take(sum(self.counts) * size).view(-1, size)
        start = 0
        for factor, count in zip(self.factors, self.counts, strict=True):
            if factor is None:
                matrix[start : start + count] = 0
            else:
                fill(factor, matrix[start : start + count])
            start += count
        return matrix


def _dense_gradients(factor: Dense, into: Float[Tensor, "nc p"]) -> None:
    into.copy_(factor.values.flatten(0, 1))


def _weight_gradients(start: int, stop: int, factor: Products, into: Float[Tensor, "nc p"]) -> None:
    """Rows `start:stop` of dW for each example and output."""
    n, c, t, _ = factor.g.shape
    g = factor.g[..., start:stop].transpose(2, 3).reshape(n, -1, t)  # (n, c * o, t)
    torch.bmm(g, factor.x, out=into.view(n, c * (stop - start), -1))


def _row_gradients(ids: Int[Tensor, "k"], factor: Rows, into: Float[Tensor, "nc p"]) -> None:
    """The gradient's rows `ids` (sorted) for each example and output; repeated tokens of an example add up."""
    n, c, t, o = factor.values.shape
    place = torch.searchsorted(ids, factor.ids.contiguous()).clamp(max=len(ids) - 1)  # (n, t)
    hit = (ids[place] == factor.ids)[:, None, :, None]  # (n, 1, t, 1)
    index = place[:, None, :, None].expand(n, c, t, o)
    into.zero_().view(n, c, len(ids), o).scatter_add_(2, index, factor.values * hit)


def _common_ids(left: list[Factor | None], right: list[Factor | None]) -> Int[Tensor, "k"]:
    """The row numbers that both sides touch, sorted; no other row adds to the kernel."""
    sides = [
        torch.unique(torch.cat([factor.ids.reshape(-1) for factor in side if isinstance(factor, Rows)]))
        for side in (left, right)
    ]
    return sides[0][torch.isin(sides[0], sides[1])]
