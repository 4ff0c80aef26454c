r"""Gradient factors: an exact, compact form of a parameter's per-example gradients.

For example `n` and output `c` the gradient of parameter block `W` is one of

    Products   dW[n, c] = sum_t g[n, c, t] (outer) x[n, t]              a linear layer over tokens t
    RowFactor  dW[n, c, ids[n, t]] += values[n, c, t]                   an embedding table, or a few rows of a matrix
    Dense      dW[n, c] = values[n, c]                                  a bias, a norm weight, anything materialised

Equations: the linear-layer form is the structured derivative of Novak et al., "Fast Finite Width Neural Tangent
Kernel" (2022), section 4; embeddings are linear layers on one-hot inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foretune.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Products:
    """`dW[n, c] = sum_t g[c][n, t] (outer) x[n, t]`.

    Attributes:
        x: inputs.
        g: derivatives of each output.
        group: the slice of a 3-D weight that each token acts on.
        turned: the parameter holds the transpose, (inputs, outputs), as GPT-2's Conv1D does.
    """

    x: Float[Tensor, "n t i"]
    g: tuple[Float[Tensor, "n t o"], ...]
    group: Int[Tensor, "n t"] | None = None
    turned: bool = False

    def of_example(self, place: int) -> Products:
        """The factor of one of the examples."""
        one = slice(place, place + 1)
        return Products(
            self.x[one], tuple(g[one] for g in self.g), None if self.group is None else self.group[one], self.turned
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors held, for counting memory."""
        return (self.x, *self.g)

    @property
    def entries(self) -> int:
        """Entries of a gradient, or of one slice of it."""
        return self.features * self.x.shape[-1]

    @property
    def features(self) -> int:
        """Output features o."""
        return self.g[0].shape[-1]

    @cached_property
    def alive(self) -> Bool[Tensor, "n t"]:
        """Which tokens have a gradient: not padding, nor tokens that no later layer reads."""
        return torch.stack([g.abs().amax(2) for g in self.g]).amax(0) > 0

    @staticmethod
    def end_to_end(uses: Sequence[Products]) -> Products:
        """Several uses as one, along tokens."""
        groups = [use.group for use in uses if use.group is not None]
        x = torch.cat([use.x for use in uses], dim=1)  # (n, t, i)
        g = tuple(torch.cat(parts, dim=1) for parts in zip(*(use.g for use in uses), strict=True))
        return Products(x, g, torch.cat(groups, dim=1) if groups else None, uses[0].turned)


@dataclass(frozen=True)
class RowFactor:
    """`dW[n, c, ids[n, t]] += values[n, c, t]`: only a few rows of the parameter have a gradient."""

    ids: Int[Tensor, "n t"]
    values: Float[Tensor, "n c t o"]

    def of_example(self, place: int) -> RowFactor:
        """The factor of one of the examples."""
        return RowFactor(self.ids[place : place + 1], self.values[place : place + 1])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors held, for counting memory."""
        return (self.ids, self.values)

    @property
    def entries(self) -> int:
        """Entries of one row."""
        return self.values.shape[-1]

    @staticmethod
    def end_to_end(uses: Sequence[RowFactor]) -> RowFactor:
        """Several uses as one, along tokens."""
        return RowFactor(torch.cat([use.ids for use in uses], dim=1), torch.cat([use.values for use in uses], dim=2))


@dataclass(frozen=True)
class Dense:
    """`dW[n, c] = values[n, c]`, flattened.

    Attributes:
        values: the gradient.
        scale: the root mean square that its entries would have if the terms of their sums did not cancel. A gradient
            that is zero in exact arithmetic (BERT's key biases: softmax does not see a shift) is rounding noise far
            below it.
        inputs: of a linear layer's weight, the input features: the entries are a matrix (outputs, inputs).
    """

    values: Float[Tensor, "n c p"]
    scale: Float[Tensor, "n c"]
    inputs: int | None = None

    def of_example(self, place: int) -> Dense:
        """The factor of one of the examples."""
        return Dense(self.values[place : place + 1], self.scale[place : place + 1], self.inputs)

    @staticmethod
    def summed(terms: Sequence[Float[Tensor, "n t p"]]) -> Dense:
        """The sum of one term a token, for each output."""
        sums = torch.stack([each.sum(1) for each in terms], dim=1)
        sizes = torch.stack([each.norm(dim=-1).sum(1) for each in terms], dim=1)
        return Dense(sums, sizes / math.sqrt(sums.shape[-1]))

    @staticmethod
    def whole(values: Float[Tensor, "n c p"], inputs: int | None = None) -> Dense:
        """A gradient whose terms are not known: its own root mean square is the scale."""
        return Dense(values, values.norm(dim=-1) / math.sqrt(values.shape[-1]), inputs)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors held, for counting memory."""
        return (self.values,)

    @property
    def entries(self) -> int:
        """Entries of a gradient."""
        return self.values.shape[-1]

    @staticmethod
    def end_to_end(uses: Sequence[Dense]) -> Dense:
        """Several uses as one: their sum."""
        return Dense(torch.stack([use.values for use in uses]).sum(0), torch.stack([use.scale for use in uses]).sum(0))


def live_tokens(factors: Sequence[Products]) -> int:
    """How many tokens have a gradient in all: one number that a device is asked for, not one per batch."""
    return int(torch.stack([factor.alive.sum() for factor in factors]).sum())


Factor = Products | RowFactor | Dense


def joins(uses: Sequence[Factor]) -> bool:
    """Whether all are of one kind, and of one orientation: only then can they be laid end to end."""
    return len({(type(use), isinstance(use, Products) and use.turned) for use in uses}) == 1


def joined(uses: Sequence[Factor]) -> Factor:
    """The factor of a parameter that a forward pass used several times: its uses laid end to end along tokens.

    Raises:
        TypeError: the uses do not join (the caller materialises such a parameter instead).
    """
    if not joins(uses):
        raise TypeError("a parameter is used in ways that do not join")
    return uses[0] if len(uses) == 1 else uses[0].end_to_end(uses)  # type: ignore[arg-type]


@dataclass(frozen=True)
class FactorBatch:
    """The factors of a few examples.

    Attributes:
        positions: where each example stands in the list that was asked for.
        outputs: the logits f(theta, x), shape (n, c).
        factors: parameter name -> factor; a parameter that the forward pass does not use is absent (zero gradient).
    """

    positions: tuple[int, ...]
    outputs: Float[Tensor, "n c"]
    factors: dict[str, Factor]

    def of_example(self, place: int) -> FactorBatch:
        """The factors of one of the examples alone, as they came in this batch."""
        factors = {name: factor.of_example(place) for name, factor in self.factors.items()}
        return FactorBatch((self.positions[place],), self.outputs[place : place + 1], factors)
