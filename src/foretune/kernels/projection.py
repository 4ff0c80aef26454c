r"""Kernels of randomly projected gradients: intrinsic dimension, and sketches.

features   phi(x)[n, c] = Pi^T df[n, c]  in k dimensions
kernel     K = <phi, phi'>

`theta = theta0 + Pi theta_hat` with entries of Pi ~ N(0, 1/k) is IntrinsicDimension fine-tuning (Malladi et al. 2023,
Definition E.1; Theorem E.2 says how large k must be). Pi is never held: the piece that belongs to one row of a
parameter is drawn from the seed, the parameter's name and the row's number when it is needed, so that the projection
does not depend on machine, device, tile or batch.

A Kronecker projection draws one small matrix for the inputs and one for the outputs of a linear layer and projects the
factors themselves, so that no gradient is formed:

    phi = sum_t (P_g g_t) (outer) (P_x x_t) / sqrt(k),   E <phi, phi'> = <dW, dW'>
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.gradients.factors import Dense, Factor, Products, RowFactor
from foretune.kernels.draws import draws
from foretune.kernels.formula import Formula
from foretune.kernels.materialised import gradient_chunks, side_of
from foretune.kernels.tile import Tile, Workspace, by_precision, output_count
from foretune.shapes import Float, Float64, Int

WHOLE = "all parameters"
"""The one block of a projected kernel: all parameters share the k dimensions."""


@dataclass(frozen=True)
class Projection(Formula):
    """What projected kernels have in common.

    Attributes:
        k: dimensions.
        seed: of the projection.

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
    """A sketch that projects the factors of each linear layer separately, without forming a gradient.

    k = k_g k_x with k_x the largest divisor of k up to its square root. Biases and norm weights are projected as in
    `IntrinsicDimension`; an embedding table is a linear layer on one-hot inputs.
    """

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"kronecker-k{self.k}"

    @property
    def sizes(self) -> tuple[int, int]:
        """k_g and k_x."""
        x = next(size for size in range(math.isqrt(self.k), 0, -1) if self.k % size == 0)
        return self.k // x, x

    def block_features(self, name: str, tile: Tile, space: Workspace) -> Iterator[Float[Tensor, "nc k"]]:
        """The features of one parameter, all batches below each other."""
        parts = []
        for batch in tile:
            factor = batch.factors.get(name)
            parts.append(
                batch.outputs.new_zeros(batch.outputs.numel(), self.k)
                if factor is None
                else self._projected(name, factor).flatten(0, 1)
            )
        yield torch.cat(parts)

    def _projected(self, name: str, factor: Factor) -> Float[Tensor, "n c k"]:
        """The features of one factor."""
        if isinstance(factor, Dense):
            return factor.values @ self._normal(factor.values, factor.values.shape[-1], self.k, "dense", name)
        size_g, size_x = self.sizes
        if isinstance(factor, RowFactor):
            g, x = factor.values, self._tokens(name, factor)
        else:
            g = torch.stack(factor.g, dim=1)  # (n, c, t, o)
            x = factor.x @ self._normal(factor.x, factor.x.shape[-1], size_x, "inputs", name)
        g = g @ self._normal(g, g.shape[-1], size_g, "outputs", name)  # (n, c, t, k_g)
        if isinstance(factor, Products) and factor.group is not None:
            x = x * self._slices(name, factor.group, x)
        return torch.einsum("nctg,ntx->ncgx", g, x).flatten(2)

    def _tokens(self, name: str, factor: RowFactor) -> Float[Tensor, "n t x"]:
        """The projected one-hot input of each token: one vector for each row of the table."""
        ids, places = torch.unique(factor.ids, return_inverse=True)
        vectors = [draws(self.seed, "row", name, int(row)).standard_normal(self.sizes[1]) for row in ids]
        return torch.from_numpy(np.stack(vectors)).to(factor.values.device, factor.values.dtype)[places]

    def _slices(self, name: str, group: Int[Tensor, "n t"], like: Tensor) -> Float[Tensor, "n t x"]:
        """Random signs that keep the slices of a 3-D weight apart."""
        groups, places = torch.unique(group, return_inverse=True)
        signs = [2.0 * draws(self.seed, "slice", name, int(g)).integers(0, 2, self.sizes[1]) - 1 for g in groups]
        return torch.from_numpy(np.stack(signs)).to(like.device, like.dtype)[places]

    def _normal(self, like: Tensor, inputs: int, outputs: int, what: str, name: str) -> Float[Tensor, "i k"]:
        drawn = draws(self.seed, what, name).standard_normal((inputs, outputs))
        return torch.from_numpy(drawn).to(like.device, like.dtype)
