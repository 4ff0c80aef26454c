"""The published ways to an empirical NTK, written again for the same outputs, and the floor under all of them.

jvp         per-example Jacobian, then a Jacobian-vector product over every other example (Malladi et al. 2023, A.2)
jvp-16      the same over sixteen examples at a time
vmap        `vmap(jacrev)` for all examples, then products of the Jacobians (the PyTorch tutorial's way)
nngeometry  the `nngeometry` package: `GramMatrix` from `PMatDense`-style generators, embedding tables left out
factors     foretune
passes      one forward and c backward passes, nothing else
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import foretune as ft
from benchmarks.case import Case, Measured
from foretune.gradients.factors import Products
from foretune.gradients.source import GradientSource
from foretune.kernels.cost import product_rate
from foretune.kernels.inner_product import contraction_flops
from foretune.model.outputs import Outputs
from foretune.progress import peak_memory
from foretune.text.example import Example


def factors(case: Case) -> Measured:
    """Foretune's block kernels of all parameters."""
    outputs, examples = case.outputs()
    ft.block_kernels(outputs, examples[:2])  # threads and libraries start
    with peak_memory() as peak:
        start = time.perf_counter()
        kernel = ft.block_kernels(outputs, examples)
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    ft.block_kernels(outputs, examples)
    again = time.perf_counter() - start
    return Measured(seconds, peak.peak - peak.before, float(kernel.matrix().trace()), f"once more {again:.2f} s")


def factors_without_tables(case: Case) -> Measured:
    """Foretune's block kernels without embedding tables, for comparison with nngeometry."""
    outputs, examples = case.outputs()
    ft.block_kernels(outputs, examples[:2])
    with peak_memory() as peak:
        start = time.perf_counter()
        kernel = ft.block_kernels(outputs, examples, blocks=lambda name: "_embeddings" not in name)
        seconds = time.perf_counter() - start
    return Measured(seconds, peak.peak - peak.before, float(kernel.matrix().trace()))


def passes(case: Case) -> Measured:
    """One forward and c backward passes in batches of 8 by length, the graph started at the embedding output."""
    outputs, examples = case.outputs()
    encoded = sorted((outputs.encode(example) for example in examples), key=lambda item: -len(item.ids))
    embedding = outputs.lm.module.get_input_embeddings()
    table = next(m for m in outputs.module.modules() if getattr(m, "weight", None) is not None
                 and m.weight.data_ptr() == embedding.weight.data_ptr() and isinstance(m, type(embedding)))  # fmt: skip
    started: list[Tensor] = []

    def begin(_module: torch.nn.Module, _args: tuple, result: Tensor) -> Tensor:
        started.append(result.requires_grad_())
        return result.clone()

    handle = table.register_forward_hook(begin)
    outputs.forward(outputs.collate(encoded[-2:]))  # threads and libraries start
    with peak_memory() as peak:
        start = time.perf_counter()
        for first in range(0, len(encoded), 8):
            logits = outputs.forward(outputs.collate(encoded[first : first + 8]))
            for output in range(logits.shape[1]):
                torch.autograd.grad(logits[:, output].sum(), started[-1:], retain_graph=output + 1 < logits.shape[1])
        seconds = time.perf_counter() - start
    handle.remove()
    flops, rate = _contraction(outputs, examples), product_rate(2048)
    return Measured(seconds + flops / rate, peak.peak - peak.before, float("nan"), f"passes {seconds:.2f} s", flops)


def _contraction(outputs: Outputs, examples: list[Example]) -> float:
    """Floating-point operations of the cheaper contraction of each linear block, one triangle, no other costs."""
    source = GradientSource(outputs, examples, list(outputs.parameters()))
    tile = source.capture(range(len(examples)), 8)
    total = 0.0
    for name in source.parameters:
        used = [batch.factors[name] for batch in tile if name in batch.factors]
        if used and isinstance(used[0], Products):
            total += 2 * min(contraction_flops(used, used, same=True, weighted=False))
    return total


def _function(outputs: Outputs) -> Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]:
    """One example's logits (c,) from parameters and an unpadded batch without leading dimension."""
    return lambda parameters, batch: outputs.logits(parameters, {k: v[None] for k, v in batch.items()})[0]


