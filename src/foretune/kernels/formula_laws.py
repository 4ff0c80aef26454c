r"""What formulas make of a block, held against its plain gradient `G = sum_k v_k df_k / d theta`, `k = (example, output)`.

LoRA           sum_kl v_k v_l K[k, l] = scaling^2 ||G A^T||^2, the squared norm of the gradient of B
formed         sum_k v_k dW[k] = G
signs          K is the product of the signs of the formed gradients
projections    sum_k v_k phi[k] = Pi^T G
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, FactorBatch, Products, RowFactor
from foretune.kernels.formula import Formula
from foretune.kernels.inner_product import kernel_beside
from foretune.kernels.lora import LoRA
from foretune.kernels.materialised import gradient_chunks, side_of
from foretune.kernels.projection import Projection
from foretune.kernels.sgd import SGD
from foretune.kernels.signs import SignFormula, signs_of, units_of
from foretune.kernels.tile import Tile, Workspace
from foretune.shapes import Float64

_MOST = 1 << 22
"""Blocks with more entries are not formed for a check."""


def sampled(sizes: Mapping[str, float], tile: Tile, blocks: Mapping[Formula, Sequence[str]]) -> list[str]:
    """The smallest block of each kind of factor that is more than rounding noise, with and without adapters.

    Args:
        sizes: block -> squared norm of its weighted gradient.
        tile: the factors.
        blocks: formula -> the blocks of its kernel.
    """
    if not any(isinstance(formula, (LoRA, SignFormula, Projection)) for formula in blocks):
        return []
    kinds = {name: factor for batch in tile for name, factor in batch.factors.items()}
    adapted = {name for formula, names in blocks.items() if isinstance(formula, LoRA) for name in names}
    largest = max(sizes.values(), default=0.0)
    found: dict[object, str] = {}
    for name in sorted(kinds, key=lambda name: kinds[name].entries):
        if kinds[name].entries <= _MOST and sizes[name] > 1e-4 * largest:
            found.setdefault((type(kinds[name]), name in adapted), name)
    return list(found.values())


def formula_errors(
    name: str,
    gradient: Tensor,
    tile: Tile,
    weights: Float64[Tensor, " k"],
    blocks: Mapping[Formula, Sequence[str]],
) -> Iterator[tuple[Formula, float]]:
    """How far each formula is off on one block, as a share of what it should be.

    Args:
        name: the block.
        gradient: G, in float64; of a linear layer that no rule covers as (outputs, inputs).
        tile: the factors.
        weights: v, in the order of the tile.
        blocks: formula -> the blocks of its kernel.
    """
    factor = next(factor for batch in tile if (factor := batch.factors.get(name)) is not None)
    alone = [replace(batch, factors={key: f for key, f in batch.factors.items() if key == name}) for batch in tile]
    entries = _entries(gradient, factor)
    for formula, names in blocks.items():
        if isinstance(formula, LoRA) and name in names:
            beside = any(isinstance(other, SGD) and name in theirs for other, theirs in blocks.items())
            yield formula, _lora_error(formula, name, entries, alone, weights, beside=beside)
        elif isinstance(formula, SignFormula) and name in names:
            yield formula, _sign_error(formula, name, entries, alone, weights)
        elif isinstance(formula, Projection):
            truth = [FactorBatch((0,), entries.new_zeros(1, 1), {name: _as_factor(entries, factor)})]
            yield formula, _share(weights @ formula.features(alone), formula.features(truth)[0])


def _entries(gradient: Tensor, factor: Factor) -> Float64[Tensor, "e rows width"]:
    """A gradient by slices and rows, as `gradient_chunks` goes through it."""
    if isinstance(factor, Products):
        slices = gradient.reshape(-1, *gradient.shape[-2:])
        return slices.mT.contiguous() if factor.turned else slices
    if isinstance(factor, RowFactor):
        return gradient.reshape(1, len(gradient), -1)
    return gradient.reshape(1, -1, factor.inputs or gradient.numel())


def _share(found: Tensor, expected: Tensor) -> float:
    """The distance as a share of the expected norm."""
    return ((found - expected).norm() / expected.norm()).item()


def _lora_error(
    formula: LoRA,
    name: str,
    entries: Float64[Tensor, "e o i"],
    alone: Tile,
    weights: Float64[Tensor, " k"],
    *,
    beside: bool,
) -> float:
    """The larger of the errors of the ways in which the kernel can be made; `beside`: the SGD kernel is made, too."""
    a = torch.from_numpy(formula.matrix(name, entries.shape[-1])).to(entries.device)  # (r, i)
    expected = formula.scaling**2 * (entries @ a.T).square().sum()
    kernels = [next(LoRA.together([formula], alone, alone, {formula: [name]}))[2]]
    kernels += [kernel] if beside and (kernel := kernel_beside(formula, name, alone, alone)) is not None else []
    return max(_share(weights @ kernel.reshape(len(weights), -1) @ weights, expected) for kernel in kernels)


def _sign_error(
    formula: SignFormula, name: str, entries: Float64[Tensor, "e o i"], alone: Tile, weights: Float64[Tensor, " k"]
) -> float:
    """The larger of the errors of the formed gradients and of the kernel that their signs make."""
    side, space = side_of(name, alone), Workspace(entries.new_empty(0))
    expected, formed = [], []
    for place, chunk, _ in gradient_chunks(side, side, space):
        whole = isinstance(alone[0].factors[name], Dense)  # one row, of any shape
        expected.append((entries if whole else entries[place.slice][list(place.rows)]).reshape(-1))
        formed.append(chunk.clone())
    plain = torch.cat(formed, dim=1)  # (k, p)
    units = units_of(name, alone, formula.threshold).double()
    sign = signs_of(plain / units[:, None], torch.empty_like(plain), units, formula.eps_of(name), formula.threshold)
    left, right = (sign if is_signed else plain for is_signed in formula.sides)
    _, _, kernel = next(SignFormula.together([formula], alone, alone, {formula: [name]}))
    return max(_share(weights @ plain, torch.cat(expected)), _share(kernel.reshape(len(weights), -1), left @ right.T))


def _as_factor(entries: Float64[Tensor, "e rows width"], like: Factor) -> Factor:
    """A gradient as a factor of the same kind: all rows of a table, or identities as inputs."""
    if isinstance(like, Dense):
        return Dense.whole(entries.reshape(1, 1, -1))
    if isinstance(like, RowFactor):
        return RowFactor(torch.arange(entries.shape[1], device=entries.device)[None], entries[None])
    count, _, inputs = entries.shape
    x = torch.eye(inputs, dtype=entries.dtype, device=entries.device).repeat(count, 1)[None]  # (1, e * i, i)
    group = torch.arange(count, device=entries.device).repeat_interleave(inputs)[None]
    g = entries.mT.flatten(0, 1)[None]  # (1, e * i, o)
    return Products(x, (g,), None if like.group is None else group)
