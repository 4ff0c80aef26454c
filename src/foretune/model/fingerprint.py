"""What determines a model's outputs: its weights by their fingerprint, what it is asked, and versions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foretune.model.outputs import Outputs
from foretune.store.tensors import fingerprint
from foretune.store.version import version_of


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of packages that numbers depend on."""
    return {name: version_of(name) for name in packages}


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
        **_rounding(lm.device.type),
        "outputs": outputs.description,
    }


def _rounding(device: str) -> dict[str, str]:
    """What rounds products beside the model's own precision: autocast, and TF32 on a GPU. Nothing as a rule."""
    found = {}
    if torch.is_autocast_enabled(device):
        found["autocast"] = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
    if device == "cuda" and torch.get_float32_matmul_precision() != "highest":
        found["float32 products"] = torch.get_float32_matmul_precision()
    return found
