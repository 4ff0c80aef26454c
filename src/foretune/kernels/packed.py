"""Factors of a linear block in all batches of a tile, end to end, without the tokens that have no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from foretune.gradients.factors import Products
from foretune.kernels.tile import Tile, Workspace
from foretune.shapes import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Where the tokens of a tile stand when those without a gradient are left out.

    Attributes:
        alive: for each batch, which tokens have a gradient; None where it does not use the block.
        counts: examples of each batch.
        c: outputs of the model.
    """

    alive: tuple[Bool[Tensor, "_ _"] | None, ...]
    counts: tuple[int, ...]
    c: int

    def fits(self, alive: Sequence[Bool[Tensor, "_ _"] | None]) -> bool:
        """Whether these tokens are the same."""
        return all(
            mine is theirs or (mine is not None and theirs is not None and torch.equal(mine, theirs))
            for mine, theirs in zip(self.alive, alive, strict=True)
        )

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens before each example, and after the last one."""
        lengths: list[int] = []
        for alive, count in zip(self.alive, self.counts, strict=True):
            lengths.extend([0] * count if alive is None else alive.sum(1).tolist())
        return tuple(accumulate(lengths, initial=0))

    @cached_property
    def tokens(self) -> tuple[Int[Tensor, " _"], ...]:
        """For each batch that uses the block, the places of its tokens in (n, t)."""
        return tuple(alive.reshape(-1).nonzero()[:, 0] for alive in self.alive if alive is not None)

    @cached_property
    def lengths(self) -> Int[Tensor, " n"]:
        """Tokens of each example."""
        device = next((alive.device for alive in self.alive if alive is not None), None)
        return torch.tensor(self.ends, device=device).diff()


@dataclass(frozen=True)
class Packed:
    """The factors of a block in all batches of a tile, end to end.

    Attributes:
        x: inputs, one row per token.
        g: derivatives of each output.
        group: the slice of a 3-D weight on which each token acts, if it is one.
        layout: which token belongs to which example.
        inputs: a number that changes with `x`.
    """

    x: Float[Tensor, "k i"]
    g: Float[Tensor, "c k o"]
    group: Int[Tensor, " k"] | None
    layout: PackedLayout
    inputs: int


class Packer:
    """Packs one block of a tile after the other; blocks with the same input share its packed form."""

    def __init__(self, tile: Tile, space: Workspace, side: str) -> None:
        self.tile, self.space, self.side = tile, space, side
        self.layout: PackedLayout | None = None
        self.packed_inputs: list[Tensor] = []
        self.x = space.like
        self.inputs = 0

    def packed(self, name: str) -> Packed | None:
        """The block's factors, valid until the next call; None where no token has a gradient."""
        found = [batch.factors.get(name) for batch in self.tile]
        factors = [factor if isinstance(factor, Products) else None for factor in found]
        layout = self._laid_out([None if factor is None else factor.alive for factor in factors])
        tokens = layout.ends[-1]
        if tokens == 0:
            return None
        used = [factor for factor in factors if factor is not None]
        inputs = [factor.x for factor in used]
        if [id(x) for x in inputs] != [id(x) for x in self.packed_inputs]:
            self.packed_inputs, self.inputs = inputs, self.inputs + 1
            features = inputs[0].shape[-1]
            self.x = self.space.take(f"inputs of the {self.side}", tokens * features).view(tokens, features)
            _gather(inputs, layout.tokens, self.x)
        features = used[0].features
        g = self.space.take(f"derivatives of the {self.side}", layout.c * tokens * features).view(-1, tokens, features)
        for output, into in enumerate(g):
            _gather([factor.g[output] for factor in used], layout.tokens, into)
        groups = [
            factor.group.reshape(-1)[place]
            for factor, place in zip(used, layout.tokens, strict=True)
            if factor.group is not None
        ]
        return Packed(self.x, g, torch.cat(groups) if groups else None, layout, self.inputs)

    def _laid_out(self, alive: list[Bool[Tensor, "_ _"] | None]) -> PackedLayout:
        """The layout of these tokens: the very same object as long as they do not change."""
        if self.layout is None or not self.layout.fits(alive):
            counts = tuple(len(batch.positions) for batch in self.tile)
            self.layout = PackedLayout(tuple(alive), counts, self.tile[0].outputs.shape[1])
            self.packed_inputs = []
        return self.layout


def _gather(
    parts: Sequence[Float[Tensor, "... f"]], places: Sequence[Int[Tensor, " _"]], into: Float[Tensor, "k f"]
) -> None:
    """The wanted rows of all parts, below each other."""
    start = 0
    for part, at in zip(parts, places, strict=True):
        rows, place = part.reshape(-1, part.shape[-1]), into[start : start + len(at)]
        if part.dtype == into.dtype:
            torch.index_select(rows, 0, at, out=place)
        else:
            place.copy_(rows.index_select(0, at))
        start += len(at)
