r"""The SGD kernel, the empirical neural tangent kernel `K(x, x') = <d f(x) / d theta, d f(x') / d theta>`.

Malladi et al. 2023, Definition 2.4. For a linear layer over tokens there are two exact ways to the same number
(Novak et al. 2022, section 4: structured derivatives against Jacobian contraction):

    token Gram     K[n, c, m, d] = sum_{t, s} (x[n, t] . x'[m, s]) (g[n, c, t] . g'[m, d, s])
    materialise    dW[n, c] = sum_t g[n, c, t] (outer) x[n, t];   K = <dW, dW'>

The first costs `T T' (i + c d o)` multiplications a pair of examples, the second `c d i o` a pair and `c T i o` an
example. Whichever has fewer is taken, for each block and pair of tiles. Sums run in the factors' precision within a
product and in float64 across products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, Rows
from foretune.shapes import Float, Int

CHUNK_BYTES = 12 * 2**20
"""Gradients are formed this much at a time: two such chunks stay within a usual last-level cache."""

_FORM_COST = 3.0
"""A multiplication that forms gradients costs this many of a large product's: its inner dimension is a few tokens."""
_ENTRY_COST = 24.0
"""Multiplications that pass in the time of one read-multiply-sum over an entry of a token Gram."""

Tile = Sequence[FactorBatch]


@dataclass(frozen=True)
class SGD:
    """The SGD kernel `<df, df'>` (Malladi et al. 2023, Definition 2.4). It has no parameters."""

    symmetric: ClassVar[bool] = True
    """K(x, x') = K(x', x), transposed in the outputs: one triangle is enough."""

    def contract(self, rows: Tile, columns: Tile, names: Sequence[str]) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
        """The kernel of each block between two tiles; the same tile twice computes one triangle.

        Args:
            rows, columns: gradient factors; examples are in the order of the batches.
            names: the blocks wanted.

        Yields:
            Name and kernel, float64 on the factors' device; zero where a block does not influence the outputs.
        """
        same = rows is columns
        grams = [name for name in names if _by_gram(name, rows, columns, same=same)]
        yield from _gram_kernels(grams, rows, columns, same=same)
        for name in names:
            if name not in grams:
                yield name, _kernel_of(name, rows, columns, same=same)


def _kernel_of(name: str, rows: Tile, columns: Tile, *, same: bool) -> Float[Tensor, "n c m d"]:
    """The kernel of one block through its materialised gradients, a chunk of entries at a time."""
    left = [batch.factors.get(name) for batch in rows]
    right = left if same else [batch.factors.get(name) for batch in columns]
    kernel = _zeros(rows, columns)  # (n, c, m, d)
    n, c, m, d = kernel.shape
    matrix = kernel.view(n * c, m * d)
    present = next((factor for factor in (*left, *right) if factor is not None), None)
    if present is None:
        return kernel
    for first, second in _chunks(present, left, right, rows, columns, same=same):
        if same:
            _add_symmetric(matrix, first)
        else:
            matrix += (first @ second.T).double()
    if same:
        matrix.copy_(matrix.tril() + matrix.tril(-1).T)
    return kernel


