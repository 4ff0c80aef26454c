"""Whether the weights of a model are where, and what, foretune can read: in memory, on one device, not packed by a library.

bitsandbytes' 4-bit weights are read: their layers know how to use them, and adapters on them have exact kernels.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from foretune.errors import ModelError

_PACKED = {"Int8Params": "bitsandbytes in 8 bits"}
"""Class of a weight -> who packed it so that no copy of its layer can be made."""


def refuse_scattered(name: str, module: nn.Module) -> None:
    """See that all weights are in memory and on one device.

    Args:
        name: what the model is called.
        module: the model.

    Raises:
        ModelError: some are elsewhere.
    """
    places = Counter(str(parameter.device) for parameter in module.parameters())
    if places["meta"]:
        raise ModelError(
            f"{places['meta']} of {places.total()} weights of {name} are not in memory: they were moved out of the way "
            "(device_map='auto', cpu_offload, disk_offload). foretune needs all of them on one device. Load the model "
            "with device_map={'': 0}, or without device_map on the CPU; bfloat16 takes half the memory."
        )
    if len(places) > 1:
        found = ", ".join(f"{count} on {place}" for place, count in places.most_common())
        raise ModelError(
            f"The weights of {name} are on several devices: {found}. foretune computes on one. Load the model with "
            "device_map={'': 0}; bfloat16 takes half the memory."
        )


def refuse_packed(name: str, module: nn.Module) -> None:
    """See that no weight is quantised in a way whose layers cannot be copied.

    Args:
        name: what the model is called.
        module: the model.

    Raises:
        ModelError: one is; the message says by whom.
    """
    for key, parameter in module.named_parameters():
        by = _packed_by(parameter)
        if by is not None:
            raise ModelError(
                f"The weight {key!r} of {name} is quantised by {by}, which foretune cannot read. Load the model in "
                "bfloat16 or float32, or its base with load_in_4bit=True (bitsandbytes), on which adapters are exact."
            )


def _packed_by(parameter: Any) -> str | None:
    """Who packed a weight; None where it can be read."""
    kind = type(parameter)
    if is_traceable_wrapper_subclass(parameter):
        return f"{kind.__module__.split('.')[0]} ({kind.__name__})"
    return _PACKED.get(kind.__name__)
