"""Products of few rows with very many entries, summed in float64: what every contraction ends in."""

from __future__ import annotations

import torch
from torch import Tensor

from foretune.shapes import Float

_SQUARE, _SQUARES = 128, 264
"""A multiprocessor of a GPU computes a square of so many rows and columns at once; so many squares occupy a large card."""
_LEAST, _STEP = 2048, 8
"""Entries of a part at least, and what their number is a multiple of: fast products begin at such places."""
_HALVED_BYTES, _HALVED_ENTRIES = 512, 2**15
"""A GPU gains from half of a square that has columns of so many bytes at least, and so many entries to sum over."""


def add_product(matrix: Float[Tensor, "k l"], left: Float[Tensor, "k p"], right: Float[Tensor, "l p"]) -> None:
    """Add `left @ right.T` to a matrix in float64.

    Few rows leave most of a GPU idle. There the entries are cut into parts, whose products run side by side and are
    summed in float64, so that the sum is no less exact.
    """
    parts = 1 if left.device.type == "cpu" else _parts(len(left), left.shape[1], len(right))
    if parts == 1:
        matrix += left @ right.T
    else:
        add_in_parts(matrix, left, right, parts)


def add_in_parts(
    matrix: Float[Tensor, "k l"], left: Float[Tensor, "k p"], right: Float[Tensor, "l p"], parts: int
) -> None:
    """Add `left @ right.T` to a matrix as a sum over parts of the entries, side by side."""
    width = left.shape[1] // parts // _STEP * _STEP
    cut = [side[:, : parts * width].unflatten(1, (parts, width)).transpose(0, 1) for side in (left, right)]
    matrix += torch.bmm(cut[0], cut[1].mT).sum(0, dtype=matrix.dtype)
    if parts * width < left.shape[1]:
        matrix += left[:, parts * width :] @ right[:, parts * width :].T


def add_triangle(matrix: Tensor, chunk: Float[Tensor, "k p"], depth: int = 3) -> None:
    """Add the lower triangle of `chunk @ chunk.T` to `matrix`, halving squares on the diagonal `depth` times."""
    if depth == 0 or not _halved(chunk):
        add_product(matrix, chunk, chunk)
        return
    half = len(chunk) // 2
    add_triangle(matrix[:half, :half], chunk[:half], depth - 1)
    add_triangle(matrix[half:, half:], chunk[half:], depth - 1)
    add_product(matrix[half:, :half], chunk[half:], chunk[:half])


def mirror(matrix: Float[Tensor, "k k"]) -> None:
    """Copy the lower triangle to the upper one."""
    matrix.copy_(matrix.tril() + matrix.tril(-1).T)


def _halved(chunk: Float[Tensor, "k p"]) -> bool:
    """Whether two small squares and one beside them cost less than a whole one."""
    if chunk.device.type == "cpu":
        return len(chunk) >= 32
    return len(chunk) // 2 * chunk.element_size() >= _HALVED_BYTES and chunk.shape[1] >= _HALVED_ENTRIES


def _parts(rows: int, entries: int, columns: int) -> int:
    """How many parts keep a GPU busy: without a remainder where there is such a number, for a rest is slow by itself."""
    squares = -(-rows // _SQUARE) * -(-columns // _SQUARE)
    most = max(1, min(_SQUARES // squares, entries // _LEAST))
    return next((parts for parts in range(most, most // 2, -1) if entries % (_STEP * parts) == 0), most)
