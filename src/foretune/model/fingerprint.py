"""A hash of a model's weights: two models with one fingerprint compute the same function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """XXH3 (128 bits) over names, shapes, dtypes and bytes of the tensors."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
