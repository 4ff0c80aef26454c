r"""The kernel of low-rank adapters at their start, from the factors of the full model.

A LoRA layer computes `h = W x + s B A x` with `B = 0` at first, so only B has a gradient (Malladi et al. 2023, Lemma E.4):

    dB[n, c] = s sum_t g[n, c, t] (outer) A x[n, t]
    K_LoRA   = s^2 sum_{t, s} (A x[n, t] . A x'[m, s]) (g[n, c, t] . g'[m, d, s])

with the scaling `s = alpha / r`, or `alpha / sqrt(r)` for rsLoRA. A is drawn as peft draws it: uniform in
`+- 1 / sqrt(in)` (kaiming_uniform with a = sqrt(5)), or normal with standard deviation `1 / r`. The rows of A do not
depend on the rank except for their size, so every rank up to R reads the first rows of one drawing, and the kernels of
all ranks are running sums over the columns of one gradient of rank R: a product for each rank that is wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretune.errors import UsageError, nearest
from foretune.gradients.factors import Dense, Factor, FactorBatch, Products
from foretune.kernels.adapter import Adapter
from foretune.kernels.draws import draws
from foretune.kernels.formula import Formula
from foretune.kernels.materialised import gradient_chunks, side_of
from foretune.kernels.products import add_product, add_triangle, mirror
from foretune.kernels.tile import Tile, Workspace, by_precision, zero_kernel
from foretune.model.bypassed import BYPASSED
from foretune.shapes import Float, Float64


@dataclass(frozen=True)
class LoRA(Adapter, Formula):
    """The kernel of LoRA adapters with B = 0 (Malladi et al. 2023, Lemma E.4), one block for each adapted weight.

    For a trained or loaded adapter pass the peft model itself: its A and B are parameters like any other. The attributes
    are those of `Adapter`.
    """

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"lora-r{self.rank}"

    def matrix(self, block: str, inputs: int) -> Float64[np.ndarray, "r i"]:
        """A for one adapted weight with `inputs` input features."""
        return self.unit * drawn_rows(self.init, self.seed, block, self.rank, inputs)

    def expected_ratio(self, inputs: int) -> float:
        """E[K_LoRA] / K for a weight with `inputs` input features: scaling^2 r Var(A)."""
        variance = 1 / (3 * inputs) if self.init == "kaiming" else 1 / self.rank**2
        return self.scaling**2 * self.rank * variance

    @property
    def unit(self) -> float:
        """How large A is against the common drawing."""
        return 1.0 if self.init == "kaiming" else 1 / self.rank

    def blocks(self, kinds: Mapping[str, str]) -> list[str]:
        """The weights of linear layers that `targets` names, without those that an adapter cannot serve.

        Raises:
            UsageError: one of them names none; the message has the nearest.
        """
        linear, bypassed = ([name for name, kind in kinds.items() if kind == of] for of in ("linear", "bypassed"))
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        found = {target: self._named(target, linear) for target in targets}
        missing = next((target for target, members in found.items() if not members), None)
        if missing is not None or not found:
            suffixes = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in linear})
            if missing is not None and self._named(missing, bypassed):
                left = [target for target in targets if found[target]] or suffixes
                hint = f"Leave it out: --target-modules {','.join(left)}." if left else "Use another method: ft."
                raise UsageError(
                    f"No adapter serves the LoRA target {missing!r}: {BYPASSED}. Its kernel would be of a training that "
                    f"cannot be. {hint}"
                )
            raise UsageError(
                f"The LoRA target {missing or '(none)'!r} matches no linear layer whose weight takes part. Linear layers "
                f"here end in {', '.join(suffixes) or '(there is none)'}.{nearest(missing or '', suffixes)}"
            )
        chosen = {name for members in found.values() for name in members}
        return [name for name in linear if name in chosen]

    def _named(self, target: str, weights: Sequence[str]) -> list[str]:
        """The weights whose modules a target names."""
        if target == self.targets == "all-linear":
            return list(weights)
        modules = {name: name.removesuffix(".weight") for name in weights}
        if target == self.targets:
            return [name for name, module in modules.items() if re.fullmatch(target, module)]
        return [name for name, module in modules.items() if f".{module}".endswith(f".{target}")]

    @classmethod
    def together(
        cls, formulas: Sequence[Any], rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """See `Formula.together`."""
        alike: dict[tuple[str, int], list[LoRA]] = {}
        for formula in formulas:
            alike.setdefault((formula.init, formula.seed), []).append(formula)
        for members in alike.values():
            wanted = dict.fromkeys(name for formula in members for name in names[formula])
            for blocks, space in by_precision(wanted, rows, columns).values():
                for name in blocks:
                    users = [formula for formula in members if name in names[formula]]
                    by_rank = _kernels(name, users, rows, columns, space)
                    for formula in users:
                        yield formula, name, by_rank[formula.rank] * (formula.scaling * formula.unit) ** 2


def drawn_rows(init: str, seed: int, block: str, rank: int, inputs: int) -> Float64[np.ndarray, "r i"]:
    """The first rows of the common drawing; one row after the other, so that ranks are nested."""
    generator = draws(seed, "lora", init, block)
    if init == "gaussian":
        return generator.standard_normal((rank, inputs))
    bound = 1 / math.sqrt(inputs)
    return generator.uniform(-bound, bound, (rank, inputs))


def _kernels(
    name: str, formulas: Sequence[LoRA], rows: Tile, columns: Tile, space: Workspace
) -> dict[int, Float[Tensor, "n c m d"]]:
    """Kernels of one block by rank, before scaling: each adds the columns between the next smaller rank and its own."""
    ranks = sorted({formula.rank for formula in formulas})
    kernel = zero_kernel(rows, columns)
    n, c, m, d = kernel.shape
    found = kernel.new_zeros(len(ranks), n * c, m * d)
    same = rows is columns
    factors = (batch.factors.get(name) for batch in (*rows, *columns))
    inputs = next((input_features(name, factor) for factor in factors if factor is not None), 0)
    if inputs:
        drawn = torch.from_numpy(drawn_rows(formulas[0].init, formulas[0].seed, name, ranks[-1], inputs))
        a = drawn.to(kernel.device, space.like.dtype)  # (r, i)
        left = side_of(name, _adapted(name, rows, a))
        right = left if same else side_of(name, _adapted(name, columns, a))
        for _, first, second in gradient_chunks(left, right, space):
            for matrix, (begin, end) in zip(found, pairwise((0, *ranks)), strict=True):
                part = _of_columns(first, ranks[-1], begin, end)
                if same:
                    add_triangle(matrix, part)
                else:
                    add_product(matrix, part, _of_columns(second, ranks[-1], begin, end))
    for before, matrix in pairwise(found):
        matrix += before
    if same:
        for matrix in found:
            mirror(matrix)
    return {rank: part.view_as(kernel) for rank, part in zip(ranks, found, strict=True)}


def _of_columns(chunk: Float[Tensor, "k p"], rank: int, begin: int, end: int) -> Float[Tensor, "k q"]:
    """The columns `begin:end` of gradients (outputs, rank), some of whose rows are laid end to end."""
    return chunk.view(len(chunk), -1, rank)[:, :, begin:end].flatten(1)


def _adapted(name: str, tile: Tile, a: Float[Tensor, "r i"]) -> list[FactorBatch]:
    """The factors of B: the layer's inputs, or a gradient from autograd, seen through A."""
    found = []
    for batch in tile:
        factor = batch.factors.get(name)
        factors: dict[str, Factor] = {}
        if isinstance(factor, Products):
            factors = {name: replace(factor, x=factor.x @ a.T.to(factor.x.dtype))}
        elif isinstance(factor, Dense) and factor.inputs is not None:
            matrix = factor.values.unflatten(-1, (-1, factor.inputs))  # (n, c, o, i)
            factors = {name: Dense.whole((matrix @ a.T.to(matrix.dtype)).flatten(2))}
        found.append(replace(batch, factors=factors))
    return found


def input_features(name: str, factor: Factor) -> int:
    """Input features of an adapted weight.

    Raises:
        UsageError: the weight is used in a way that no adapter has.
    """
    if isinstance(factor, Products):
        return factor.x.shape[-1]
    if isinstance(factor, Dense) and factor.inputs is not None:
        return factor.inputs
    raise UsageError(
        f"LoRA has no kernel for {name!r}: this model uses the weight as a table, not as a linear layer. Name other "
        "modules: LoRA(targets=...), or --target-modules."
    )
