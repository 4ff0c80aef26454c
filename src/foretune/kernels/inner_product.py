r"""Kernels that are inner products of gradients: whole ones, or seen through the matrix A of an adapter.

For a linear layer over tokens there are two exact ways to the same number (Novak et al. 2022, section 4: structured
derivatives against Jacobian contraction):

    token Gram     K[n, c, m, d] = sum_{t, s} (x[n, t] . x'[m, s]) (g[n, c, t] . g'[m, d, s])
    materialise    dW[n, c] = sum_t g[n, c, t] (outer) x[n, t];   K = <dW, dW'>

The first costs `T T' (i + c d o)` multiplications a pair of examples, the second `c d i o` a pair and `c T i o` an
example. Whichever has fewer is taken, for each block and pair of tiles. Through A the inputs are `A x`, r numbers
instead of i; the products `g . g'` are the same as those of the whole gradients, so that kernels of adapters cost little
more beside a token Gram: whether they are taken from there is part of the same choice. Sums run in the factors'
precision within a product and in float64 across products.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, live_tokens
from foretune.kernels.adapter import Initialisation
from foretune.kernels.draws import drawn_rows
from foretune.kernels.formula import Formula
from foretune.kernels.materialised import gradient_chunks, materialised_kernel, side_of
from foretune.kernels.products import add_product, add_triangle, mirror
from foretune.kernels.tile import Tile, Workspace, by_precision, linear_factors, zero_kernel
from foretune.kernels.token_gram import Seeing, token_gram_kernels
from foretune.shapes import Float

_FORM_COST = 2.0
"""A multiplication that forms gradients costs this many of a large product's: its inner dimension is a few tokens."""
_ENTRY_COST = 24.0
"""Multiplications that pass in the time of one read-multiply-sum over an entry of a token Gram."""


@dataclass(frozen=True)
class Through:
    """What gradients are seen through: the first rows of a common drawing, as `draws.drawn_rows` makes it.

    Attributes:
        init, seed: of the drawing.
        rank: rows.
        strength: what the kernel is multiplied with.
    """

    init: Initialisation
    seed: int
    rank: int
    strength: float


