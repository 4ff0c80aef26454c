"""Both sides of gradients `dW[n, c] = sum_t g[c][n, t] (outer) x[n, t]`: derivatives of outputs, and inputs of three kinds.

    PlainInputs   x[n, t]                                 a linear layer; a formed gradient, whose inputs are unit vectors
    OneHot        x[n, t] = e_row                         an embedding table: one-hot
    SlicedInputs  x[n, t] = e_slice (outer) x'[n, t]      a weight of several slices, as experts have

None is written out: each is multiplied from the right, and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, Products
from foretune.shapes import Float, Int


@dataclass(frozen=True)
class PlainInputs:
    """Inputs as they are.

    Attributes:
        x: of each token; one example stands for all where they are the same.
    """

    x: Float[Tensor, "_ t i"]
    slices: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """Input features."""
        return self.x.shape[-1]

    def through(self, matrix: Float[Tensor, "i q"]) -> Float[Tensor, "_ t q"]:
        """The inputs times a matrix."""
        return self.x @ matrix

    def back(self, values: Float[Tensor, "n t w"]) -> Float[Tensor, "i w"]:
        """The transposed inputs times numbers of each token."""
        return torch.einsum("nti,ntw->iw", self.x.expand(len(values), -1, -1), values)

    def whole(self) -> Float[Tensor, "_ t i"]:
        """The inputs written out."""
        return self.x


@dataclass(frozen=True)
class OneHot:
    """One-hot inputs: rows of a table.

    Attributes:
        ids: row of each token.
        size: rows of the table.
        like: a tensor with the device and precision of the inputs.
    """

    ids: Int[Tensor, "n t"]
    size: int
    like: Tensor

    @property
    def slices(self) -> int:
        """Rows, of one entry each."""
        return self.size

    def through(self, matrix: Float[Tensor, "i q"]) -> Float[Tensor, "n t q"]:
        """The inputs times a matrix."""
        return matrix[self.ids]

    def back(self, values: Float[Tensor, "n t w"]) -> Float[Tensor, "i w"]:
        """The transposed inputs times numbers of each token."""
        found = values.new_zeros(self.size, values.shape[-1])
        return found.index_add_(0, self.ids.flatten(), values.flatten(0, 1))

    def whole(self) -> Float[Tensor, "n t i"]:
        """The inputs written out."""
        return torch.nn.functional.one_hot(self.ids, self.size).to(self.like.dtype)


@dataclass(frozen=True)
class SlicedInputs:
    """Inputs of one slice of a weight each.

    Attributes:
        x: of each token.
        group: slice of each token.
        slices: how many there are.
    """

    x: Float[Tensor, "n t i"]
    group: Int[Tensor, "n t"]
    slices: int

    @property
    def size(self) -> int:
        """Input features of all slices."""
        return self.slices * self.x.shape[-1]

    def through(self, matrix: Float[Tensor, "si q"]) -> Float[Tensor, "n t q"]:
        """The inputs times a matrix."""
        parts = matrix.unflatten(0, (self.slices, -1))
        found = matrix.new_zeros(*self.group.shape, matrix.shape[-1])
        for number in self.group.unique().tolist():
            here = self.group == number
            found[here] = self.x[here] @ parts[number]
        return found

    def back(self, values: Float[Tensor, "n t w"]) -> Float[Tensor, "si w"]:
        """The transposed inputs times numbers of each token."""
        found = values.new_zeros(self.slices, self.x.shape[-1], values.shape[-1])
        for number in self.group.unique().tolist():
            here = self.group == number
            found[number] = self.x[here].T @ values[here]
        return found.flatten(0, 1)

    def whole(self) -> Float[Tensor, "n t si"]:
        """The inputs written out."""
        hot = torch.nn.functional.one_hot(self.group, self.slices).to(self.x.dtype)
        return (hot[..., None] * self.x[..., None, :]).flatten(-2)


LayerInputs = PlainInputs | OneHot | SlicedInputs


@dataclass(frozen=True)
class Sides:
    """The two sides of one block's gradients.

    Attributes:
        g: derivatives of each output.
        inputs: the other side.
    """

    g: Sequence[Float[Tensor, "n t o"]]
    inputs: LayerInputs


def derivatives(factor: Factor, dtype: torch.dtype) -> list[Float[Tensor, "n t o"]]:
    """Derivatives of each output; those of a formed gradient (outputs, inputs) stand input after input."""
    if isinstance(factor, Products):
        return [g.to(dtype) for g in factor.g]
    values = factor.values.to(dtype)
    if isinstance(factor, Dense):
        values = values.unflatten(-1, (-1, factor.inputs or 1)).mT  # (n, c, i, o)
    return list(values.unbind(1))


def layer_inputs(factor: Factor, entries: int, dtype: torch.dtype) -> LayerInputs:
    """The inputs of a factor, in a precision.

    Args:
        factor: of a parameter.
        entries: of the parameter.
        dtype: the precision.
    """
    if isinstance(factor, Products):
        x = factor.x.to(dtype)
        return PlainInputs(x) if factor.group is None else SlicedInputs(x, factor.group, entries // factor.entries)
    if isinstance(factor, Dense):
        return PlainInputs(torch.eye(factor.inputs or 1, dtype=dtype, device=factor.values.device)[None])
    return OneHot(factor.ids, entries // factor.entries, factor.values.new_empty(0, dtype=dtype))