def _zeros(rows: Tile, columns: Tile) -> Float[Tensor, "n c m d"]:
    n, m = sum(len(batch.positions) for batch in rows), sum(len(batch.positions) for batch in columns)
    outputs = rows[0].outputs
    return torch.zeros(n, outputs.shape[1], m, columns[0].outputs.shape[1], dtype=torch.float64, device=outputs.device)


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
    kind: Factor, left: list[Factor | None], right: list[Factor | None], rows: Tile, columns: Tile, *, same: bool
) -> Iterator[tuple[Float[Tensor, "k p"], Float[Tensor, "l p"]]]:
    """Materialised gradients of both sides, as matrices (examples * outputs, entries), some entries at a time."""
    examples = max(_output_count(rows), _output_count(columns))
    if isinstance(kind, Dense):
        count, width = 1, kind.values.shape[-1]
    elif isinstance(kind, Rows):
        ids = _common_ids(left, right)
        count, width = len(ids), kind.values.shape[-1]
    else:
        count, width = kind.g.shape[-1], kind.x.shape[-1]
    step = max(1, CHUNK_BYTES // (examples * width * rows[0].outputs.element_size()))
    sides = [_Side(left, rows, min(step, count) * width)]
    if not same:
        sides.append(_Side(right, columns, min(step, count) * width))
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

    def __init__(self, factors: list[Factor | None], tile: Tile, size: int) -> None:
        self.factors = factors
        self.counts = [batch.outputs.numel() for batch in tile]
        self.buffer = tile[0].outputs.new_zeros(sum(self.counts) * size)

    def filled(self, size: int, fill: Callable[[Factor, Tensor], None]) -> Float[Tensor, "k p"]:
        """Gradients (examples * outputs, `size`); a batch that does not use the block stays zero."""
        matrix = self.buffer[: sum(self.counts) * size].view(-1, size)
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


def _output_count(tile: Tile) -> int:
    return sum(batch.outputs.numel() for batch in tile)


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
    sides = [torch.unique(torch.cat([f.ids.reshape(-1) for f in side if f is not None])) for side in (left, right)]
    return sides[0][torch.isin(sides[0], sides[1])]


def _by_gram(name: str, rows: Tile, columns: Tile, *, same: bool) -> bool:
    """Whether the token Gram of a linear block costs fewer multiplications than materialising."""
    left = [batch.factors[name] for batch in rows if name in batch.factors]
    right = [batch.factors[name] for batch in columns if name in batch.factors]
    if not left or not right or not isinstance(left[0], Products):
        return False
    if left[0].group is not None:
        return True
    gram, materialise = contraction_flops(left, right, same=same)
    return gram < materialise


def contraction_flops(left: Sequence[Products], right: Sequence[Products], *, same: bool) -> tuple[float, float]:
    """Weighted multiplications of the token Gram and of materialising, for one block between two tiles."""
    c, inputs, features = left[0].g.shape[1], left[0].x.shape[-1], left[0].g.shape[-1]
    d = right[0].g.shape[1]
    tokens_left, tokens_right = (sum(f.x.shape[0] * f.x.shape[1] for f in side) for side in (left, right))
    rows, columns = (sum(f.g.shape[0] * f.g.shape[1] for f in side) for side in (left, right))
    triangle = 0.5 if same else 1.0
    gram = tokens_left * tokens_right * (inputs + c * d * (features + _ENTRY_COST)) * triangle
    forming = _FORM_COST * (tokens_left * c + (0 if same else tokens_right * d)) * inputs * features
    return gram, forming + rows * columns * inputs * features * triangle


def _gram_kernels(
    names: Sequence[str], rows: Tile, columns: Tile, *, same: bool
) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
    """Kernels of linear blocks by token Grams, batch pair by batch pair; blocks with one input share its Gram."""
    kernels = {name: _zeros(rows, columns) for name in names}
    starts_left, starts_right = _starts(rows), _starts(columns)
    for p, left in enumerate(rows):
        for q, right in enumerate(columns[: p + 1] if same else columns):
            i, j = starts_left[p], starts_right[q]
            gram_of: tuple[Tensor, Tensor, Tensor] | None = None
            for name in names:
                first, second = left.factors.get(name), right.factors.get(name)
                if first is None or second is None:
                    continue
                if gram_of is None or gram_of[0] is not first.x or gram_of[1] is not second.x:
                    gram_of = (first.x, second.x, _token_gram(first.x, second.x))
                part = _gram_product(first, second, gram_of[2]).double()  # (n, c, m, d)
                kernels[name][i : i + len(part), :, j : j + part.shape[2]] = part
                if same and p != q:
                    kernels[name][j : j + part.shape[2], :, i : i + len(part)] = part.permute(2, 3, 0, 1)
    yield from kernels.items()


def _starts(tile: Tile) -> list[int]:
    starts, total = [], 0
    for batch in tile:
        starts.append(total)
        total += len(batch.positions)
    return starts


def _token_gram(x: Float[Tensor, "n t i"], y: Float[Tensor, "m s i"]) -> Float[Tensor, "n t m s"]:
    return (x.flatten(0, 1) @ y.flatten(0, 1).T).view(*x.shape[:2], *y.shape[:2])


def _gram_product(first: Products, second: Products, gram: Float[Tensor, "n t m s"]) -> Float[Tensor, "n c m d"]:
    """`sum_{t, s} gram[n, t, m, s] (g[n, c, t] . g'[m, d, s])`, an output pair's rows in cache-sized pieces."""
    n, c, t, o = first.g.shape
    m, d, s, _ = second.g.shape
    if first.group is not None:
        gram = gram * (first.group[:, :, None, None] == second.group[None, None])
    h = second.g.reshape(m * d * s, o)
    kernel = gram.new_empty(n, c, m, d)
    step = max(1, CHUNK_BYTES // (c * t * m * d * s * gram.element_size()))
    for start in range(0, n, step):
        g = first.g[start : start + step]
        entries = (g.reshape(-1, o) @ h.T).view(len(g), c, t, m, d, s)
        entries *= gram[start : start + step, None, :, :, None]
        kernel[start : start + step] = entries.sum((2, 5))
    return kernel
