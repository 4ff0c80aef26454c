r"""Landmarks: a few examples whose gradients are held exactly, so that a sketch has only the rest to estimate.

Gradients of different texts are much alike: most of a kernel is what all examples share, and a sketch errs by a share of
that, which is more than what tells the examples apart. With the gradients V of some examples, for each block

    alpha(x) = K_VV^-1 K_V(x)                       the best combination of V for df(x)
    psi(x)   = [ phi(x) - alpha(x)' phi(V),  K_VV^-1/2 K_V(x) ]

the second part is the exact kernel of what V spans (Nystroem's approximation), the first the sketch of what is left, which
is orthogonal to it: `psi psi'` stays unbiased, and its error is a share of the rest alone. Kernels with V are exact
contractions, linear in the number of examples. Of several outputs a landmark takes one sum with random signs, so that the
work for each example and output does not grow with their number. Blocks that are kept whole need no landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, RowFactor
from foretune.kernels.draws import draws
from foretune.kernels.formula import Formula, contracted
from foretune.kernels.sketch import Sketcher, Wanted
from foretune.kernels.tile import Tile
from foretune.shapes import Float, Float64

_LEAST = 1e-5
"""Directions of the landmarks with less than this share of the largest eigenvalue are rounding."""


@dataclass(frozen=True)
class Landmarks:
    """The gradients of some examples, in every block that is sketched.

    Attributes:
        tile: factors of the landmarks.
        wanted: blocks that are sketched.
        sketches: their own features, of each block.
        roots: K_VV^-1/2 of each block.
    """

    tile: Tile
    wanted: Sequence[Wanted]
    sketches: Float[Tensor, "b v k"]
    roots: Float64[Tensor, "b v v"]

    @classmethod
    def of(cls, tile: Tile, wanted: Sequence[Wanted], sketcher: Sketcher) -> Landmarks:
        """Those of the examples of a tile, one sum of the outputs of each."""
        mixed = [block for block in wanted if not block.exact]
        one = [_with_one_output(batch, sketcher.sketch.seed) for batch in tile]
        sketches = torch.cat([torch.stack(sketcher.features(batch, mixed))[:, :, 0] for batch in one], dim=1)
        values, vectors = torch.linalg.eigh(_with(one, one, mixed))
        kept = values > _LEAST * values[:, -1:].clamp(min=0)
        scale = torch.where(kept, values.clamp(min=0), torch.inf).rsqrt()
        return cls(one, mixed, sketches, (vectors * scale[:, None]) @ vectors.mT)

    def features(self, rows: Tile, sketched: Float[Tensor, "b n c k"]) -> Float[Tensor, "b n c j"]:
        """Psi of a tile from its sketch: k numbers of the rest, then those of what the landmarks span."""
        _, n, c, _ = sketched.shape
        spanned = _with(rows, self.tile, self.wanted) @ self.roots  # (b, n * c, v)
        alpha = (spanned @ self.roots.mT).to(sketched.dtype)
        rest = sketched.flatten(1, 2) - alpha @ self.sketches
        return torch.cat([rest, spanned.to(sketched.dtype)], dim=-1).unflatten(1, (n, c))


def _with(rows: Tile, columns: Tile, wanted: Sequence[Wanted]) -> Float64[Tensor, "b r v"]:
    """The exact kernels of all blocks between two tiles."""
    numbers: dict[tuple[Formula, str], int] = {}
    blocks: dict[Formula, list[str]] = {}
    for number, block in enumerate(wanted):
        numbers[block.formula, block.name] = number
        blocks.setdefault(block.formula, []).append(block.name)
    r, v = (sum(batch.outputs.numel() for batch in tile) for tile in (rows, columns))
    outputs = rows[0].outputs
    found = torch.zeros(len(numbers), r, v, dtype=torch.float64, device=outputs.device)
    for formula, name, kernel in contracted(rows, columns, blocks):
        found[numbers[formula, name]] = kernel.reshape(r, v)
    return found


def _with_one_output(batch: FactorBatch, seed: int) -> FactorBatch:
    """The factors of a sum of the outputs of each example, with signs of its own."""
    c = batch.outputs.shape[1]
    if c == 1:
        return batch
    drawn = np.stack([draws(seed, "landmark", place).integers(0, 2, c) for place in batch.positions])
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
