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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foretune.gradients.factors import Products, live_tokens
from foretune.kernels.formula import Formula
from foretune.kernels.materialised import materialised_kernel
from foretune.kernels.tile import Tile, by_precision, linear_factors
from foretune.kernels.token_gram import token_gram_kernels
from foretune.shapes import Float

_FORM_COST = 2.0
"""A multiplication that forms gradients costs this many of a large product's: its inner dimension is a few tokens."""
_ENTRY_COST = 24.0
"""Multiplications that pass in the time of one read-multiply-sum over an entry of a token Gram."""


@dataclass(frozen=True)
class SGD(Formula):
    """The SGD kernel `<df, df'>` (Malladi et al. 2023, Definition 2.4). It has no parameters."""

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "sgd"

    @classmethod
    def together(
        cls, formulas: Sequence[Any], rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """See `Formula.together`."""
        for formula in formulas:
            for name, kernel in sgd_kernels(rows, columns, names[formula]):
                yield formula, name, kernel


def sgd_kernels(rows: Tile, columns: Tile, names: Sequence[str]) -> Iterator[tuple[str, Float[Tensor, "n c m d"]]]:
    """The SGD kernel of each block between two tiles; the same tile twice computes one triangle.

    Args:
        rows: gradient factors; examples are in the order of the batches.
        columns: factors of the columns.
        names: the blocks wanted.

    Yields:
        Name and kernel, float64 on the factors' device; zero where a block does not influence the outputs.
    """
    same = rows is columns
    for members, space in by_precision(names, rows, columns).values():
        grams = [name for name in members if _by_gram(name, rows, columns, same=same)]
        yield from token_gram_kernels(grams, rows, columns, space, same=same)
        for name in members:
            if name not in grams:
                yield name, materialised_kernel(name, rows, columns, space, same=same)


def _by_gram(name: str, rows: Tile, columns: Tile, *, same: bool) -> bool:
    """Whether the token Gram of a linear block costs fewer multiplications than materialising."""
    left, right = linear_factors(name, rows), linear_factors(name, columns)
    if not left or not right:
        return False
    if left[0].group is not None:
        return True
    gram, materialise = contraction_flops(left, right, same=same)
    return gram < materialise


def contraction_flops(
    left: Sequence[Products], right: Sequence[Products], *, same: bool, weighted: bool = True
) -> tuple[float, float]:
    """Multiplications of the token Gram and of materialising, for one block between two tiles.

    Weighted, those that run below the rate of a large matrix product count for more, which is what the choice needs.
    """
    c, inputs, features = len(left[0].g), left[0].x.shape[-1], left[0].features
    d = len(right[0].g)
    tokens_left = live_tokens(left)
    tokens_right = tokens_left if same else live_tokens(right)
    rows, columns = (sum(len(f.x) * len(f.g) for f in side) for side in (left, right))
    triangle = 0.5 if same else 1.0
    entry, form = (_ENTRY_COST, _FORM_COST) if weighted else (0.0, 1.0)
    gram = tokens_left * tokens_right * (inputs + c * d * (features + entry)) * triangle
    forming = form * (tokens_left * c + (0 if same else tokens_right * d)) * inputs * features
    return gram, forming + rows * columns * inputs * features * triangle
