r"""Kernels of linear blocks by token Grams.

K[n, c, m, d] = sum_{t, s} (x[n, t] . x'[m, s]) (g[n, c, t] . g'[m, d, s])

Tokens without a gradient (padding; all but the answer's in a last layer) are left out, so that the products run over
the tokens of all examples laid end to end. For a symmetric kernel the columns of some examples end with themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune.kernels import tile as tiles_of
from foretune.kernels.packed import Packed, PackedLayout, Packer
from foretune.kernels.products import mirror
from foretune.kernels.tile import Tile, Workspace, aligned, zero_kernel
from foretune.shapes import Float, Float64

_DIAGONAL_PIECES, _GPU_DIAGONAL_PIECES = 4, 8
"""A symmetric kernel is cut into so many pieces of rows; each computes about half of its own square too much."""
_MOST_SUMS, _GPU_MOST_SUMS = 16, 256
"""Examples times outputs of a piece: summing its tokens costs so many multiplications an entry."""


def token_gram_kernels(
    names: Sequence[str], rows: Tile, columns: Tile, space: Workspace, *, same: bool
) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
    """Kernels of linear blocks by token Grams: some rows against all columns at once.

    Blocks with the same input (q, k and v) share its token Gram.

    Args:
        names: linear blocks.
        rows, columns: gradient factors.
        space: the packed factors and the products live here.
        same: the columns are the rows: one triangle is computed.

    Yields:
        Name and kernel, float64.
    """
    left = Packer(rows, space, "rows")
    right = left if same else Packer(columns, space, "columns")
    shared = _Shared(same=same)
    for name in names:
        kernel = zero_kernel(rows, columns)
        first = left.packed(name)
        second = first if same else right.packed(name)
        if first is not None and second is not None:
            _fill(kernel, first, second, shared, space)
        if same:
            mirror(kernel.view(kernel.shape[0] * kernel.shape[1], -1))
        yield name, kernel


@dataclass(frozen=True)
class _Piece:
    """Consecutive examples of the rows, and the columns that they are contracted with.

    Attributes:
        begin, end: the examples.
        rows: their tokens.
        last: examples of the columns.
        width: their tokens.
        members: one where a token of the rows belongs to an example.
    """

    begin: int
    end: int
    rows: slice
    last: int
    width: int
    members: Float[Tensor, "n t"]


class _Shared:
    """What blocks share: the pieces as long as tokens stay, token Grams `x[t] . x'[s]` as long as inputs do."""

    def __init__(self, *, same: bool) -> None:
        self.same = same
        self.layouts: tuple[object, ...] = ()
        self.pieces: list[_Piece] = []
        self.inputs: tuple[int, ...] = ()
        self.grams: dict[int, Tensor] = {}

    def pieces_of(self, first: Packed, second: Packed) -> list[_Piece]:
        """The work on one block: few examples at a time, so that their products stay in cache."""
        if self.layouts != (first.layout, second.layout):
            self.layouts = (first.layout, second.layout)
            self.pieces = list(_pieces(first, second.layout, same=self.same))
        return self.pieces

    def gram(self, first: Packed, second: Packed, piece: _Piece) -> Float[Tensor, "t s"]:
        """The Gram of a piece's tokens with those of its columns."""
        if self.inputs != (first.inputs, second.inputs):
            self.inputs, self.grams = (first.inputs, second.inputs), {}
        gram = self.grams.get(piece.begin)
        if gram is None:
            gram = _gram(first.x[piece.rows], second.x[: piece.width])
            if sum(kept.nbytes for kept in self.grams.values()) + gram.nbytes <= 4 * tiles_of.chunk_bytes():
                self.grams[piece.begin] = gram
        if first.group is not None and second.group is not None:
            return gram * (first.group[piece.rows, None] == second.group[: piece.width])
        return gram


def _gram(left: Float[Tensor, "t i"], right: Float[Tensor, "s i"]) -> Float[Tensor, "t s"]:
    """The products of two lists of tokens."""
    width = aligned(len(right), right.device)
    if width == len(right):
        return left @ right.T
    return torch.mm(left, right.T, out=left.new_empty(len(left), width)[:, : len(right)])


def _pieces(first: Packed, columns: PackedLayout, *, same: bool) -> Iterator[_Piece]:
    """Pieces whose products fill a chunk; of a symmetric kernel each has a share of the examples at most."""
    layout = first.layout
    ends, n = layout.ends, len(layout.ends) - 1
    on_cpu = first.x.device.type == "cpu"
    sums, diagonal = (_MOST_SUMS, _DIAGONAL_PIECES) if on_cpu else (_GPU_MOST_SUMS, _GPU_DIAGONAL_PIECES)
    most = max(1, min(-(-n // diagonal) if same else n, sums // layout.c))
    token_bytes = layout.c * columns.ends[-1] * first.x.element_size()
    end = 0
    while end < n:
        begin, end = end, end + 1
        while end < min(n, begin + most) and (ends[end + 1] - ends[begin]) * token_bytes <= tiles_of.chunk_bytes():
            end += 1
        last = end if same else len(columns.ends) - 1
        if ends[end] > ends[begin] and columns.ends[last]:
            owners = torch.arange(begin, end, device=layout.lengths.device)
            of_token = owners.repeat_interleave(layout.lengths[begin:end])
            members = first.x.new_empty(end - begin, aligned(len(of_token), of_token.device))[:, : len(of_token)]
            members.copy_(owners[:, None] == of_token)
            yield _Piece(begin, end, slice(ends[begin], ends[end]), last, columns.ends[last], members)


def _fill(kernel: Float64[Tensor, "n c m d"], first: Packed, second: Packed, shared: _Shared, space: Workspace) -> None:
    """The kernel of one block."""
    c = first.layout.c
    for piece in shared.pieces_of(first, second):
        gram = shared.gram(first, second, piece)  # (t, s)
        entries = space.matrices("entries", c, *gram.shape)
        lengths = second.layout.lengths[: piece.last]
        for output, others in enumerate(second.g):
            torch.bmm(first.g[:, piece.rows], others[: piece.width].T.expand(c, -1, -1), out=entries)
            entries *= gram
            of_examples = (piece.members @ entries).permute(2, 1, 0).double()  # (s, n, c)
            summed = torch.segment_reduce(of_examples, "sum", lengths=lengths, unsafe=True)  # (m, n, c)
            kernel[piece.begin : piece.end, :, : piece.last, output] = summed.permute(1, 2, 0)
