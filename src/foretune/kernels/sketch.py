r"""Sketches of gradients, block by block: from gradient factors to k numbers an example and output, no gradient formed.

For a linear layer `dW[n, c] = sum_t g[n, c, t] (outer) x[n, t]`, with random signs u_j and s_j,

    phi_j(x) = u_j' dW s_j / sqrt(k) = sum_t (u_j . g_t) (s_j . x_t) / sqrt(k)        j = 1, ..., k
    E <phi(x), phi(x')> = <dW, dW'>

(a row-wise Kronecker product of two sketches), so that `phi phi'` is an unbiased estimate of the block's kernel. It errs by
the root of 2 / k for a gradient of many ranks, and of 8 / k for an outer product. What has no more than k entries is left
as it is: a bias, the weight of a norm, a small head, and everything for a large k, where the kernel is exact. The kernel
of LoRA of rank r has A x instead of x, with the A of `foretune.kernels.lora`: its candidates share the projected g.

Signs depend on the seed, on the names of parameters and on sizes only, not on batches, their order, or the device. One
matrix of signs serves all blocks of one size. Each block turns the signs of its own entries at random first: given the
matrix each estimate is unbiased, so that the errors of different blocks are uncorrelated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, RowFactor
from foretune.kernels.draws import draws
from foretune.kernels.formula import Formula
from foretune.kernels.lora import LoRA, drawn_rows, input_features
from foretune.kernels.sgd import SGD
from foretune.shapes import Float, Int

_PAGE = 1024
"""Rows of a table, or entries of a vector, whose signs are drawn together."""


@dataclass(frozen=True)
class Sketch:
    """How each block is sketched.

    Attributes:
        k: numbers for each block, example and output at most.
        seed: seed of the random signs.
        landmarks: gradients that are held exactly beside it (`foretune.kernels.landmarks`).

    Raises:
        UsageError: k below one, or landmarks below zero.
    """

    k: int = 512
    seed: int = 0
    landmarks: int = 16

    def __post_init__(self) -> None:
        if self.k < 1 or self.landmarks < 0:
            raise UsageError(f"{self}: expected k of at least 1, and at least 0 landmarks.")


@dataclass(frozen=True)
class Wanted:
    """One block of one kernel.

    Attributes:
        formula: `SGD()` or a `LoRA`.
        name: of the parameter.
        entries: of its gradient.
        width: numbers that are kept of it.
    """

    formula: Formula
    name: str
    entries: int
    width: int

    @property
    def exact(self) -> bool:
        """Whether the gradient is kept as it is."""
        return self.width == self.entries


def wanted_blocks(
    blocks: Mapping[Formula, Sequence[str]],
    shapes: Mapping[str, Sequence[int]],
    outputs: Mapping[str, int],
    sketch: Sketch,
) -> list[Wanted]:
    """The blocks of some kernels, those of one formula after those of the other.

    Args:
        blocks: formula (`SGD()` or a `LoRA`) -> the blocks of its kernel.
        shapes: of the parameters.
        outputs: weight of a linear layer -> output features.
        sketch: how each is sketched.
    """
    found = []
    for formula, names in blocks.items():
        for name in names:
            entries = formula.rank * outputs[name] if isinstance(formula, LoRA) else math.prod(shapes[name])
            found.append(Wanted(formula, name, entries, min(entries, sketch.k)))
    return found


@dataclass
class Sketcher:
    """Sketches batch after batch with signs that are drawn once.

    Attributes:
        sketch: how.
    """

    sketch: Sketch
    _drawn: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    def features(self, batch: FactorBatch, wanted: Sequence[Wanted]) -> list[Float[Tensor, "n c w"]]:
        """The features of every block in a batch; zero for a block without influence."""
        n, c = batch.outputs.shape
        least = torch.promote_types(batch.outputs.dtype, torch.float32)
        found: dict[Wanted, Tensor] = {}
        users: dict[str, list[Wanted]] = {}
        for block in wanted:
            users.setdefault(block.name, []).append(block)
        for name, members in users.items():
            factor = batch.factors.get(name)
            if factor is None:
                found |= {block: batch.outputs.new_zeros(n, c, block.width, dtype=least) for block in members}
            else:
                found |= dict(zip(members, self._sketched(factor, members, least), strict=True))
        return [found[block] for block in wanted]

    def block(self, name: str, factor: Factor) -> Float[Tensor, "n c k"]:
        """The features of one block of the SGD kernel; all of it is mixed, so that those of blocks may be added."""
        dtype = torch.promote_types(factor.tensors[-1].dtype, torch.float32)
        return self._sketched(factor, [Wanted(SGD(), name, 0, self.sketch.k)], dtype)[0]

    def _sketched(self, factor: Factor, members: Sequence[Wanted], dtype: torch.dtype) -> list[Float[Tensor, "n c w"]]:
        """The features of the kernels of one parameter."""
        name = members[0].name
        if isinstance(factor, Dense) and factor.inputs is None:
            values = factor.values.to(dtype)
            return [values if block.exact else self._vector(name, values, block.width) for block in members]
        sides, found = _sides(factor, dtype), {}
        mixed = [block for block in members if not block.exact]
        inputs = {block: self._inputs(block, factor, dtype) for block in mixed}
        for g in sides if mixed else ():
            projected = self._projected(g, "outputs", name)  # (n, t, k)
            for block, x in inputs.items():
                found.setdefault(block, []).append((projected * x).sum(1) / math.sqrt(self.sketch.k))
        for block in members:
            if block.exact:
                x = self._whole_inputs(block, factor, dtype)
                found[block] = [(g.mT @ x).flatten(1) for g in sides]
        return [torch.stack(found[block], dim=1) for block in members]

    def _inputs(self, block: Wanted, factor: Factor, dtype: torch.dtype) -> Float[Tensor, "n t k"]:
        """The inputs of a block times their signs."""
        name = block.name
        if isinstance(factor, RowFactor):
            return self._rows("row", name, factor.ids, factor.values.to(dtype))
        if isinstance(block.formula, LoRA):
            return self._projected(self._adapted(block.formula, name, factor, dtype), "adapted", name)
        x = self._projected(_inputs_of(factor, dtype), "inputs", name)
        group = factor.group if isinstance(factor, Products) else None
        return x if group is None else x * self._rows("slice", name, group, x)

    def _whole_inputs(self, block: Wanted, factor: Factor, dtype: torch.dtype) -> Float[Tensor, "n t i"]:
        """The inputs that make all of a gradient: slices and rows of a table stand side by side."""
        if isinstance(factor, RowFactor):
            return _one_hot(factor.ids, block.width // factor.values.shape[-1], dtype)
        if isinstance(block.formula, LoRA):
            return self._adapted(block.formula, block.name, factor, dtype)
        x = _inputs_of(factor, dtype)
        if not isinstance(factor, Products) or factor.group is None:
            return x
        slices = block.width // factor.entries
        return (_one_hot(factor.group, slices, dtype)[..., None] * x[..., None, :]).flatten(-2)

    def _adapted(self, formula: LoRA, name: str, factor: Factor, dtype: torch.dtype) -> Float[Tensor, "n t r"]:
        """The inputs seen through A, in the scale of the adapter."""
        inputs, like = input_features(name, factor), factor.tensors[-1]
        key = ("lora", formula.init, formula.seed, name, formula.rank, dtype, like.device)
        if key not in self._drawn:
            rows = drawn_rows(formula.init, formula.seed, name, formula.rank, inputs)
            self._drawn[key] = torch.from_numpy(rows.T.copy()).to(like.device, dtype)
        return _inputs_of(factor, dtype) @ self._drawn[key] * (formula.scaling * formula.unit)

    def _projected(self, values: Float[Tensor, "*rest i"], what: str, name: str) -> Float[Tensor, "*rest k"]:
        """Vectors times signs: first those of the block's own entries, then the matrix of all blocks of this size."""
        size = values.shape[-1]
        own = self._signs((what, name), size, 1, values)[:, 0]
        return (values * own) @ self._signs((what,), size, self.sketch.k, values)

    def _vector(self, name: str, values: Float[Tensor, "n c p"], width: int) -> Float[Tensor, "n c k"]:
        """A vector times signs, some entries at a time."""
        found = values.new_zeros(*values.shape[:2], width)
        for start in range(0, values.shape[-1], _PAGE):
            part = values[..., start : start + _PAGE]
            found += part @ self._signs(("vector", name, start // _PAGE), _PAGE, width, part)[: part.shape[-1]]
        return found / math.sqrt(width)

    def _rows(self, what: str, name: str, ids: Int[Tensor, "n t"], like: Tensor) -> Float[Tensor, "n t k"]:
        """The signs of rows of a table, or of slices of a weight."""
        pages, places = torch.unique(ids // _PAGE, return_inverse=True)
        drawn = [self._signs((what, name, int(page)), _PAGE, self.sketch.k, like) for page in pages]
        found = like.new_empty(*ids.shape, self.sketch.k)
        for number, page in enumerate(drawn):
            here = places == number
            found[here] = page[ids[here] % _PAGE]
        return found

    def _signs(self, key: tuple[str | int, ...], inputs: int, outputs: int, like: Tensor) -> Float[Tensor, "i k"]:
        """Random signs, drawn once."""
        kept = (*key, inputs, outputs, like.dtype, like.device)
        if kept not in self._drawn:
            bits = draws(self.sketch.seed, "sketch", *key, inputs).bytes(-(-inputs * outputs // 8))
            signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=inputs * outputs).astype(np.float32)
            self._drawn[kept] = torch.from_numpy(2 * signs - 1).view(inputs, outputs).to(like.device, like.dtype)
        return self._drawn[kept]


def _sides(factor: Factor, dtype: torch.dtype) -> list[Float[Tensor, "n t o"]]:
    """Derivatives of each output; those of a formed gradient (outputs, inputs) stand input after input."""
    if isinstance(factor, Products):
        return [g.to(dtype) for g in factor.g]
    values = factor.values.to(dtype)
    if isinstance(factor, Dense):
        values = values.unflatten(-1, (-1, factor.inputs or 1)).mT  # (n, c, i, o)
    return list(values.unbind(1))


def _inputs_of(factor: Factor, dtype: torch.dtype) -> Float[Tensor, "n t i"]:
    """The inputs of a linear layer; those of a formed gradient are one input after the other."""
    if isinstance(factor, Products):
        return factor.x.to(dtype)
    inputs = factor.inputs or 1 if isinstance(factor, Dense) else 1
    return torch.eye(inputs, dtype=dtype, device=factor.tensors[-1].device)[None]


def _one_hot(numbers: Int[Tensor, "n t"], count: int, dtype: torch.dtype) -> Float[Tensor, "n t s"]:
    return torch.nn.functional.one_hot(numbers, count).to(dtype)
