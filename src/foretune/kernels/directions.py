r"""What gradients have in common is held exactly, in a few directions, so that a sketch has only the rest to estimate.

Gradients of different texts are much alike, and a sketch errs by a share of all that it estimates. For each block take
orthonormal directions D_1, ..., D_m of the space of gradients:

    a(x)    = (<df(x), D_1>, ..., <df(x), D_m>)
    psi(x)  = [ phi(x) - a(x)' phi(D),  a(x) ]

The second part is exact, the first the sketch of what is left, which is orthogonal to it: `psi psi'` stays unbiased, and
its error is a share of the rest alone. The directions depend on some examples, not on the signs of the sketch.

They lie in a Tucker subspace, `D_m = sum_ab W[ab, m] u_a v_b'` with orthonormal u of output features and v of input
features. So no gradient is formed: `<df, u_a v_b'> = sum_t (u_a . g_t) (v_b . x_t)`. The u span random combinations of the
columns of the examples' gradients, the v those of their rows (the range finder of Halko, Martinsson and Tropp 2011, for
each side), and W is the span of the examples' own cores. Of several outputs an example takes one sum with random signs,
so that their number does not change the work.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, RowFactor
from foretune.kernels.draws import draws
from foretune.kernels.sides import LayerInputs, Sides
from foretune.shapes import Float, Float64, Int

Key = TypeVar("Key", bound=Hashable)
WIDTH = 48
"""Vectors of each side of the subspace at most."""
_LEAST = 1e-5
"""Directions with less than this share of the largest eigenvalue are rounding."""


@dataclass(frozen=True)
class Directions:
    """Directions of the gradients of one block.

    Attributes:
        left: orthonormal vectors of output features.
        right: orthonormal vectors of input features.
        weights: of their products, orthonormal; a column of zeros stands for none.
        inputs: of which kind they are.
        slices: of the inputs.
    """

    left: Float[Tensor, "o p"]
    right: Float[Tensor, "i q"]
    weights: Float[Tensor, "pq m"]
    inputs: type[LayerInputs]
    slices: int

    def seen(self, sides: Sides) -> Float[Tensor, "_ t q"]:
        """The inputs of some gradients, seen through `right`."""
        return sides.inputs.through(self.right)

    def coordinates(self, g: Float[Tensor, "n t o"], seen: Float[Tensor, "_ t q"]) -> Float[Tensor, "n m"]:
        """The inner products with gradients of one output."""
        return _core(g, seen, self.left) @ self.weights


def examples_of(n: int, count: int) -> list[int]:
    """Training examples that directions are made of: so many at equal distances."""
    count = min(n, count)
    return [number * n // count for number in range(count)]


def directions_of(
    batches: Callable[[], Iterable[FactorBatch]],
    places: Sequence[int],
    sides: Callable[[FactorBatch], Mapping[Key, Sides]],
    seed: int,
) -> dict[Key, Directions]:
    """Directions of some examples' gradients: as many as there are examples, for each block.

    Args:
        batches: factors of one output of the examples, batch after batch; asked for twice.
        places: the examples.
        sides: block -> the two sides of its gradients in a batch; without a block that has none.
        seed: of the random combinations.
    """
    number = {place: row for row, place in enumerate(places)}
    spans: dict[Key, _Span] = {}
    for batch in batches():
        rows = [number[place] for place in batch.positions]
        for block, both in sides(batch).items():
            if block not in spans:
                spans[block] = _Span.empty(both, seed)
            spans[block].add(both, rows, len(places))
    cores = {block: span.left.new_zeros(len(places), span.size, dtype=span.dtype) for block, span in spans.items()}
    bases = {block: span.bases() for block, span in spans.items()}
    for batch in batches():
        rows = [number[place] for place in batch.positions]
        for block, both in sides(batch).items():
            left, right = bases[block]
            cores[block][rows] = _core(both.g[0], both.inputs.through(right), left)
    return {
        block: Directions(*bases[block], _spanned(cores.pop(block)), span.inputs, span.slices)
        for block, span in spans.items()
    }


def bytes_of_directions(features: int, inputs: int, count: int, k: int) -> int:
    """Bytes of the directions of a block while they are made, in float32 and the sums of their spans in float64.

    Args:
        features, inputs: of the two sides.
        count: directions.
        k: numbers of the sketch.
    """
    p, q = min(WIDTH, features), min(WIDTH, inputs)
    return 16 * (features * p + inputs * q) + 4 * count * (2 * p * q + k)


def with_one_output(batch: FactorBatch, seed: int) -> FactorBatch:
    """The factors of a sum of the outputs of each example, with signs of its own."""
    c = batch.outputs.shape[1]
    if c == 1:
        return batch
    drawn = np.stack([draws(seed, "sum of outputs", place).integers(0, 2, c) for place in batch.positions])
    signs = torch.from_numpy(2.0 * drawn - 1).to(batch.outputs.device, batch.outputs.dtype)
    factors = {name: _summed(factor, signs) for name, factor in batch.factors.items()}
    return FactorBatch(batch.positions, (signs * batch.outputs).sum(1, keepdim=True), factors)


def _summed(factor: Factor, signs: Float[Tensor, "n c"]) -> Factor:
    """The factor of a sum of outputs with signs."""
    if isinstance(factor, Products):
        parts = (g * sign.to(g.dtype)[:, None, None] for g, sign in zip(factor.g, signs.T, strict=True))
        return replace(factor, g=(torch.stack(list(parts)).sum(0),))
    if isinstance(factor, RowFactor):
        return replace(
            factor, values=torch.einsum("nc,ncto->nto", signs.to(factor.values.dtype), factor.values)[:, None]
        )
    return Dense.whole(torch.einsum("nc,ncp->np", signs.to(factor.values.dtype), factor.values)[:, None], factor.inputs)


@dataclass
class _Span:
    """Sums of random combinations of the columns and rows of gradients.

    Attributes:
        left, right: the sums.
        of_inputs, of_features: the combinations.
        dtype: precision of the gradients.
        inputs, slices: as in `Directions`.
    """

    left: Float64[Tensor, "o p"]
    right: Float64[Tensor, "i q"]
    of_inputs: Float[Tensor, "i p"]
    of_features: Float[Tensor, "o q"]
    dtype: torch.dtype
    inputs: type[LayerInputs]
    slices: int

    @classmethod
    def empty(cls, sides: Sides, seed: int) -> _Span:
        """Before any example."""
        like, o, i = sides.g[0], sides.g[0].shape[-1], sides.inputs.size
        p, q = min(WIDTH, o), min(WIDTH, i)
        combined = [
            torch.from_numpy(2.0 * draws(seed, "span", what, rows).integers(0, 2, (rows, WIDTH)) - 1)[:, :columns].to(
                like
            )
            for what, rows, columns in (("inputs", i, p), ("features", o, q))
        ]
        left, right = (torch.zeros(size, dtype=torch.float64, device=like.device) for size in ((o, p), (i, q)))
        return cls(left, right, combined[0], combined[1], like.dtype, type(sides.inputs), sides.inputs.slices)

    @property
    def size(self) -> int:
        """Entries of a core."""
        return self.left.shape[1] * self.right.shape[1]

    def add(self, sides: Sides, rows: Sequence[int], count: int) -> None:
        """Add the gradients of some examples, each to columns of its own where there are enough."""
        g, inputs = sides.g[0], sides.inputs
        mine = [_own_columns(rows, count, total).to(g) for total in (self.left.shape[1], self.right.shape[1])]
        seen = inputs.through(self.of_inputs) * mine[0][:, None]
        self.left += torch.einsum("nto,ntp->op", g, seen.expand(len(g), -1, -1))
        self.right += inputs.back((g @ self.of_features) * mine[1][:, None])

    def bases(self) -> tuple[Float[Tensor, "o p"], Float[Tensor, "i q"]]:
        """Orthonormal vectors that span the sums."""
        left, right = (torch.linalg.qr(sums)[0].to(self.dtype) for sums in (self.left, self.right))
        return left, right


def _own_columns(rows: Sequence[int], count: int, total: int) -> Int[Tensor, "n w"]:
    """One where a column is the example's: column j belongs to the examples that equal j modulo the smaller number."""
    least = min(count, total)
    return (torch.tensor(rows)[:, None] % least == torch.arange(total)[None] % least).long()


def _core(g: Float[Tensor, "n t o"], seen: Float[Tensor, "_ t q"], left: Float[Tensor, "o p"]) -> Float[Tensor, "n pq"]:
    """The entries of gradients in the coordinates of both bases."""
    return ((g @ left).mT @ seen).flatten(1)


def _spanned(cores: Float[Tensor, "m pq"]) -> Float[Tensor, "pq m"]:
    """Orthonormal vectors that span some rows, zeros for what is rounding."""
    rows = cores.double()
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept = values > _LEAST * values[-1:].clamp(min=0)
    scale = torch.where(kept, values.clamp(min=0), torch.inf).rsqrt()
    return (rows.T @ (vectors * scale)).to(cores.dtype)
