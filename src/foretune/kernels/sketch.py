r"""Sketches of gradients, block by block: from gradient factors to k numbers an example and output, no gradient formed.

For a linear layer `dW[n, c] = sum_t g[n, c, t] (outer) x[n, t]`, with random signs u_j and s_j,

    phi_j(x) = u_j' dW s_j / sqrt(k) = sum_t (u_j . g_t) (s_j . x_t) / sqrt(k)        j = 1, ..., k
    E <phi(x), phi(x')> = <dW, dW'>

(a row-wise Kronecker product of two sketches, as in TensorSketch, Pham and Pagh 2013), so that `phi phi'` is an unbiased
estimate of the block's kernel. It errs by the root of at most 2 / k for a gradient of many ranks, and of 8 / k for an outer
product. What has no more than k entries is left as it is: a bias, the weight of a norm, a small head, and everything for a
large k, where the kernel is exact. The kernel of LoRA of rank r has A x instead of x, with the A of
`foretune.kernels.lora`: its candidates share the projected g. Of a larger block, what gradients have in common is held
exactly beside the sketch (`foretune.kernels.directions`).

The vectors u_1, ..., u_k are `D R H`: random signs D of the block's own entries, entries that are added up until k are
left (R, a hash), and columns of a Hadamard matrix H, in an order of its own for the inputs. A product with H takes
`sqrt(k)` multiplications for each of the k numbers, written as `H_p (x) H_q`. All that is not D is drawn once for each size
and shared by all blocks of it: given that, each estimate is unbiased, so that the errors of different blocks are
uncorrelated. Signs depend on the seed, on the names of parameters and on sizes only, not on batches, their order, or the
device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor

from foretune.errors import UsageError
from foretune.gradients.factors import Factor, FactorBatch
from foretune.kernels.directions import Directions
from foretune.kernels.draws import drawn_rows, draws
from foretune.kernels.formula import Formula
from foretune.kernels.inner_product import input_features
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.kernels.sides import LayerInputs, OneHot, PlainInputs, Sides, SlicedInputs, derivatives, layer_inputs
from foretune.shapes import Float, Int

_PAGE = 1024
"""Rows of a table whose signs are drawn together."""
_DENSE = 64
"""Sizes up to this one have a matrix of signs."""


@dataclass(frozen=True)
class Sketch:
    """How each block is sketched.

    Attributes:
        k: numbers for each block, example and output at most.
        seed: seed of the random signs.
        directions: in which gradients are held exactly beside it (`foretune.kernels.directions`).

    Raises:
        UsageError: k below one, or directions below zero.
    """

    k: int = 512
    seed: int = 0
    directions: int = 64

    def __post_init__(self) -> None:
        if self.k < 1 or self.directions < 0:
            raise UsageError(f"{self}: expected k of at least 1, and at least 0 directions.")


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
    _held: dict[Wanted, tuple[Directions, Tensor]] = field(default_factory=dict, repr=False)
    _count: int = 0

    def hold(self, directions: Mapping[Wanted, Directions], count: int) -> None:
        """From now on hold what lies in these directions exactly, beside the sketch of the rest.

        Args:
            directions: of the blocks that influence the examples which they are made of; another block has zeros there.
            count: directions of each.
        """
        self._count = count
        for block, each in directions.items():
            left = self._projected(each.left.T, "outputs", block.name)  # (p, k)
            right = self._seen(block, each)
            products = (left[:, None] * right[None]).flatten(0, 1)  # (p q, k)
            self._held[block] = each, each.weights.T @ products / math.sqrt(self.sketch.k)

    def features(self, batch: FactorBatch, wanted: Sequence[Wanted]) -> list[Float[Tensor, "n c w"]]:
        """The features of every block in a batch; zero for a block without influence."""
        n, c = batch.outputs.shape
        least = torch.promote_types(batch.outputs.dtype, torch.float32)
        found: dict[Wanted, Tensor] = {}
        for name, members in _by_name(wanted).items():
            factor = batch.factors.get(name)
            if factor is not None:
                found |= dict(zip(members, self._sketched(factor, members, least), strict=True))
        return [
            found[block]
            if block in found
            else batch.outputs.new_zeros(n, c, block.width + (0 if block.exact else self._count), dtype=least)
            for block in wanted
        ]

    def sides(self, batch: FactorBatch, wanted: Sequence[Wanted]) -> dict[Wanted, Sides]:
        """Both sides of the gradients of the blocks that have any."""
        least = torch.promote_types(batch.outputs.dtype, torch.float32)
        found = {}
        for name, members in _by_name(wanted).items():
            factor = batch.factors.get(name)
            if factor is not None:
                g = derivatives(factor, least)
                found |= {block: Sides(g, self._inputs(block, factor, least)) for block in members}
        return found

    def block(self, name: str, factor: Factor) -> Float[Tensor, "n c k"]:
        """The features of one block of the SGD kernel; all of it is mixed, so that those of blocks may be added."""
        dtype = torch.promote_types(factor.tensors[-1].dtype, torch.float32)
        block = Wanted(SGD(), name, 0, self.sketch.k)
        sides = Sides(derivatives(factor, dtype), layer_inputs(factor, block.entries, dtype))
        return self._mixed(block, sides, self._outputs(name, sides.g))

    def _sketched(self, factor: Factor, members: Sequence[Wanted], dtype: torch.dtype) -> list[Float[Tensor, "n c w"]]:
        """The features of the kernels of one parameter."""
        g = derivatives(factor, dtype)
        projected = [] if all(block.exact for block in members) else self._outputs(members[0].name, g)
        found = []
        for block in members:
            sides = Sides(g, self._inputs(block, factor, dtype))
            if block.exact:
                x = sides.inputs.whole()
                found.append(torch.stack([(each.mT @ x).flatten(1) for each in g], dim=1))
            else:
                found.append(self._mixed(block, sides, projected))
        return found

    def _outputs(self, name: str, g: Sequence[Float[Tensor, "n t o"]]) -> list[Float[Tensor, "n t k"]]:
        """Derivatives of each output times their signs."""
        return [self._projected(each, "outputs", name) for each in g]

    def _mixed(
        self, block: Wanted, sides: Sides, projected: Sequence[Float[Tensor, "n t k"]]
    ) -> Float[Tensor, "n c w"]:
        """The sketch of a block, and beside it what lies in the directions that are held."""
        x = self._seen_by_signs(block, sides.inputs)
        found = [(each * x).sum(1) / math.sqrt(self.sketch.k) for each in projected]
        if block in self._held:
            directions, sketches = self._held[block]
            seen = directions.seen(sides)
            along = [directions.coordinates(each, seen) for each in sides.g]
            found = [torch.cat([phi - a @ sketches, a], dim=-1) for phi, a in zip(found, along, strict=True)]
        elif self._count:
            found = [torch.nn.functional.pad(phi, (0, self._count)) for phi in found]
        return torch.stack(found, dim=1)

    def _inputs(self, block: Wanted, factor: Factor, dtype: torch.dtype) -> LayerInputs:
        """The inputs of a block; those of LoRA are seen through A, in the scale of the adapter."""
        found, formula = layer_inputs(factor, block.entries, dtype), block.formula
        if not isinstance(formula, LoRA):
            return found
        inputs, like = input_features(block.name, factor), factor.tensors[-1]
        key = ("lora", formula.init, formula.seed, block.name, formula.rank, dtype, like.device)
        if key not in self._drawn:
            rows = drawn_rows(formula.init, formula.seed, block.name, formula.rank, inputs)
            self._drawn[key] = torch.from_numpy(rows.T.copy()).to(like.device, dtype)
        return PlainInputs(found.through(self._drawn[key]) * (formula.scaling * formula.unit))

    def _seen_by_signs(self, block: Wanted, inputs: LayerInputs) -> Float[Tensor, "_ t k"]:
        """The inputs of a block times their signs."""
        if isinstance(inputs, OneHot):
            return self._rows("row", block.name, inputs.ids, inputs.like)
        found = self._projected(inputs.x, _what(block), block.name)
        if isinstance(inputs, SlicedInputs):
            return found * self._rows("slice", block.name, inputs.group, found)
        return found

    def _seen(self, block: Wanted, directions: Directions) -> Float[Tensor, "q k"]:
        """The vectors that inputs are seen through, times the signs of the inputs."""
        right = directions.right
        if directions.inputs is OneHot:
            (ids,) = torch.where(right.any(1))
            return right[ids].T @ self._rows("row", block.name, ids, right)
        found = self._projected(right.unflatten(0, (directions.slices, -1)).mT, _what(block), block.name)  # (s, q, k)
        if directions.inputs is SlicedInputs:
            numbers = torch.arange(directions.slices, device=right.device)
            found = found * self._rows("slice", block.name, numbers, right)[:, None]
        return found.sum(0)

    def _projected(self, values: Float[Tensor, "*rest i"], what: str, name: str) -> Float[Tensor, "*rest k"]:
        """Vectors times signs: first those of the block's own entries, then what all blocks of this size share."""
        size, k = values.shape[-1], self.sketch.k
        own = self._signs((what, name), size, 1, values)[:, 0]
        if size <= _DENSE:
            return (values * own) @ self._signs((what,), size, k, values)
        width = 1 << (k - 1).bit_length()
        order, kept = self._orders(what, size, width, values.device)
        if order is None:
            found = torch.nn.functional.pad(values * own, (0, width - size))
        else:
            padded = torch.nn.functional.pad(values * own, (0, len(order) - size))
            found = padded[..., order].unflatten(-1, (-1, width)).sum(-2)
        first = 1 << (width.bit_length() - 1) // 2
        found = found.unflatten(-1, (first, -1))
        found = self._hadamard(first, values) @ (found @ self._hadamard(width // first, values))
        return found.flatten(-2)[..., kept]

    def _orders(self, what: str, size: int, width: int, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """In which order entries are added up, None where there is one of each, and which columns are kept."""
        key = ("order", what, size, width, device)
        if key not in self._drawn:
            generator, sums = draws(self.sketch.seed, "order", what, size), -(-size // width)
            self._drawn[key] = torch.from_numpy(generator.permutation(sums * width)).to(device)
            self._drawn["kept", *key] = torch.from_numpy(generator.permutation(width)[: self.sketch.k]).to(device)
        return None if size <= width else self._drawn[key], self._drawn["kept", *key]

    def _hadamard(self, size: int, like: Tensor) -> Float[Tensor, "s s"]:
        """A Hadamard matrix."""
        key = ("hadamard", size, like.dtype, like.device)
        if key not in self._drawn:
            self._drawn[key] = torch.from_numpy(hadamard(size)).to(like)
        return self._drawn[key]

    def _rows(self, what: str, name: str, ids: Int[Tensor, "*rest"], like: Tensor) -> Float[Tensor, "*rest k"]:
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


def _by_name(wanted: Sequence[Wanted]) -> dict[str, list[Wanted]]:
    """The blocks of each parameter."""
    found: dict[str, list[Wanted]] = {}
    for block in wanted:
        found.setdefault(block.name, []).append(block)
    return found


def _what(block: Wanted) -> str:
    """Which signs the inputs of a block are multiplied with."""
    return "adapted" if isinstance(block.formula, LoRA) else "inputs"
