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
    examples = max(_zeros_rows(rows), _zeros_rows(columns))
    if isinstance(kind, Dense):
        first = _stacked(left, rows, lambda factor: factor.values, kind.values.shape[-1])
        yield first, first if same else _stacked(right, columns, lambda factor: factor.values, kind.values.shape[-1])
    elif isinstance(kind, Rows):
        ids = _common_ids(left, right)
        width = kind.values.shape[-1]
        step = max(1, CHUNK_BYTES // (examples * width * kind.values.element_size()))
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            first = _stacked(left, rows, lambda factor: _row_gradients(factor, part), len(part) * width)
            yield first, first if same else _stacked(
                right, columns, lambda factor: _row_gradients(factor, part), len(part) * width
            )
    else:
        inputs, features = kind.x.shape[-1], kind.g.shape[-1]
        step = max(1, CHUNK_BYTES // (examples * inputs * kind.x.element_size()))
        for start in range(0, features, step):
            stop = min(start + step, features)
            size = (stop - start) * inputs
            first = _stacked(left, rows, lambda factor: _weight_gradients(factor, start, stop), size)
            yield first, first if same else _stacked(
                right, columns, lambda factor: _weight_gradients(factor, start, stop), size
            )


def _zeros_rows(tile: Tile) -> int:
    return sum(batch.outputs.numel() for batch in tile)


def _stacked(
    factors: list[Factor | None], tile: Tile, gradients: Callable[[Factor], Tensor], size: int
) -> Float[Tensor, "k p"]:
    """Gradients of all examples of a tile below each other; a batch without the block is zero."""
    parts = [
        batch.outputs.new_zeros(batch.outputs.numel(), size) if factor is None else gradients(factor).reshape(-1, size)
        for factor, batch in zip(factors, tile, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _weight_gradients(factor: Products, start: int, stop: int) -> Float[Tensor, "n c o i"]:
    """Rows `start:stop` of dW for each example and output."""
    n, c, t, _ = factor.g.shape
    g = factor.g[..., start:stop].transpose(2, 3).reshape(n, -1, t)  # (n, c * o, t)
    return torch.bmm(g, factor.x).view(n, c, stop - start, -1)


def _row_gradients(factor: Rows, ids: Int[Tensor, "k"]) -> Float[Tensor, "n c k o"]:
    """The gradient's rows `ids` (sorted) for each example and output; repeated tokens of an example add up."""
    n, c, t, o = factor.values.shape
    place = torch.searchsorted(ids, factor.ids).clamp(max=len(ids) - 1)  # (n, t)
    hit = (ids[place] == factor.ids)[:, None, :, None]  # (n, 1, t, 1)
    gradient = factor.values.new_zeros(n, c, len(ids), o)
    return gradient.scatter_add_(2, place[:, None, :, None].expand(n, c, t, o), factor.values * hit)


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
