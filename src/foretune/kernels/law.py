r"""The law that every kernel obeys, checked on one example before a computation starts.

For any weights `v` of its outputs one plain backward pass gives the gradient of their sum for each parameter block,
`G_b = sum_k v_k df_k / d theta_b`, and

    sum_kl v_k v_l K_b[k, l] = ||G_b||^2

for every block. The example's factors are those of the computation's own first batch, which goes on to be its first: the
law costs one plain pass of one example, and its products. What a factor rule drops, or what the recorder does not see,
breaks the law, and the computation stops before it has cost anything. A model that lays out tokens before examples mixes
the examples of a batch: it breaks the law in a batch and keeps it alone, and its examples go through it one at a time.
`formula_laws` holds the formulas that need formed gradients or adapters against `G_b`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune.errors import KernelLawError
from foretune.gradients.factors import FactorBatch
from foretune.gradients.plain import visit_gradients
from foretune.gradients.source import GradientSource
from foretune.kernels.draws import draws
from foretune.kernels.formula import Formula, overflow
from foretune.kernels.formula_laws import formula_errors, sampled
from foretune.kernels.inner_product import sgd_kernels
from foretune.kernels.signs import uncancelled_size
from foretune.kernels.tile import Tile
from foretune.model.padding import working_precision
from foretune.shapes import Float64

CHECKED = True
"""Benchmarks of single parts switch the check off."""


@dataclass(frozen=True)
class Tolerance:
    """What rounding may do to a squared norm.

    Attributes:
        own: a share of what the block would have if its examples and outputs did not cancel.
        terms: a share of what it would have if the terms of its sums over tokens did not cancel either.
        whole: a share of that of all parameters together.
    """

    own: float
    terms: float
    whole: float


_TOLERANCES = {
    torch.float64: Tolerance(1e-3, 1e-8, 1e-10),
    torch.float32: Tolerance(1e-3, 1e-8, 1e-10),
    torch.float16: Tolerance(0.1, 1e-4, 1e-5),
    torch.bfloat16: Tolerance(0.3, 1e-2, 1e-3),
}


def check_law(
    source: GradientSource, blocks: Mapping[Formula, Sequence[str]], first: Sequence[int], batch: int
) -> None:
    """Hold the kernel of an example against one plain backward pass.

    Args:
        source: the examples and parameters of a computation.
        blocks: formula -> the blocks of its kernel.
        first: the places that the computation will ask the source for first.
        batch: examples per forward pass, as it will ask.

    Raises:
        KernelLawError: a parameter's kernel is not that of its gradient; the message names it.
    """
    if not CHECKED:
        return
    captured = source.first_batch(first, batch)
    try:
        _hold(source, blocks, captured.of_example(len(captured.positions) - 1))  # the shortest: the others pad it
    except KernelLawError:
        if len(captured.positions) == 1:
            raise
        source.one_by_one()
        _hold(source, blocks, source.first_batch(captured.positions, 1))
        warnings.warn(
            f"{source.outputs.lm.name} mixes the examples of a batch, so they go through it one at a time. This is slower.",
            stacklevel=2,
        )


def _hold(source: GradientSource, blocks: Mapping[Formula, Sequence[str]], captured: FactorBatch) -> None:
    """See `check_law`; `captured` holds the factors of one example."""
    tolerance = _TOLERANCES[working_precision(source.outputs.lm)]
    tile, place = [captured], captured.positions[0]
    drawn = torch.from_numpy(draws(0, "law").standard_normal(captured.outputs.shape[1]))
    weights = drawn.to(captured.outputs.device)
    kernels = {
        name: kernel.reshape(len(weights), -1) for name, kernel in sgd_kernels(tile, tile, list(source.parameters))
    }
    wanted = sampled({name: (weights @ kernel @ weights).item() for name, kernel in kernels.items()}, tile, blocks)
    squares: dict[str, float] = {}
    gradients: dict[str, Tensor] = {}

    def visit(name: str, gradient: Tensor) -> None:
        precision = torch.promote_types(gradient.dtype, torch.float32)
        squares[name] = torch.linalg.vector_norm(gradient, dtype=precision).item() ** 2
        if name in wanted:
            turned = name in source.direct and source.matrices.get(name, False)
            gradients[name] = (gradient.mT if turned else gradient).double().clone()

    visit_gradients(source.outputs, source.parameters, [(source.encoded[place], drawn)], visit)
    whole = sum(squares.values())
    for name, kernel in kernels.items():
        expected, found = squares.get(name, 0.0), (weights @ kernel @ weights).item()
        if not math.isfinite(found):
            raise overflow(name, "sgd")
        allowed = _allowed(name, kernel, weights, tile, tolerance) + tolerance.own * expected + tolerance.whole * whole
        if not abs(found - expected) <= allowed:
            raise _broken(
                name, "sgd", f"its squared norm is {found:.3g}; by a plain backward pass it is {expected:.3g}"
            )
    for name, gradient in gradients.items():
        for formula, error in formula_errors(name, gradient, tile, weights, blocks):
            if not error <= 10 * tolerance.own:
                raise _broken(
                    name, formula.label, f"it is off by {error:.0%} of its size from that of a plain gradient"
                )


def _allowed(
    name: str, kernel: Float64[Tensor, "k k"], weights: Float64[Tensor, " k"], tile: Tile, tolerance: Tolerance
) -> float:
    """How far rounding can take a block's number from the truth."""
    own = (weights.abs() @ kernel.diagonal().clamp(min=0).sqrt()).item() ** 2
    sizes = torch.cat([uncancelled_size(batch, name).reshape(-1) for batch in tile]).double()
    factor = next((factor for batch in tile if (factor := batch.factors.get(name)) is not None), None)
    if factor is None:
        return 0.0
    terms = factor.entries * (weights.abs() @ sizes).item() ** 2
    smallest = torch.finfo(factor.tensors[-1].dtype).smallest_normal  # smaller numbers are lost altogether
    return tolerance.own * own + tolerance.terms * terms + factor.entries * smallest**2 * len(weights)


def _broken(name: str, label: str, how: str) -> KernelLawError:
    return KernelLawError(
        f"The kernel ({label}) of {name!r} is not that of its gradient: {how}. The model uses this parameter in a way "
        "that foretune does not see (compiled code, or a function with a backward pass of its own). Leave the block out "
        "(blocks=...; --layers, --exclude-embeddings, --exclude-head), and please report the model."
    )
