r"""Kernels of randomly projected gradients: intrinsic dimension, and sketches.

features   phi(x)[n, c] = Pi^T df[n, c]  in k dimensions
kernel     K = <phi, phi'>

`theta = theta0 + Pi theta_hat` with entries of Pi ~ N(0, 1/k) is IntrinsicDimension fine-tuning (Malladi et al. 2023,
Definition E.1; Theorem E.2 says how large k must be). Pi is never held: the piece that belongs to one row of a
parameter is drawn from the seed, the parameter's name and the row's number when it is needed, so that the projection
does not depend on machine, device, tile or batch.

A Kronecker projection draws one small matrix for the inputs and one for the outputs of a linear layer and projects the
factors themselves, so that no gradient is formed; what comes of all parameters is added up.

Features of an example do not depend on any other, so that one pass over the examples makes them, whatever the kernel's
size: `foretune.kernels.projected` multiplies them at the end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.kernels.draws import draws
from foretune.kernels.formula import Formula
from foretune.kernels.materialised import gradient_chunks, side_of
from foretune.kernels.sketch import Sketch, Sketcher
from foretune.kernels.tile import Tile, Workspace, by_precision, output_count
from foretune.shapes import Float, Float64

WHOLE = "all parameters"
"""The one block of a projected kernel: all parameters share the k dimensions."""


@dataclass(frozen=True)
class Projection(Formula):
    """What projected kernels have in common.

    Attributes:
        k: number of dimensions.
        seed: seed of the projection.

    Raises:
        UsageError: k below one.
    """

    k: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"A projection to k = {self.k} dimensions; expected at least 1.")

    def blocks(self, kinds: Mapping[str, str]) -> list[str]:
        """One block: features of all parameters add up before they are multiplied."""
        return [WHOLE]

    @abstractmethod
    def block_features(self, name: str, tile: Tile, space: Workspace) -> Iterator[Float[Tensor, "nc k"]]:
        """Contributions of one parameter to the features of a tile."""

    def features(self, tile: Tile) -> Float64[Tensor, "nc k"]:
        """The features of a tile, examples in the order of its batches."""
        total = torch.zeros(output_count(tile), self.k, dtype=torch.float64, device=tile[0].outputs.device)
        names = dict.fromkeys(name for batch in tile for name in batch.factors)
        for members, space in by_precision(names, tile).values():
            for name in members:
                for part in self.block_features(name, tile, space):
                    total += part.double()
        return total / math.sqrt(self.k)

    @classmethod
    def together(
        cls, formulas: Sequence[Any], rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """See `Formula.together`."""
        for formula in formulas:
            left = formula.features(rows)
            right = left if rows is columns else formula.features(columns)
            c, d = rows[0].outputs.shape[1], columns[0].outputs.shape[1]
            yield formula, WHOLE, (left @ right.T).view(len(left) // c, c, len(right) // d, d)


@dataclass(frozen=True)
class _DenseProjection(Projection):
    """Every entry of Pi drawn by itself: gradients are formed a chunk at a time, and multiplied with their piece of Pi."""

    def block_features(self, name: str, tile: Tile, space: Workspace) -> Iterator[Float[Tensor, "nc k"]]:
        """Contributions of one parameter, some of its rows at a time."""
        side = side_of(name, tile)
        for entries, chunk, _ in gradient_chunks(side, side, space):
            width = chunk.shape[1] // len(entries.rows)
            for place, row in enumerate(entries.rows):
                piece = torch.from_numpy(self.piece(name, entries.slice, row, width))  # (width, k)
                yield chunk[:, place * width : (place + 1) * width] @ piece.to(chunk.device, chunk.dtype)

    @abstractmethod
    def piece(self, name: str, number: int, row: int, width: int) -> np.ndarray:
        """The piece of Pi, before division by sqrt(k), of one row of (one slice of) a parameter, (width, k)."""


@dataclass(frozen=True)
class IntrinsicDimension(_DenseProjection):
    """The kernel of IntrinsicDimension fine-tuning: entries of Pi ~ N(0, 1/k) (Malladi et al. 2023, Definition E.1)."""

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"intrinsic-k{self.k}"

    def piece(self, name: str, number: int, row: int, width: int) -> np.ndarray:
        """Standard normal numbers."""
        return draws(self.seed, "normal", name, number, row).standard_normal((width, self.k), dtype=np.float32)


@dataclass(frozen=True)
class Rademacher(_DenseProjection):
    """A sketch with entries +-1/sqrt(k): as good as a normal one, and an eighth of the random bits."""

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"rademacher-k{self.k}"

    def piece(self, name: str, number: int, row: int, width: int) -> np.ndarray:
        """Random signs, one bit each."""
        bits = draws(self.seed, "signs", name, number, row).bytes(-(-width * self.k // 8))
        signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=width * self.k)
        return (2.0 * signs - 1).astype(np.float32).reshape(width, self.k)


@dataclass(frozen=True)
class Kronecker(Projection):
    """A sketch of the factors of each linear layer, without forming a gradient: see `foretune.kernels.sketch`.

    An embedding table is a linear layer on one-hot inputs.

    Attributes:
        signs: how signs are drawn, of which kernel folders tell: a kernel that was begun with others is not gone on with.
    """

    signs: Literal["hadamard"] = "hadamard"

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"kronecker-k{self.k}"

    @cached_property
    def _sketcher(self) -> Sketcher:
        """Holds the signs, which are drawn once."""
        return Sketcher(Sketch(self.k, self.seed))

    def block_features(self, name: str, tile: Tile, space: Workspace) -> Iterator[Float[Tensor, "nc k"]]:
        """The features of one parameter, all batches below each other."""
        root = math.sqrt(self.k)  # of a sketch they have their scale already
        parts = []
        for batch in tile:
            factor = batch.factors.get(name)
            parts.append(
                batch.outputs.new_zeros(batch.outputs.numel(), self.k)
                if factor is None
                else root * self._sketcher.block(name, factor).flatten(0, 1)
            )
        yield torch.cat(parts)
