r"""Kernels of linear blocks by token Grams.

K[n, c, m, d] = sum_{t, s} (x[n, t] . x'[m, s]) (g[n, c, t] . g'[m, d, s])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from foretune.gradients.factors import Products
from foretune.kernels import tile as tiles_of
from foretune.kernels.tile import Tile, Workspace, linear_factors, zero_kernel
from foretune.shapes import Float, Float64


def token_gram_kernels(
    names: Sequence[str], rows: Tile, columns: Tile, space: Workspace, *, same: bool
) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
    """Kernels of linear blocks by token Grams: a batch of rows against all columns at once.

    Blocks with the same input (q, k and v) share its token Gram. For a symmetric kernel the columns end with the
    batch of rows itself.
    """
    grams = _TokenGrams()
    for name in names:
        kernel = zero_kernel(rows, columns)
        left, right = linear_factors(name, rows), linear_factors(name, columns)
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
            if sum(kept.nbytes for kept in self.kept.values()) + gram.nbytes > 4 * tiles_of.CHUNK_BYTES:
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
    step = max(1, tiles_of.CHUNK_BYTES // (c * t * width * gram.element_size()))
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
