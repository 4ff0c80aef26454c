"""Gradient factors of one batch: one forward pass, then one backward pass per output.

The model's weights are frozen. The graph starts at the first result that a watched parameter touches (normally the
embedding output), so that no weight gradient is ever formed: the backward pass costs about one forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from foretune.errors import NonFiniteError
from foretune.gradients.factors import Dense, Factor, FactorBatch, joined, joins
from foretune.gradients.recorder import Recorder
from foretune.gradients.uses import Derivatives, Use
from foretune.shapes import Bool, Float


class UnruledError(Exception):
    """Parameters that no factor rule covers; `names` says which."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = frozenset(names)


@dataclass(frozen=True)
class Pass:
    """What one forward pass is: a closure that runs the model, and the shape of its batch."""

    forward: Callable[[], Float[Tensor, "n c"]]
    positions: tuple[int, ...]
    tokens: int


def capture(
    run: Pass,
    parameters: Mapping[str, Tensor],
    direct: frozenset[str] = frozenset(),
    matrices: Mapping[str, bool] = MappingProxyType({}),
    *,
    searching: bool = False,
) -> tuple[FactorBatch, Bool[Tensor, ""]]:
    """The gradient factors of `parameters` for the examples of one batch.

    Args:
        run: the forward pass; it must use the very tensors in `parameters`, none of which requires a gradient.
        parameters: name -> tensor.
        direct: names whose gradient autograd materialises instead; needs a batch of one example.
        matrices: weights of linear layers -> whether they are (inputs, outputs), as GPT-2's Conv1D holds them.
        searching: look for the first number that is not finite.

    Returns:
        The factors; parameters without any influence on the outputs are absent. Then whether all outputs and derivatives
        are finite: on the device, which would have to finish first to be asked.

    Raises:
        UnruledError: a parameter enters an operation without a rule.
        NotPerExampleError: the model mixes or flattens examples; run them one at a time.
        NonFiniteError: only where `searching`: an infinite or undefined number, with the module where it first appears.
    """
    n = len(run.positions)
    recorder = Recorder(parameters, n, run.tokens, skip=direct)
    materialised = [parameters[name].requires_grad_() for name in sorted(direct)]
    try:
        with torch.enable_grad():
            with recorder:
                logits = run.forward()  # (n, c)
            if recorder.unruled:
                raise UnruledError(recorder.unruled)
            if searching:
                _refuse_non_finite(logits, recorder.uses)
            for use in recorder.uses:
                del use.result
            with torch.autocast(logits.device.type, enabled=False):
                dense, finite = _backward(logits, recorder, materialised)
                if searching and not all(finite):
                    raise _gradient_error(recorder.uses)  # what goes wrong anywhere flows to where the graph starts
                taken = ((use, g) for use in recorder.uses if (g := use.derivatives()) is not None)  # else no influence
                factors = {name: joined(uses) for name, uses in factors_by_name(taken).items()}
        for name, values in zip(sorted(direct), dense, strict=True):
            factors[name] = _whole(values, parameters[name], matrices.get(name))
    finally:
        recorder.release()
        for tensor in materialised:
            tensor.requires_grad_(False)
    finite = [each.to(logits.device) for each in (*finite, torch.isfinite(logits).all())]
    return FactorBatch(run.positions, logits.detach(), factors), torch.stack(finite).all()


def _backward(
    logits: Tensor, recorder: Recorder, materialised: list[Tensor]
) -> tuple[list[Float[Tensor, "n c p"]], list[Bool[Tensor, ""]]]:
    """Run one backward pass per output; the uses receive their share.

    Returns:
        Materialised gradients, and whether the derivatives are finite where the graph starts.
    """
    c = logits.shape[1]
    targets = recorder.leaves + materialised
    dense = [tensor.new_zeros(1, c, tensor.numel()) for tensor in materialised]
    finite: list[Tensor] = []
    if not logits.requires_grad:
        return dense, finite
    for use in recorder.uses:
        use.outputs = c
    for output in range(c):
        for use in recorder.uses:
            use.output = output
        grads = torch.autograd.grad(logits[:, output].sum(), targets, retain_graph=output < c - 1, allow_unused=True)
        finite += [torch.isfinite(grad).all() for grad in grads if grad is not None]
        for values, grad in zip(dense, grads[len(recorder.leaves) :], strict=True):
            if grad is not None:
                values[0, output] = grad.reshape(-1)
    return dense, finite


def _whole(values: Float[Tensor, "n c p"], parameter: Tensor, turned: bool | None) -> Dense:
    """The factor of a materialised gradient, a linear layer's weight as (outputs, inputs)."""
    if turned is None or parameter.dim() != 2:
        return Dense.whole(values)
    matrix = values.unflatten(-1, parameter.shape)
    matrix = matrix.mT if turned else matrix
    return Dense.whole(matrix.flatten(2), matrix.shape[-1])


def _gradient_error(uses: list[Use]) -> NonFiniteError:
    """Name the module where a backward pass first met an infinite or undefined number."""
    broken = [use for use in uses if not all(torch.isfinite(g).all() for g in use.received.values())]
    where = f"module {module_of(broken[-1].name)!r}" if broken else "the embeddings"
    return NonFiniteError(
        f"The gradient at {where} is infinite or undefined. Try dtype float32 or float64, or check the weights there."
    )


def factors_by_name(uses: Iterable[tuple[Use, Derivatives]]) -> dict[str, list[Factor]]:
    """Parameter -> the factor of each of its uses, from the derivatives with respect to their results.

    Raises:
        UnruledError: the uses of a parameter have factors of different kinds, which do not join.
    """
    found: dict[str, list[Factor]] = defaultdict(list)
    for use, g in uses:
        for name, factor in use.rule(g):
            found[name].append(factor)
    mixed = {name for name, factors in found.items() if not joins(factors)}
    if mixed:
        raise UnruledError(mixed)
    return found


def _refuse_non_finite(logits: Tensor, uses: list[Use]) -> None:
    """Name the first module whose result is not finite, if the logits are not."""
    finite = bool(torch.isfinite(logits).all())
    for use in uses:
        if not finite and not torch.isfinite(use.result).all():
            raise NonFiniteError(
                f"The result of module {module_of(use.name)!r} is infinite or undefined. Try dtype float32 or float64, "
                "or check the weights and the inputs of this module."
            )
    if not finite:
        raise NonFiniteError("The model's outputs are infinite or undefined although every layer's result is finite.")


def module_of(parameter: str) -> str:
    """The module that a parameter name belongs to."""
    return parameter.rpartition(".")[0] or parameter
