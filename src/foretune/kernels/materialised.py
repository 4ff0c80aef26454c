r"""Gradients of a block formed for all examples a few entries at a time, and the kernel through them.

linear     dW[n, c] = sum_t g[n, c, t] (outer) x[n, t], some output rows at a time; one slice of a 3-D weight at a time
embedding  only the rows that both sides touch; repeated tokens of an example add up
dense      as it is
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, Products, RowFactor
from foretune.kernels import tile as tiles_of
from foretune.kernels.products import add_product, add_triangle, mirror
from foretune.kernels.tile import ALIGNED, Tile, Workspace, zero_kernel
from foretune.shapes import Float, Int


@dataclass(frozen=True)
class MaterialisedPart:
    """The factor of one block in one batch.

    Attributes:
        count: rows of the materialised matrix, examples * outputs.
        factor: None where the batch does not use the block.
        scale: what each row is multiplied with, if anything.
    """

    count: int
    factor: Factor | None
    scale: Float[Tensor, " k"] | None = None


Side = Sequence[MaterialisedPart]
"""The factors of one block, batch by batch."""


def side_of(name: str, tile: Tile) -> Side:
    """The factors of the block `name` in a tile."""
    return [MaterialisedPart(batch.outputs.numel(), batch.factors.get(name)) for batch in tile]


def materialised_kernel(
    name: str, rows: Tile, columns: Tile, space: Workspace, *, same: bool
) -> Float[Tensor, "n c m d"]:
    """The kernel of one block through its materialised gradients, a chunk of entries at a time."""
    kernel = zero_kernel(rows, columns)  # (n, c, m, d)
    n, c, m, d = kernel.shape
    matrix = kernel.view(n * c, m * d)
    left = side_of(name, rows)
    for _, first, second in gradient_chunks(left, left if same else side_of(name, columns), space):
        if same:
            add_triangle(matrix, first)
        else:
            add_product(matrix, first, second)
    if same:
        mirror(matrix)
    return kernel


class Entries(NamedTuple):
    """Which entries of a parameter a chunk holds: whole rows of a matrix, or of one slice of a 3-D weight.

    Attributes:
        slice: slice of a 3-D weight; 0 otherwise.
        rows: row numbers; a vector is one row.
    """

    slice: int
    rows: Sequence[int]


def gradient_chunks(
    left: Side, right: Side, space: Workspace
) -> Iterator[tuple[Entries, Float[Tensor, "k p"], Float[Tensor, "l p"]]]:
    """Materialised gradients of a block as matrices (examples * outputs, entries), some entries at a time.

    Args:
        left, right: the factors of both sides; the very same object for a tile against itself, which is formed once.
        space: the matrices live here, until the next pair.

    Yields:
        Which entries, those of the left and those of the right side: the same object for the same side. Entries that
        are zero on one side (rows of an embedding that it does not touch) are left out. Nothing for a block that no
        example uses.
    """
    sides = [left] if left is right else [left, right]
    kind = next((part.factor for side in sides for part in side if part.factor is not None), None)
    if kind is None:
        return
    most = max(sum(part.count for part in side) for side in sides)
    for number, rows, width, form in _pieces(kind, sides):
        step = max(1, tiles_of.chunk_bytes() // (most * width * space.like.element_size()))
        if space.like.device.type != "cpu":
            step = max(ALIGNED, step // ALIGNED * ALIGNED)
        for start in range(0, len(rows), step):
            end = min(start + step, len(rows))
            chunks = [
                _filled(side, (end - start) * width, partial(form, start, end), partial(space.take, f"chunk {place}"))
                for place, side in enumerate(sides)
            ]
            yield Entries(number, rows[start:end]), chunks[0], chunks[-1]


Form = Callable[[int, int, Any, Tensor | None, Tensor], None]
"""Writes rows `start` to `end` of a factor's gradient, each matrix row times its scale, into a matrix."""


def _pieces(kind: Factor, sides: Sequence[Side]) -> Iterator[tuple[int, Sequence[int], int, Form]]:
    """For each slice of the parameter: its number, the rows wanted, entries a row, and how rows are formed."""
    if isinstance(kind, Dense):
        yield 0, range(1), kind.values.shape[-1], _dense_gradients
    elif isinstance(kind, RowFactor):
        ids = _common_ids(sides)
        yield 0, ids.tolist(), kind.values.shape[-1], partial(_row_gradients, ids)
    elif kind.group is None:
        yield 0, range(kind.features), kind.x.shape[-1], _weight_gradients
    else:
        for group in _groups(sides):
            yield group, range(kind.features), kind.x.shape[-1], partial(_slice_gradients, group)


