r"""The kernels of sign descent, which describes Adam's early steps.

SignGD         <sign df(x), sign df(x')>        Malladi et al. 2023, Definition 3.4
asymmetric     <df(x), sign df(x')>             Malladi et al. 2023, Definition 3.2 and Theorem 3.3
smooth form    x / (|x| + eps) for sign(x)      Malladi et al. 2023, Assumption D.2 g)

A sign has no factored form: the gradients of one block are formed a chunk of entries at a time, for both sides, and
every kernel of the family is a product of the same chunks, plain or signed.

sign(0) = 0, and an entry counts as zero when it is smaller than `threshold` times the size that it would have if the
terms of its sum did not cancel (their norms added up, spread over the entries): rounding noise has random signs and would
count as much as a real gradient. BERT's key biases are such: zero in exact arithmetic, 3e-6 of that size in float32.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.gradients.factors import Dense, FactorBatch, RowFactor
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.formula import Formula
from foretune.kernels.materialised import Side, gradient_chunks, side_of
from foretune.kernels.products import add_product, add_triangle, mirror
from foretune.kernels.tile import Tile, Workspace, by_precision, zero_kernel
from foretune.shapes import Float

THRESHOLD = 1e-4
"""Entries below this share of their uncancelled size count as zero."""


@dataclass(frozen=True)
class BlockEps:
    """One eps for each block (Malladi et al. 2023, Assumption D.2 g: matched to the scale of the block's gradient).

    Attributes:
        values: block and its eps.
    """

    values: tuple[tuple[str, float], ...]

    @classmethod
    def matched(cls, kernel: BlockKernel, sizes: Mapping[str, int], share: float) -> BlockEps:
        """`share` times the root mean square of each block's gradient entries.

        Args:
            kernel: the SGD kernel of some examples with themselves.
            sizes: block -> number of entries.
            share: of the gradient's size.
        """
        n, c = kernel.array.shape[1:3]
        traces = np.einsum("bicic->b", kernel.array[:, :, :, :n])
        scales = [
            np.sqrt(max(trace, 0) / (n * c * sizes[name])) for name, trace in zip(kernel.names, traces, strict=True)
        ]
        return cls(tuple((name, share * float(scale)) for name, scale in zip(kernel.names, scales, strict=True)))

    def of(self, block: str) -> float:
        """The eps of one block.

        Raises:
            UsageError: it has none.
        """
        found = dict(self.values).get(block)
        if found is None:
            raise UsageError(f"BlockEps has no eps for {block!r}. Give one for each block of the kernel.")
        return found


@dataclass(frozen=True)
class SignFormula(Formula):
    """What the kernels of this family have in common.

    Attributes:
        eps: of the smooth sign `x / (|x| + eps)`, in units of the gradient; 0 is the exact sign. One number, or one for
            each block.
        threshold: entries below this share of their uncancelled size count as zero. At the default, kernels differ from
            those of exact signs by about 0.1% (MiniLM) to 1% (tiny models); at 0 every entry counts, rounding noise too.

    Raises:
        UsageError: a negative eps or threshold.
    """

    eps: float | BlockEps = 0.0
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        eps = [self.eps] if isinstance(self.eps, (int, float)) else [value for _, value in self.eps.values]
        for name, value in (*(("eps", each) for each in eps), ("threshold", self.threshold)):
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value}; expected zero or more.")

    def eps_of(self, block: str) -> float:
        """The eps of one block."""
        return self.eps.of(block) if isinstance(self.eps, BlockEps) else self.eps

    @property
    def family(self) -> type[Formula]:
        """All sign kernels share their chunks."""
        return SignFormula

    @property
    @abstractmethod
    def sides(self) -> tuple[bool, bool]:
        """Whether rows and columns are signed."""

    @classmethod
    def together(
        cls, formulas: Sequence[Any], rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """See `Formula.together`."""
        alike: dict[tuple[float | BlockEps, float], list[SignFormula]] = defaultdict(list)
        for formula in formulas:
            alike[formula.eps, formula.threshold].append(formula)
        for members in alike.values():
            wanted = dict.fromkeys(name for formula in members for name in names[formula])
            for blocks, space in by_precision(wanted, rows, columns, least=torch.float32).values():
                for name in blocks:
                    users = [formula for formula in members if name in names[formula]]
                    for formula, kernel in _kernels(name, users, rows, columns, space):
                        yield formula, name, kernel


@dataclass(frozen=True)
class SignGD(SignFormula):
    """The SignGD kernel `<sign df, sign df'>` (Malladi et al. 2023, Definition 3.4)."""

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether rows and columns are signed."""
        return True, True

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "signgd"


@dataclass(frozen=True)
class AsymmetricSignGD(SignFormula):
    """The asymmetric SignGD kernel `<df, sign df'>` (Malladi et al. 2023, Definition 3.2).

    Attributes:
        signed: which argument is signed; the paper's kernel signs the second one, the columns. `reversed` is the other
            orientation: rows signed, columns plain. Ask for both in one pass: `kernels(..., formulas=[a, a.reversed])`.
    """

    signed: Literal["columns", "rows"] = "columns"
    symmetric = False

    @property
    def reversed(self) -> AsymmetricSignGD:
        """The other orientation of the same kernel."""
        return AsymmetricSignGD(self.eps, self.threshold, "rows" if self.signed == "columns" else "columns")

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether rows and columns are signed."""
        return self.signed == "rows", self.signed == "columns"

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "asymmetric" if self.signed == "columns" else "asymmetric-reversed"


def _kernels(
    name: str, formulas: Sequence[SignFormula], rows: Tile, columns: Tile, space: Workspace
) -> Iterator[tuple[SignFormula, Float[Tensor, "n c m d"]]]:
    """The kernels of one block by several formulas with one eps and threshold.

    Chunks hold `dW / unit` with `unit = threshold * uncancelled size`, so that the entries to drop are those below one;
    a plain side is scaled back in the kernel, row by row.
    """
    same = rows is columns
    eps, threshold = formulas[0].eps_of(name), formulas[0].threshold
    units = [units_of(name, tile, threshold).to(space.like.dtype) for tile in (rows, columns)]
    left = _over(side_of(name, rows), units[0])
    right = left if same else _over(side_of(name, columns), units[1])
    kernels = {formula: zero_kernel(rows, columns) for formula in formulas}
    matrices = {formula: kernel.view(len(units[0]), -1) for formula, kernel in kernels.items()}
    needed = [any(formula.sides[place] for formula in formulas) for place in (0, 1)]
    if same:
        needed = [True, False]
    for _, *plain in gradient_chunks(left, right, space):
        signed = [
            signs_of(plain[place], space.take(f"signs {place}", plain[place].numel()), units[place], eps, threshold)
            if needed[place]
            else plain[place]
            for place in (0, 1)
        ]
        if same:
            signed[1] = signed[0]
        for formula, matrix in matrices.items():
            first, second = (signed[place] if formula.sides[place] else plain[place] for place in (0, 1))
            if same and formula.symmetric:
                add_triangle(matrix, first)
            else:
                add_product(matrix, first, second)
    for formula, matrix in matrices.items():
        if same and formula.symmetric:
            mirror(matrix)
        for place, shape in ((0, (-1, 1)), (1, (1, -1))):
            if not formula.sides[place]:
                matrix *= units[place].double().view(shape)
        yield formula, kernels[formula]


def units_of(name: str, tile: Tile, threshold: float) -> Float[Tensor, " nc"]:
    """Below what each example's and output's entries count as zero; one where nothing is dropped."""
    if threshold == 0:
        return torch.ones_like(torch.cat([batch.outputs.reshape(-1) for batch in tile]))
    return torch.cat([threshold * uncancelled_size(batch, name).reshape(-1) for batch in tile])


def uncancelled_size(batch: FactorBatch, name: str) -> Float[Tensor, "n c"]:
    """The root mean square that a gradient's entries would have if the terms of their sums did not cancel."""
    factor = batch.factors.get(name)
    if factor is None:
        return torch.zeros_like(batch.outputs)
    if isinstance(factor, Dense):
        return factor.scale
    if isinstance(factor, RowFactor):
        return factor.values.norm(dim=-1).sum(-1) / math.sqrt(factor.values.shape[-1])
    inputs = factor.x.norm(dim=-1)  # (n, t)
    sums = torch.stack([(g.norm(dim=-1) * inputs).sum(-1) for g in factor.g], dim=1)  # (n, c)
    return sums / math.sqrt(factor.features * factor.x.shape[-1])


def _over(side: Side, units: Float[Tensor, " nc"]) -> Side:
    """The same block with each gradient divided by its unit; zero where the unit is zero."""
    inverse = torch.where(units > torch.finfo(units.dtype).tiny, 1 / units, 0)
    parts = inverse.split([part.count for part in side])
    return [replace(part, scale=scale) for part, scale in zip(side, parts, strict=True)]


def signs_of(
    chunk: Float[Tensor, "k p"], into: Float[Tensor, "..."], units: Float[Tensor, " k"], eps: float, threshold: float
) -> Float[Tensor, "k p"]:
    """The signs of a chunk of `dW / unit`; entries below one count as zero."""
    found = into.view_as(chunk)
    if eps == 0 and threshold == 0:
        return torch.sign(chunk, out=found)
    if eps == 0:
        return torch.trunc(chunk, out=found).clamp_(-1, 1)
    torch.abs(chunk, out=found)
    dropped = found < (1 if threshold else 0)
    found += (eps / units)[:, None]
    return torch.div(chunk, found, out=found).masked_fill_(dropped, 0)