def jvp(case: Case, size: int, rows: int = 2) -> Measured:
    """Per-example Jacobian, then jvp over every example, both triangles; a few rows, extrapolated.

    The published trainer runs the inner loop over the whole data set for each outer example, with the tangents of all
    outputs under one vmap, one example at a time.

    Args:
        case: what of.
        size: examples of the inner loop at a time, of similar length together.
        rows: that are measured.
    """
    outputs, examples = case.outputs(eager=True)
    examples = sorted(examples, key=lambda example: -len(outputs.encode(example).ids))
    parameters = {name: tensor.detach() for name, tensor in outputs.parameters().items()}
    batches = [outputs.batch(examples[first : first + size]) for first in range(0, case.n, size)]
    trace = 0.0
    with peak_memory() as peak:
        start = time.perf_counter()
        for i in range(0, case.n, case.n // rows)[:rows]:
            alone = outputs.batch([examples[i]])
            jacobian = torch.func.jacrev(lambda p, alone=alone: outputs.logits(p, alone)[0])(parameters)
            for number, batch in enumerate(batches):
                block = torch.func.vmap(partial(_derivatives, outputs, parameters, batch))(jacobian)  # (c, n, c)
                trace += float(block[:, i % size].trace()) if number == i // size else 0.0
        seconds = time.perf_counter() - start
    whole = seconds * case.n / rows
    return Measured(whole, peak.peak - peak.before, trace * case.n / rows, f"extrapolated from {rows} rows")


def _derivatives(
    outputs: Outputs, parameters: dict[str, Tensor], batch: dict[str, Tensor], tangent: dict[str, Tensor]
) -> Tensor:
    """The directional derivatives of the logits of a batch."""
    return torch.func.jvp(lambda p: outputs.logits(p, batch), (parameters,), (tangent,))[1]


def vmap(case: Case) -> Measured:
    """All per-example Jacobians by vmap(jacrev), then one product per parameter."""
    outputs, examples = case.outputs(eager=True)
    parameters = {name: tensor.detach() for name, tensor in outputs.parameters().items()}
    batch = outputs.batch(examples)
    _allow_vmapped_masks(outputs)
    function = _function(outputs)
    with peak_memory() as peak:
        start = time.perf_counter()
        jacobian = torch.func.vmap(torch.func.jacrev(function), (None, 0))(parameters, batch)
        matrix = torch.zeros(case.n * outputs.n_outputs, case.n * outputs.n_outputs, dtype=torch.float64)
        for values in jacobian.values():
            flat = values.flatten(0, 1).flatten(1)
            matrix += (flat @ flat.T).double()
        seconds = time.perf_counter() - start
    return Measured(seconds, peak.peak - peak.before, float(matrix.trace()))


def _allow_vmapped_masks(outputs: Outputs) -> None:
    """Pass 4-D masks: building them from 2-D ones branches on data, which vmap refuses."""
    forward = outputs.module.forward
    causal = outputs.lm.kind == "causal"

    def masked(batch: dict[str, Tensor]) -> Tensor:
        keep = batch["attention_mask"][:, None, None, :].to(outputs.lm.dtype)  # (1, 1, 1, t)
        mask = (1 - keep) * torch.finfo(outputs.lm.dtype).min
        if causal:
            t = keep.shape[-1]
            mask = mask + torch.full((t, t), torch.finfo(outputs.lm.dtype).min / 2).triu(1)
        body = outputs.module.body
        plain = body.forward
        body.forward = lambda *args, attention_mask=None, **kwargs: plain(*args, attention_mask=mask, **kwargs)
        try:
            return forward(batch)
        finally:
            del body.forward

    outputs.module.forward = masked


def nngeometry(case: Case) -> Measured:
    """Nngeometry's Gram matrix of all linear and norm layers; it rejects embeddings, so they are left out."""
    import benchmarks.nngeometry_way as way

    return way.measured(case)


METHODS: dict[str, Callable[[Case], Measured]] = {
    "jvp": partial(jvp, size=1),
    "jvp-16": partial(jvp, size=16),
    "vmap": vmap,
    "nngeometry": nngeometry,
    "factors": factors,
    "factors-without-tables": factors_without_tables,
    "passes": passes,
}
