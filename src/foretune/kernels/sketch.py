r"""Sketches of gradients, block by block: from gradient factors to k numbers an example and output, no gradient formed.

For a linear layer `dW[n, c] = sum_t g[n, c, t] (outer) x[n, t]`, with random signs P_g, P_x and F,

    v(x)   = sum_t (P_g g_t) (outer) (P_x x_t)          q x q numbers, q = max(128, root of k)
    phi(x) = F v(x)                                     k of them
    E <phi(x), phi(x')> = <dW, dW'>

so that `phi phi'` is an unbiased estimate of the block's kernel. Two steps, because the first alone (a Kronecker sketch)
errs on an outer product by the root of 2 / q, and would need q^2 numbers. What is not larger than its sketch is left as
it is: a bias, the outputs of a small head, and everything for a large k, where the kernel is exact. The kernel of LoRA
of rank r has A x instead of P_x x, with the A of `foretune.kernels.lora`: its candidates share the projected g.

Signs depend on the seed and on the names of parameters only, not on batches, their order, or the device. They are drawn
once. F is shared by all blocks: the errors of different blocks are uncorrelated all the same, because P_g and P_x are
their own.
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

_INNER = 128
_PAGE = 1024
"""Rows of a table, or entries of a vector, whose signs are drawn together."""


@dataclass(frozen=True)
class Sketch:
    """How each block is sketched.

    Attributes:
        k: numbers for each block, example and output.
        seed: seed of the random signs.
        landmarks: gradients that are held exactly beside it, examples times outputs (`foretune.kernels.landmarks`).

    Raises:
        UsageError: k below one, or landmarks below zero.
    """

    k: int = 240
    seed: int = 0
    landmarks: int = 16

    def __post_init__(self) -> None:
        if self.k < 1 or self.landmarks < 0:
            raise UsageError(f"{self}: expected k of at least 1, and at least 0 landmarks.")

    @property
    def inner(self) -> int:
        """Rows of P_g and P_x."""
        return max(_INNER, math.isqrt(self.k - 1) + 1)


@dataclass
class Sketcher:
    """Sketches batch after batch with signs that are drawn once.

    Attributes:
        sketch: how.
        exact: leave what is small as it is; else everything is mixed, so that sketches of different blocks may be added.
    """

    sketch: Sketch
    exact: bool = True
    _drawn: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the signs that are held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._drawn.values())

    def features(self, batch: FactorBatch, blocks: Mapping[Formula, Sequence[str]]) -> Float[Tensor, "n c b k"]:
        """The features of a batch, block after block of one formula after the other; zero for a block without influence.

        Args:
            batch: gradient factors.
            blocks: formula (`SGD()` or a `LoRA`) -> the blocks of its kernel.
        """
        n, c = batch.outputs.shape
        least = torch.promote_types(batch.outputs.dtype, torch.float32)
        total = sum(map(len, blocks.values()))
        found = torch.zeros(n, c, total, self.sketch.k, dtype=least, device=batch.outputs.device)
        places: dict[str, list[tuple[Formula, int]]] = {}
        numbers = iter(range(total))
        for formula, names in blocks.items():
            for name in names:
                places.setdefault(name, []).append((formula, next(numbers)))
        for name, users in places.items():
            factor = batch.factors.get(name)
            if factor is not None:
                self._fill(found, name, factor, users)
        return found

    def block(self, name: str, factor: Factor) -> Float[Tensor, "n c k"]:
        """The features of one block of the SGD kernel."""
        n, c = _size(factor)
        found = torch.zeros(n, c, 1, self.sketch.k, dtype=_precision(factor), device=factor.tensors[-1].device)
        self._fill(found, name, factor, [(SGD(), 0)])
        return found[:, :, 0]

    def _fill(
        self, into: Float[Tensor, "n c b k"], name: str, factor: Factor, users: Sequence[tuple[Formula, int]]
    ) -> None:
        if isinstance(factor, Dense) and factor.inputs is None:
            self._put(into, users[0][1], self._vector(name, factor.values.to(into.dtype)), "vector")
            return
        g = self._outputs(name, factor, into.dtype)  # (n, c, t, g), or (n, c, i, g) of a formed gradient
        adapters = {place: formula for formula, place in users if isinstance(formula, LoRA)}
        for formula, place in users:
            if not isinstance(formula, LoRA):
                self._put(into, place, self._mixed(g, self._inputs(name, factor, into.dtype)), "sgd")
        if adapters:
            ranks = max(formula.rank for formula in adapters.values())
            alike: dict[tuple[str, int], Float[Tensor, "n c g r"]] = {}
            for place, formula in adapters.items():
                key = (formula.init, formula.seed)
                if key not in alike:
                    alike[key] = self._mixed(g, self._adapted(name, factor, formula, ranks, into.dtype))
                part = alike[key][..., : formula.rank] * (formula.scaling * formula.unit)
                self._put(into, place, part, f"lora {formula.rank}")

    def _put(self, into: Tensor, place: int, found: Float[Tensor, "n c *rest"], what: str) -> None:
        """Put k numbers where they belong: what was found, or a mixture of it."""
        flat, k = found.flatten(2), self.sketch.k
        if what != "vector" and (not self.exact or flat.shape[-1] > k):
            flat = flat @ self._signs(("fold", what), flat.shape[-1], k, flat)
        into[:, :, place, : flat.shape[-1]] = flat

    def _mixed(self, g: Float[Tensor, "n c t g"], x: Float[Tensor, "n t x"]) -> Float[Tensor, "n c g x"]:
        n, c, t, _ = g.shape
        if x.dim() == 2:  # of a formed gradient: one matrix for all examples
            return g.mT @ x
        return torch.bmm(g.permute(0, 1, 3, 2).reshape(n, -1, t), x).view(n, c, -1, x.shape[-1])

    def _outputs(self, name: str, factor: Factor, dtype: torch.dtype) -> Float[Tensor, "n c t g"]:
        if isinstance(factor, Dense):
            gradients = factor.values.to(dtype).unflatten(-1, (-1, factor.inputs or 1)).mT  # (n, c, i, o)
            return self._projected(gradients, "outputs", name)
        if isinstance(factor, RowFactor):
            return self._projected(factor.values.to(dtype), "outputs", name)
        return torch.stack([self._projected(g.to(dtype), "outputs", name) for g in factor.g], dim=1)

    def _inputs(self, name: str, factor: Factor, dtype: torch.dtype) -> Float[Tensor, "n t x"]:
        if isinstance(factor, Dense):
            identity = torch.eye(factor.inputs or 1, dtype=dtype, device=factor.values.device)
            return self._projected(identity, "inputs", name)
        if isinstance(factor, RowFactor):
            return self._rows("row", name, factor.ids, factor.values.to(dtype)) / math.sqrt(self.sketch.inner)
        x = self._projected(factor.x.to(dtype), "inputs", name)
        return x if factor.group is None else x * self._rows("slice", name, factor.group, x, x.shape[-1])

    def _adapted(
        self, name: str, factor: Factor, formula: LoRA, rank: int, dtype: torch.dtype
    ) -> Float[Tensor, "n t r"]:
        """The inputs seen through the first rows of the common drawing of A."""
        inputs, like = input_features(name, factor), factor.tensors[-1]
        key = ("lora", formula.init, formula.seed, name, rank, dtype, like.device)
        if key not in self._drawn:
            rows = drawn_rows(formula.init, formula.seed, name, rank, inputs)
            self._drawn[key] = torch.from_numpy(rows.T.copy()).to(like.device, dtype)
        return factor.x.to(dtype) @ self._drawn[key] if isinstance(factor, Products) else self._drawn[key]

    def _projected(self, values: Float[Tensor, "*rest i"], what: str, name: str) -> Float[Tensor, "*rest q"]:
        size, inner = values.shape[-1], self.sketch.inner
        if self.exact and size <= inner:
            return values
        return values @ self._signs((what, name), size, inner, values)

    def _vector(self, name: str, values: Float[Tensor, "n c p"]) -> Float[Tensor, "n c k"]:
        """A vector times signs, some entries at a time; or as it is."""
        k = self.sketch.k
        if self.exact and values.shape[-1] <= k:
            return values
        found = values.new_zeros(*values.shape[:2], k)
        for start in range(0, values.shape[-1], _PAGE):
            part = values[..., start : start + _PAGE]
            found += part @ self._page("vector", name, start // _PAGE, k, part)[: part.shape[-1]]
        return found / math.sqrt(k)

    def _rows(
        self, what: str, name: str, ids: Int[Tensor, "n t"], like: Tensor, width: int | None = None
    ) -> Float[Tensor, "n t x"]:
        """The signs of rows of a table, or of slices of a weight."""
        width = width or self.sketch.inner
        pages, places = torch.unique(ids // _PAGE, return_inverse=True)
        table = torch.stack([self._page(what, name, int(page), width, like) for page in pages])  # (p, 1024, x)
        return table[places, ids % _PAGE]

    def _page(self, what: str, name: str, number: int, width: int, like: Tensor) -> Float[Tensor, "1024 x"]:
        return self._signs((what, name, number), _PAGE, width, like, scaled=False)

    def _signs(
        self, key: tuple[str | int, ...], inputs: int, outputs: int, like: Tensor, *, scaled: bool = True
    ) -> Float[Tensor, "i k"]:
        """Random signs over the root of their number, drawn once."""
        kept = (*key, inputs, outputs, like.dtype, like.device)
        if kept not in self._drawn:
            bits = draws(self.sketch.seed, "sketch", *key).bytes(-(-inputs * outputs // 8))
            signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=inputs * outputs).astype(np.float32)
            values = (2 * signs - 1) / (math.sqrt(outputs) if scaled else 1.0)
            self._drawn[kept] = torch.from_numpy(values.reshape(inputs, outputs)).to(like.device, like.dtype)
        return self._drawn[kept]


def _size(factor: Factor) -> tuple[int, int]:
    """Examples and outputs of a factor."""
    if isinstance(factor, Products):
        return len(factor.x), len(factor.g)
    return factor.values.shape[0], factor.values.shape[1]


def _precision(factor: Factor) -> torch.dtype:
    return torch.promote_types(factor.tensors[-1].dtype, torch.float32)
