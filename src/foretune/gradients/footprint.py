"""What the factors of one example weigh, from one forward pass: no derivative is needed to know its size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from foretune.gradients.capture import Pass, UnruledError, mixed_kinds
from foretune.gradients.factors import Factor
from foretune.gradients.recorder import Recorder


def footprint(
    run: Pass, parameters: Mapping[str, Tensor], direct: frozenset[str], weights: Mapping[str, Tensor]
) -> tuple[int, int]:
    """Bytes of the factors of one example, and of what lives besides them while they are being computed.

    Args:
        run: the forward pass of a single example.
        parameters: name -> tensor, as in `capture`.
        direct: names whose gradient autograd materialises.
        weights: tensors of the model itself, which cost nothing more.

    Raises:
        UnruledError: see `capture`.
    """
    saved: list[Tensor] = []  # held, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return tensor

    recorder = Recorder(parameters, len(run.positions), run.tokens, skip=direct)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recorder:
            c = run.forward().shape[1]
        if recorder.unruled:
            raise UnruledError(recorder.unruled)
        with torch.no_grad():
            factors = _factors(recorder, c)
    finally:
        recorder.release()
    tensors = [tensor for factor in factors for tensor in factor.tensors]
    held = _storages([tensor for tensor in tensors if not _is_expanded(tensor)])
    formed = sum(tensor.numel() * tensor.element_size() for tensor in tensors if _is_expanded(tensor))
    formed += sum(c * parameters[name].numel() * parameters[name].element_size() for name in direct)
    others = {*held, *_storages(list(weights.values()))}
    graph = sum(size for address, size in _storages(saved).items() if address not in others)
    return sum(held.values()) + formed, graph


def _factors(recorder: Recorder, c: int) -> list[Factor]:
    """The factors that a backward pass would leave, with derivatives that are all the same number."""
    found: dict[str, list[Factor]] = defaultdict(list)
    for use in recorder.uses:
        g = use.result.new_zeros(()).expand(recorder.tokens(use.result).shape)  # (n, t, o)
        for name, factor in use.rule((g,) * c):
            found[name].append(factor)
    if mixed := mixed_kinds(found):
        raise UnruledError(mixed)
    return [factor for factors in found.values() for factor in factors]


def _is_expanded(tensor: Tensor) -> bool:
    """Whether the derivatives themselves are kept, which here take no memory."""
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """Address and bytes of the memory behind tensors, shared memory once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
