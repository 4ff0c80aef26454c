"""What the factors of one example weigh, from one forward pass: no derivative is needed to know its size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foretune.gradients.capture import Pass, UnruledError, factors_by_name
from foretune.gradients.recorder import Recorder
from foretune.shapes import Float


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
            found = factors_by_name((use, (_one_number(recorder.tokens(use.result)),) * c) for use in recorder.uses)
    finally:
        recorder.release()
    tensors = [tensor for factors in found.values() for factor in factors for tensor in factor.tensors]
    held = _storages([tensor for tensor in tensors if not _is_expanded(tensor)])
    formed = sum(tensor.numel() * tensor.element_size() for tensor in tensors if _is_expanded(tensor))
    formed += sum(c * parameters[name].numel() * parameters[name].element_size() for name in direct)
    others = {*held, *_storages(list(weights.values()))}
    graph = sum(size for address, size in _storages(saved).items() if address not in others)
    return sum(held.values()) + formed, graph


def _one_number(like: Float[Tensor, "n t o"]) -> Float[Tensor, "n t o"]:
    """Derivatives of that shape that are all the same number, and take no memory."""
    return like.new_zeros(()).expand(like.shape)


def _is_expanded(tensor: Tensor) -> bool:
    """Whether the derivatives themselves are kept, which here take no memory."""
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """Address and bytes of the memory behind tensors, shared memory once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