def _filled(
    side: Side, size: int, form: Callable[[Factor, Tensor | None, Tensor], None], take: Callable[[int], Tensor]
) -> Tensor:
    """Gradients (examples * outputs, `size`); a batch that does not use the block is zero."""
    matrix = take(sum(part.count for part in side) * size).view(-1, size)
    start = 0
    for part in side:
        of_part = matrix[start : start + part.count]
        if part.factor is None:
            of_part.zero_()
        else:
            form(part.factor, part.scale, of_part)
        start += part.count
    return matrix


def _dense_gradients(_start: int, _end: int, factor: Dense, scale: Tensor | None, into: Float[Tensor, "nc p"]) -> None:
    into.copy_(_scaled(factor.values, scale).flatten(0, 1))


def _scaled(values: Float[Tensor, "n c *rest"], scale: Tensor | None) -> Float[Tensor, "n c *rest"]:
    """Values of each example and output times its scale."""
    return values if scale is None else values * scale.view(*values.shape[:2], *(1,) * (values.dim() - 2))


def _weight_gradients(
    start: int, end: int, factor: Products, scale: Tensor | None, into: Float[Tensor, "nc p"]
) -> None:
    """Rows `start:end` of dW for each example and output."""
    n, c = len(factor.x), len(factor.g)
    parts = [g[..., start:end] for g in factor.g]  # (n, t, o) of each output
    if scale is not None:
        parts = [part * each[:, None, None] for part, each in zip(parts, scale.view(n, c).T, strict=True)]
    if into.device.type == "cpu":
        g = torch.cat([part.mT for part in parts], dim=1)  # (n, c * o, t)
    else:  # tokens last would be rows of any odd length, for which a GPU has slow products only
        g = (parts[0] if c == 1 else torch.cat(parts, dim=2)).mT  # (n, c * o, t)
    torch.bmm(g.to(into.dtype), factor.x.to(into.dtype), out=into.view(n, c * (end - start), -1))


def _slice_gradients(
    group: int, start: int, end: int, factor: Products, scale: Tensor | None, into: Float[Tensor, "nc p"]
) -> None:
    """The same for one slice of a 3-D weight, on which only some tokens act."""
    acting = factor.group == group  # (n, t)
    _weight_gradients(start, end, Products(factor.x, tuple(g * acting[..., None] for g in factor.g)), scale, into)


def _row_gradients(
    ids: Int[Tensor, " k"], start: int, end: int, factor: RowFactor, scale: Tensor | None, into: Float[Tensor, "nc p"]
) -> None:
    """The gradient's rows `ids` (sorted) for each example and output; repeated tokens of an example add up."""
    n, c, t, o = factor.values.shape
    ids = ids[start:end]
    place = torch.searchsorted(ids, factor.ids.contiguous()).clamp(max=len(ids) - 1)  # (n, t)
    hit = (ids[place] == factor.ids)[:, None, :, None]  # (n, 1, t, 1)
    index = place[:, None, :, None].expand(n, c, t, o)
    into.zero_().view(n, c, len(ids), o).scatter_add_(2, index, _scaled(factor.values * hit, scale).to(into.dtype))


def _groups(sides: Sequence[Side]) -> list[int]:
    """The slices of a 3-D weight that every side uses."""
    used = [
        {int(g) for part in side if isinstance(part.factor, Products) for g in torch.unique(part.factor.group)}
        for side in sides
    ]
    return sorted(set.intersection(*used))


def _common_ids(sides: Sequence[Side]) -> Int[Tensor, " k"]:
    """The row numbers that every side touches, sorted; no other row adds to the kernel."""
    ids, *others = [
        torch.unique(torch.cat([part.factor.ids.reshape(-1) for part in side if isinstance(part.factor, RowFactor)]))
        if any(isinstance(part.factor, RowFactor) for part in side)
        else torch.empty(0, dtype=torch.long)
        for side in sides
    ]
    for other in others:
        ids = ids[torch.isin(ids, other.to(ids.device))]
    return ids
