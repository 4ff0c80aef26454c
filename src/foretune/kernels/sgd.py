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

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, Rows
from foretune.shapes import Float, Float64, Int

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

    def contract(
        self, rows: Tile, columns: Tile, names: Sequence[str]
    ) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
        """The kernel of each block between two tiles; the same tile twice computes one triangle.

        Args:
            rows: gradient factors; examples are in the order of the batches.
            columns: likewise.
            names: the blocks wanted.

        Yields:
            Name and kernel, float64 on the factors' device; zero where a block does not influence the outputs.
        """
        same = rows is columns
        space = _Workspace(rows[0].outputs)
        grams = [name for name in names if _by_gram(name, rows, columns, same=same)]
        yield from _gram_kernels(grams, rows, columns, space, same=same)
        for name in names:
            if name not in grams:
                yield name, _kernel_of(name, rows, columns, space, same=same)


class _Workspace:
    """Memory that is used again and again: fresh pages cost more than the arithmetic on them."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, size: int) -> Float[Tensor, "size"]:
        """The first `size` entries of a buffer, whatever they hold."""
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size]


def _kernel_of(name: str, rows: Tile, columns: Tile, space: _Workspace, *, same: bool) -> Float[Tensor, "n c m d"]:
    """The kernel of one block through its materialised gradients, a chunk of entries at a time."""
    left = [batch.factors.get(name) for batch in rows]
    right = left if same else [batch.factors.get(name) for batch in columns]
    kernel = _zeros(rows, columns)  # (n, c, m, d)
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
    kind: Factor,
    factors: tuple[list[Factor | None], list[Factor | None]],
    tiles: tuple[Tile, Tile],
    space: _Workspace,
    *,
    same: bool,
) -> Iterator[tuple[Float[Tensor, "k p"], Float[Tensor, "l p"]]]:
    """Materialised gradients of both sides, as matrices (examples * outputs, entries), some entries at a time."""
    examples = max(_output_count(tile) for tile in tiles)
    if isinstance(kind, Dense):
        count, width = 1, kind.values.shape[-1]
    elif isinstance(kind, Rows):
        ids = _common_ids(*factors)
        count, width = len(ids), kind.values.shape[-1]
    else:
        count, width = kind.g.shape[-1], kind.x.shape[-1]
    step = max(1, CHUNK_BYTES // (examples * width * space.like.element_size()))
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
    sides = [
        torch.unique(torch.cat([factor.ids.reshape(-1) for factor in side if isinstance(factor, Rows)]))
        for side in (left, right)
    ]
    return sides[0][torch.isin(sides[0], sides[1])]


def _by_gram(name: str, rows: Tile, columns: Tile, *, same: bool) -> bool:
    """Whether the token Gram of a linear block costs fewer multiplications than materialising."""
    left, right = _products(name, rows), _products(name, columns)
    if not left or not right:
        return False
    if left[0][1].group is not None:
        return True
    factors = [[factor for _, factor in side] for side in (left, right)]
    gram, materialise = contraction_flops(factors[0], factors[1], same=same)
    return gram < materialise


def contraction_flops(
    left: Sequence[Products], right: Sequence[Products], *, same: bool, weighted: bool = True
) -> tuple[float, float]:
    """Multiplications of the token Gram and of materialising, for one block between two tiles.

    Weighted, those that run below the rate of a large matrix product count for more, which is what the choice needs.
    """
    c, inputs, features = left[0].g.shape[1], left[0].x.shape[-1], left[0].g.shape[-1]
    d = right[0].g.shape[1]
    tokens_left, tokens_right = (sum(f.x.shape[0] * f.x.shape[1] for f in side) for side in (left, right))
    rows, columns = (sum(f.g.shape[0] * f.g.shape[1] for f in side) for side in (left, right))
    triangle = 0.5 if same else 1.0
    entry, form = (_ENTRY_COST, _FORM_COST) if weighted else (0.0, 1.0)
    gram = tokens_left * tokens_right * (inputs + c * d * (features + entry)) * triangle
    forming = form * (tokens_left * c + (0 if same else tokens_right * d)) * inputs * features
    return gram, forming + rows * columns * inputs * features * triangle


def _gram_kernels(
    names: Sequence[str], rows: Tile, columns: Tile, space: _Workspace, *, same: bool
) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
    """Kernels of linear blocks by token Grams: a batch of rows against all columns at once.

    Blocks with the same input (q, k and v) share its token Gram. For a symmetric kernel the columns end with the
    batch of rows itself.
    """
    grams = _TokenGrams()
    for name in names:
        kernel = _zeros(rows, columns)
        left, right = _products(name, rows), _products(name, columns)
        h = _packed([factor.g for _, factor in right], partial(space.take, "g"))  # (m * d * s of all columns, o)
        x = _packed([factor.x for _, factor in right], partial(space.take, "x"))  # (m * s of all columns, i)
        for start, first in left:
            used = [(place, factor) for place, factor in right if not same or place <= start]
            part = kernel[start : start + len(first.x)]
            _add_gram(part, first, used, h, grams.of(first, used, x), partial(space.take, "entries"))
        if same:
            matrix = kernel.view(kernel.shape[0] * kernel.shape[1], -1)
            matrix.copy_(matrix.tril() + matrix.tril(-1).T)
        yield name, kernel


class _TokenGrams:
    """Token Grams `x[n, t] . x'[m, s]` of the blocks that share the current input, as long as they are small."""

    def __init__(self) -> None:
        self.inputs: Tensor | None = None
        self.kept: dict[int, Tensor] = {}

    def of(self, first: Products, used: list[tuple[int, Products]], x: Float[Tensor, "tokens i"]) -> Tensor:
        """The Gram of one batch of rows with the columns used, (n * t, tokens of the columns)."""
        if self.inputs is not used[0][1].x:
            self.inputs, self.kept = used[0][1].x, {}
        key = id(first.x)
        if key not in self.kept:
            tokens = sum(factor.x.shape[0] * factor.x.shape[1] for _, factor in used)
            gram = first.x.flatten(0, 1) @ x[:tokens].T
            if sum(kept.nbytes for kept in self.kept.values()) + gram.nbytes > 4 * CHUNK_BYTES:
                return gram
            self.kept[key] = gram
        return self.kept[key]


def _add_gram(
    kernel: Float64[Tensor, "n c m d"],
    first: Products,
    used: list[tuple[int, Products]],
    h: Float[Tensor, "tokens_d o"],
    gram: Float[Tensor, "nt tokens"],
    take: Callable[[int], Tensor],
) -> None:
    """Add `sum_{t, s} gram[n, t, m, s] (g[n, c, t] . g'[m, d, s])` for one batch of rows, in cache-sized pieces."""
    n, c, t, o = first.g.shape
    width = sum(factor.g.shape[:3].numel() for _, factor in used)
    step = max(1, CHUNK_BYTES // (c * t * width * gram.element_size()))
    gram = gram.view(n, t, -1)
    for begin in range(0, n, step):
        g = first.g[begin : begin + step]
        entries = take(len(g) * c * t * width).view(-1, width)
        entries = torch.mm(g.reshape(-1, o), h[:width].T, out=entries).view(len(g), c, t, width)
        at_entry = at_token = 0
        for place, factor in used:
            m, d, s, _ = factor.g.shape
            part = entries[..., at_entry : at_entry + m * d * s].view(len(g), c, t, m, d, s)
            weights = gram[begin : begin + step, :, at_token : at_token + m * s].view(len(g), 1, t, m, 1, s)
            if first.group is not None and factor.group is not None:
                alike = first.group[begin : begin + step, :, None, None] == factor.group[None, None]  # (n, t, m, s)
                weights = weights * alike[:, None, :, :, None, :]
            part *= weights
            kernel[begin : begin + len(g), :, place : place + m] += part.sum((2, 5)).double()
            at_entry, at_token = at_entry + m * d * s, at_token + m * s


def _packed(parts: Sequence[Float[Tensor, "... k"]], take: Callable[[int], Tensor]) -> Float[Tensor, "tokens k"]:
    """Rows of all parts below each other."""
    flat = [part.reshape(-1, part.shape[-1]) for part in parts]
    if len(flat) == 1:
        return flat[0]
    return torch.cat(flat, out=take(sum(part.numel() for part in flat)).view(-1, flat[0].shape[1]))


def _products(name: str, tile: Tile) -> list[tuple[int, Products]]:
    """The factors of a linear block, each with the place where its batch's examples begin."""
    starts = itertools.accumulate((len(batch.positions) for batch in tile), initial=0)
    found = [(start, batch.factors.get(name)) for start, batch in zip(starts, tile, strict=False)]
    return [(start, factor) for start, factor in found if isinstance(factor, Products)]
