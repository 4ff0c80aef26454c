r"""Kernels of linear blocks by token Grams.

K[n, c, m, d] = sum_{t, s} (x[n, t] . x'[m, s]) (g[n, c, t] . g'[m, d, s])

Through the matrix A of an adapter the first factor is (A x[n, t] . A x'[m, s]), and the second is the same: the kernels
of all ranks take it from there.

Tokens without a gradient (padding; all but the answer's in a last layer) are left out, so that the products run over
the tokens of all examples laid end to end. For a symmetric kernel the columns of some examples end with themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


@dataclass(frozen=True)
class Seeing:
    """The matrix A that the inputs of a block are seen through.

    Attributes:
        a: its rows.
        ranks: how many of them are used, ascending; the last is all.
    """

    a: Float[Tensor, "r i"]
    ranks: Sequence[int]


def token_gram_kernels(
    names: Sequence[str],
    rows: Tile,
    columns: Tile,
    space: Workspace,
    seen: Callable[[str], Seeing | None] = lambda _: None,
    *,
    same: bool,
) -> Iterator[tuple[str, Float[Tensor, "n c m d"], dict[int, Float[Tensor, "n c m d"]]]]:
    """Kernels of linear blocks by token Grams: some rows against all columns at once.

    Blocks with the same input (q, k and v) share its token Gram.

    Args:
        names: linear blocks.
        rows, columns: gradient factors.
        space: the packed factors and the products live here.
        seen: what a block's kernels through A are made with; None where they are not wanted.
        same: the columns are the rows: one triangle is computed.

    Yields:
        Name, kernel and kernels through A by rank, float64.
    """
    left = Packer(rows, space, "rows")
    right = left if same else Packer(columns, space, "columns")
    shared = _Shared(same=same)
    for name in names:
        adapters = seen(name)
        ranks = () if adapters is None else adapters.ranks
        kernel, *through = (zero_kernel(rows, columns) for _ in range(1 + len(ranks)))
        first = left.packed(name)
        second = first if same else right.packed(name)
        if first is not None and second is not None:
            _fill(kernel, through, first, second, adapters, shared, space)
        if same:
            for each in (kernel, *through):
                mirror(each.view(each.shape[0] * each.shape[1], -1))
        yield name, kernel, dict(zip(ranks, through, strict=True))


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


def _fill(
    kernel: Float64[Tensor, "n c m d"],
    through: Sequence[Float64[Tensor, "n c m d"]],
    first: Packed,
    second: Packed,
    seen: Seeing | None,
    shared: _Shared,
    space: Workspace,
) -> None:
    """The kernel of one block, and those through A."""
    c = first.layout.c
    left, right = (None, None) if seen is None else (first.x @ seen.a.T, second.x @ seen.a.T)  # (t, r), (s, r)
    for piece in shared.pieces_of(first, second):
        gram = shared.gram(first, second, piece)  # (t, s)
        entries = space.matrices("entries", c, *gram.shape)
        lengths = second.layout.lengths[: piece.last]
        for output, others in enumerate(second.g):
            torch.bmm(first.g[:, piece.rows], others[: piece.width].T.expand(c, -1, -1), out=entries)
            if seen is not None and left is not None and right is not None:
                weighted, grown = space.matrices("weighted", *entries.shape), space.matrices("through A", *gram.shape)
                grams = _growing(left[piece.rows], right[: piece.width], seen.ranks, grown)
                for part, of_rank in zip(through, grams, strict=True):
                    _sum_tokens(part, output, torch.mul(entries, of_rank, out=weighted), piece, lengths)
            entries *= gram
            _sum_tokens(kernel, output, entries, piece, lengths)


def _growing(
    left: Float[Tensor, "t r"], right: Float[Tensor, "s r"], ranks: Sequence[int], into: Float[Tensor, "t s"]
) -> Iterator[Float[Tensor, "t s"]]:
    """The products of tokens over the first columns, rank by rank, in the same memory."""
    into.zero_()
    for begin, end in pairwise((0, *ranks)):
        yield into.addmm_(left[:, begin:end], right[:, begin:end].T)


def _sum_tokens(
    kernel: Float64[Tensor, "n c m d"], output: int, entries: Float[Tensor, "c t s"], piece: _Piece, lengths: Tensor
) -> None:
    """Put the sums over the tokens of each pair of examples where they belong."""
    of_examples = (piece.members @ entries).permute(2, 1, 0).double()  # (s, n, c)
    summed = torch.segment_reduce(of_examples, "sum", lengths=lengths, unsafe=True)  # (m, n, c)
    kernel[piece.begin : piece.end, :, : piece.last, output] = summed.permute(1, 2, 0)
