"""Products of few rows with very many entries, summed in float64: what every contraction ends in."""

from __future__ import annotations

import torch
from torch import Tensor

from foretune.shapes import Float

_SQUARE, _SQUARES = 128, 264
"""A multiprocessor of a GPU computes a square of so many rows and columns at once; so many squares occupy a large card."""
_LEAST, _STEP = 2048, 64
"""Entries of a part at least, and what their number is a multiple of."""


def add_product(matrix: Float[Tensor, "k l"], left: Float[Tensor, "k p"], right: Float[Tensor, "l p"]) -> None:
    """Add `left @ right.T` to a matrix in float64.

    Few rows leave most of a GPU idle. There the entries are cut into parts, whose products run side by side and are
    summed in float64, so that the sum is no less exact.
    """
    parts = 1 if left.device.type == "cpu" else _parts(len(left), left.shape[1], len(right))
    if parts == 1:
        matrix += (left @ right.T).double()
        return
    width = left.shape[1] // parts // _STEP * _STEP
    cut = [side[:, : parts * width].unflatten(1, (parts, width)).transpose(0, 1) for side in (left, right)]
    matrix += torch.bmm(cut[0], cut[1].mT).sum(0, dtype=matrix.dtype)
    if parts * width < left.shape[1]:
        matrix += (left[:, parts * width :] @ right[:, parts * width :].T).double()


def add_triangle(matrix: Tensor, chunk: Float[Tensor, "k p"], depth: int = 3) -> None:
    """Add the lower triangle of `chunk @ chunk.T` to `matrix`, halving squares on the diagonal `depth` times."""
    size = len(chunk)
    if depth == 0 or size < (32 if chunk.device.type == "cpu" else 2 * _SQUARE):
        add_product(matrix, chunk, chunk)
        return
    half = size // 2
    add_triangle(matrix[:half, :half], chunk[:half], depth - 1)
    add_triangle(matrix[half:, half:], chunk[half:], depth - 1)
    add_product(matrix[half:, :half], chunk[half:], chunk[:half])


def mirror(matrix: Float[Tensor, "k k"]) -> None:
    """Copy the lower triangle to the upper one."""
    matrix.copy_(matrix.tril() + matrix.tril(-1).T)


def _parts(rows: int, entries: int, columns: int) -> int:
    """How many parts keep a GPU busy."""
    squares = -(-rows // _SQUARE) * -(-columns // _SQUARE)
    return max(1, min(_SQUARES // squares, entries // _LEAST))
