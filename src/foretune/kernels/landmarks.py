r"""Landmarks: a few examples whose gradients are held exactly, so that a sketch has only the rest to estimate.

Gradients of different texts are much alike: most of a kernel is what all examples share, and a sketch errs by a share of
that, which is more than what tells the examples apart. With the gradients V of some examples, for each block

    alpha(x) = K_VV^-1 K_V(x)                       the best combination of V for df(x)
    psi(x)   = [ K_VV^-1/2 K_V(x),  phi(x) - alpha(x)' phi(V) ]

the first part is the exact kernel of what V spans (Nystroem's approximation), the second the sketch of what is left, which
is orthogonal to it: `psi psi'` stays unbiased, and its error is a share of the rest alone. Kernels with V are exact
contractions, linear in the number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune.gradients.factors import FactorBatch
from foretune.kernels.formula import Formula, contracted
from foretune.kernels.sketch import Sketcher
from foretune.kernels.tile import Tile
from foretune.shapes import Float, Float64

_LEAST = 1e-5
"""Directions of the landmarks with less than this share of the largest eigenvalue are rounding."""


@dataclass(frozen=True)
class Landmarks:
    """The gradients of some examples, in every block.

    Attributes:
        tile: factors of the landmarks.
        blocks: formula -> the blocks of its kernel.
        sketches: their own features, of each block.
        roots: K_VV^-1/2 of each block.
    """

    tile: Tile
    blocks: Mapping[Formula, Sequence[str]]
    sketches: Float[Tensor, "v b k"]
    roots: Float64[Tensor, "b v v"]

    @classmethod
    def of(cls, tile: Tile, blocks: Mapping[Formula, Sequence[str]], sketcher: Sketcher) -> Landmarks:
        """Those of the examples of a tile."""
        sketches = torch.cat([sketcher.features(batch, blocks).flatten(0, 1) for batch in tile])
        values, vectors = torch.linalg.eigh(_with(tile, tile, blocks))
        kept = values > _LEAST * values[:, -1:].clamp(min=0)
        scale = torch.where(kept, values.clamp(min=0), torch.inf).rsqrt()
        return cls(tile, blocks, sketches, (vectors * scale[:, None]) @ vectors.mT)

    def features(self, batch: FactorBatch, sketched: Float[Tensor, "n c b k"]) -> Float[Tensor, "n c b j"]:
        """Psi of a batch from its sketch: k numbers of the rest, then those of what the landmarks span."""
        n, c = batch.outputs.shape
        spanned = _with([batch], self.tile, self.blocks) @ self.roots  # (b, n * c, v)
        alpha = (spanned @ self.roots.mT).to(sketched.dtype)
        shared = torch.bmm(alpha, self.sketches.transpose(0, 1)).transpose(0, 1).unflatten(0, (n, c))
        exact = spanned.to(sketched.dtype).transpose(0, 1).unflatten(0, (n, c))
        return torch.cat([sketched - shared, exact], dim=-1)


def _with(rows: Tile, columns: Tile, blocks: Mapping[Formula, Sequence[str]]) -> Float64[Tensor, "b r v"]:
    """The exact kernels of all blocks between two tiles."""
    numbers: dict[tuple[Formula, str], int] = {}
    for formula, names in blocks.items():
        for name in names:
            numbers[formula, name] = len(numbers)
    r, v = (sum(batch.outputs.numel() for batch in tile) for tile in (rows, columns))
    outputs = rows[0].outputs
    found = torch.zeros(len(numbers), r, v, dtype=torch.float64, device=outputs.device)
    for formula, name, kernel in contracted(rows, columns, blocks):
        found[numbers[formula, name]] = kernel.reshape(r, v)
    return found
