"""A hash of a model's weights: two models with one fingerprint compute the same function."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor

from foretune.model.outputs import Outputs


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """XXH3 (128 bits) over names, shapes, dtypes and bytes of the tensors."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in packages}


def outputs_identity(outputs: Outputs, weights: Mapping[str, Tensor] | None = None) -> dict[str, object]:
    """Everything that determines a function's values, for result files: the model, its weights, what it is asked.

    Args:
        outputs: the function.
        weights: those that count; all of its own when left out.
    """
    lm = outputs.lm
    return {
        "model": lm.name,
        "revision": lm.revision,
        "weights": fingerprint(outputs.module.state_dict() if weights is None else weights),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": lm.device.type,
        "outputs": outputs.description,
    }