class InnerProduct(Formula):
    """What the kernels of this family have in common."""

    @property
    def family(self) -> type[Formula]:
        """They share the products of derivatives."""
        return InnerProduct

    @property
    @abstractmethod
    def through(self) -> Through | None:
        """What gradients are seen through; None where they are whole."""

    @classmethod
    def together(
        cls, formulas: Sequence[Any], rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """See `Formula.together`."""
        whole = next((formula for formula in formulas if formula.through is None), None)
        drawings: dict[tuple[Initialisation, int], list[InnerProduct]] = defaultdict(list)
        for formula in formulas:
            if formula.through is not None:
                drawings[formula.through.init, formula.through.seed].append(formula)
        alike = [_Alike(init, seed, members, names) for (init, seed), members in drawings.items()]
        done: set[str] = set()
        if whole is not None:
            beside = alike[0] if alike else None
            for name, kernel, by_rank in _whole_kernels(rows, columns, names[whole], beside):
                yield whole, name, kernel
                if beside is not None and by_rank:
                    done.add(name)
                    yield from beside.of(name, by_rank)
        for number, each in enumerate(alike):
            wanted = [name for name in each.names if number or name not in done]
            for blocks, space in by_precision(wanted, rows, columns).values():
                for name in blocks:
                    yield from each.of(name, _adapter_kernels(name, each, rows, columns, space))


class _Alike:
    """Adapters whose matrices are rows of one drawing.

    Args:
        init, seed: of the drawing.
        members: the adapters.
        names: the blocks of each.
    """

    def __init__(
        self, init: Initialisation, seed: int, members: list[InnerProduct], names: Mapping[Formula, Sequence[str]]
    ) -> None:
        self.init, self.seed = init, seed
        self._users: dict[str, list[tuple[InnerProduct, Through]]] = defaultdict(list)
        for formula in members:
            for name in names[formula]:
                if formula.through is not None:
                    self._users[name].append((formula, formula.through))

    @property
    def names(self) -> Collection[str]:
        """All blocks."""
        return self._users.keys()

    def ranks(self, name: str) -> list[int]:
        """The ranks wanted of a block, ascending."""
        return sorted({through.rank for _, through in self._users.get(name, ())})

    def seen(self, name: str, inputs: int, like: Tensor) -> Seeing:
        """The matrix A of a block, and the ranks wanted of it."""
        ranks = self.ranks(name)
        drawn = torch.from_numpy(drawn_rows(self.init, self.seed, name, ranks[-1], inputs))
        return Seeing(drawn.to(like.device, like.dtype), ranks)

    def of(
        self, name: str, by_rank: Mapping[int, Float[Tensor, "n c m d"]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """The kernels of a block, from those of the drawing."""
        for formula, through in self._users[name]:
            yield formula, name, by_rank[through.rank] * through.strength


def sgd_kernels(rows: Tile, columns: Tile, names: Sequence[str]) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
    """The SGD kernel of each block between two tiles; the same tile twice computes one triangle.

    Args:
        rows: gradient factors; examples are in the order of the batches.
        columns: factors of the columns.
        names: the blocks wanted.

    Yields:
        Name and kernel, float64 on the factors' device; zero where a block does not influence the outputs.
    """
    for name, kernel, _ in _whole_kernels(rows, columns, names, None):
        yield name, kernel


def _whole_kernels(
    rows: Tile, columns: Tile, names: Sequence[str], beside: _Alike | None
) -> Iterator[tuple[str, Float[Tensor, "n c m d"], dict[int, Float[Tensor, "n c m d"]]]]:
    """As `sgd_kernels`, and kernels of adapters by rank, before scaling, of the blocks where this costs less."""
    same = rows is columns
    for members, space in by_precision(names, rows, columns).values():
        ways = {
            name: _by_gram(name, rows, columns, beside.ranks(name) if beside else [], same=same) for name in members
        }

        def seen(name: str, ways: Mapping[str, tuple[bool, bool]] = ways, like: Tensor = space.like) -> Seeing | None:
            if beside is None or not ways[name][1]:
                return None
            return beside.seen(name, linear_factors(name, rows)[0].x.shape[-1], like)

        grams = [name for name, (gram, _) in ways.items() if gram]
        yield from token_gram_kernels(grams, rows, columns, space, seen, same=same)
        for name in members:
            if not ways[name][0]:
                yield name, materialised_kernel(name, rows, columns, space, same=same), {}


def kernel_beside(formula: InnerProduct, name: str, rows: Tile, columns: Tile) -> Float[Tensor, "n c m d"] | None:
    """The kernel of an adapter as it is made beside a token Gram; None where it never is.

    Args:
        formula: of the adapter.
        name: the block.
        rows, columns: gradient factors.
    """
    linear, through = linear_factors(name, rows), formula.through
    if through is None or not linear or not _may_be_beside(linear[0]):
        return None
    alike = _Alike(through.init, through.seed, [formula], {formula: [name]})
    [(_, space)] = by_precision([name], rows, columns).values()
    seeing = alike.seen(name, linear[0].x.shape[-1], space.like)
    [(_, _, by_rank)] = token_gram_kernels([name], rows, columns, space, lambda _: seeing, same=rows is columns)
    return by_rank[through.rank] * through.strength


def _may_be_beside(factor: Products) -> bool:
    """Whether adapters' kernels can be made beside the token Gram of a block: not on a GPU, where it was not measured."""
    return factor.group is None and factor.x.device.type == "cpu"


def _by_gram(name: str, rows: Tile, columns: Tile, ranks: Sequence[int], *, same: bool) -> tuple[bool, bool]:
    """Whether the token Gram of a linear block costs fewer multiplications than materialising; adapters' with it, too."""
    left, right = linear_factors(name, rows), linear_factors(name, columns)
    if not left or not right:
        return False, False
    if left[0].group is not None:
        return True, False
    gram, materialise = contraction_flops(left, right, same=same)
    if ranks and _may_be_beside(left[0]):
        beside, apart = adapter_flops(left, right, ranks, same=same)
        if gram + beside < min(gram, materialise) + apart:
            return True, True
    return gram < materialise, False


class _Work(NamedTuple):
    """How often something is multiplied in one block between two tiles, half of it for a tile against itself.

    Attributes:
        token_pairs: tokens of the rows times tokens of the columns.
        pairs: examples and outputs of the rows times those of the columns.
        formed: tokens and outputs that are summed into gradients.
    """

    token_pairs: float
    pairs: float
    formed: int

    @classmethod
    def between(cls, left: Sequence[Products], right: Sequence[Products], *, same: bool) -> _Work:
        """That of two sides."""
        tokens_left = live_tokens(left)
        tokens_right = tokens_left if same else live_tokens(right)
        rows, columns = (sum(len(f.x) * len(f.g) for f in side) for side in (left, right))
        triangle = 0.5 if same else 1.0
        formed = tokens_left * len(left[0].g) + (0 if same else tokens_right * len(right[0].g))
        return cls(tokens_left * tokens_right * triangle, rows * columns * triangle, formed)


def contraction_flops(
    left: Sequence[Products], right: Sequence[Products], *, same: bool, weighted: bool = True
) -> tuple[float, float]:
    """Multiplications of the token Gram and of materialising, for one block between two tiles.

    Weighted, those that run below the rate of a large matrix product count for more, which is what the choice needs.
    """
    work, inputs, features = _Work.between(left, right, same=same), left[0].x.shape[-1], left[0].features
    entry, form = (_ENTRY_COST, _FORM_COST) if weighted else (0.0, 1.0)
    gram = work.token_pairs * (inputs + len(left[0].g) * len(right[0].g) * (features + entry))
    return gram, (form * work.formed + work.pairs) * inputs * features


def adapter_flops(
    left: Sequence[Products], right: Sequence[Products], ranks: Sequence[int], *, same: bool
) -> tuple[float, float]:
    """Weighted multiplications of adapters' kernels: what they add to a token Gram, and by themselves.

    Args:
        left, right, same: see `contraction_flops`.
        ranks: of the adapters, ascending.
    """
    work = _Work.between(left, right, same=same)
    beside = work.token_pairs * len(right[0].g) * (ranks[-1] + len(left[0].g) * _ENTRY_COST * len(ranks))
    return beside, (_FORM_COST * work.formed + work.pairs) * ranks[-1] * left[0].features


def _adapter_kernels(
    name: str, alike: _Alike, rows: Tile, columns: Tile, space: Workspace
) -> dict[int, Float[Tensor, "n c m d"]]:
    """Kernels of one block by rank, before scaling: each adds the columns between the next smaller rank and its own."""
    ranks = alike.ranks(name)
    kernel = zero_kernel(rows, columns)
    n, c, m, d = kernel.shape
    found = kernel.new_zeros(len(ranks), n * c, m * d)
    same = rows is columns
    factors = (batch.factors.get(name) for batch in (*rows, *columns))
    inputs = next((input_features(name, factor) for factor in factors if factor is not None), 0)
    if inputs:
        a = alike.seen(name, inputs, space.like).a  # (r, i)
        left = side_of(name, _adapted(name, rows, a))
        right = left if same else side_of(name, _adapted(name, columns, a))
        for _, first, second in gradient_chunks(left, right, space):
            for matrix, (begin, end) in zip(found, pairwise((0, *ranks)), strict=True):
                part = _of_columns(first, ranks[-1], begin, end)
                if same:
                    add_triangle(matrix, part)
                else:
                    add_product(matrix, part, _of_columns(second, ranks[-1], begin, end))
    for before, matrix in pairwise(found):
        matrix += before
    if same:
        for matrix in found:
            mirror(matrix)
    return {rank: part.view_as(kernel) for rank, part in zip(ranks, found, strict=True)}


def _of_columns(chunk: Float[Tensor, "k p"], rank: int, begin: int, end: int) -> Float[Tensor, "k q"]:
    """The columns `begin:end` of gradients (outputs, rank), some of whose rows are laid end to end."""
    return chunk.view(len(chunk), -1, rank)[:, :, begin:end].flatten(1)


def _adapted(name: str, tile: Tile, a: Float[Tensor, "r i"]) -> list[FactorBatch]:
    """The factors of B: the layer's inputs, or a gradient from autograd, seen through A."""
    found = []
    for batch in tile:
        factor = batch.factors.get(name)
        factors: dict[str, Factor] = {}
        if isinstance(factor, Products):
            factors = {name: replace(factor, x=factor.x @ a.T.to(factor.x.dtype))}
        elif isinstance(factor, Dense) and factor.inputs is not None:
            matrix = factor.values.unflatten(-1, (-1, factor.inputs))  # (n, c, o, i)
            factors = {name: Dense.whole((matrix @ a.T.to(matrix.dtype)).flatten(2))}
        found.append(replace(batch, factors=factors))
    return found


def input_features(name: str, factor: Factor) -> int:
    """Input features of an adapted weight.

    Raises:
        UsageError: the weight is used in a way that no adapter has.
    """
    if isinstance(factor, Products):
        return factor.x.shape[-1]
    if isinstance(factor, Dense) and factor.inputs is not None:
        return factor.inputs
    raise UsageError(
        f"LoRA has no kernel for {name!r}: this model uses the weight as a table, not as a linear layer. Name other "
        "modules: LoRA(targets=...), or --target-modules."
    )
