"""Where the memory of a computation is, how much of it there is to use, and how work is cut to fit.

On the CPU one budget holds factors, pieces of work and the kernels themselves. On a GPU it is the card's: it holds all but
the kernels, which are on the host.
"""

from __future__ import annotations

import psutil
import torch

from foretune.errors import UsageError
from foretune.kernels.memory_plan import AUTO, Sizes, memory_bytes, memory_text
from foretune.kernels.tile import chunk_bytes
from foretune.model.device import examples_a_pass

_CARD, _HOST = 0.9, 0.5
"""Shares of the memory that is free on the card and on the host."""
_PIECE, _LEAST_PIECE, _OF_BUDGET = 512 * 2**20, 16 * 2**20, 64
"""A GPU's pieces of work in bytes: a share of the budget, between these."""
_PAIR = 4 * 8
"""Bytes that a kernel takes on the card for each pair of examples and outputs, while it is summed, mirrored and ordered."""


def device_bytes(memory: str | int, device: torch.device) -> int:
    """The budget beside the model: what was asked for; else most of what is free on a card, or 2 GiB on the CPU.

    Raises:
        UsageError: the budget cannot be read or is not positive.
    """
    if memory != AUTO or device.type != "cuda":
        return memory_bytes(memory)
    return int(_CARD * free_memory(device))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a card, or on the host."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def sizes_on(device: torch.device, budget: int, outputs: int) -> Sizes:
    """How work is cut on a device.

    Args:
        device: where factors are.
        budget: bytes, see `device_bytes`.
        outputs: of the model.
    """
    if device.type != "cuda":
        return Sizes(piece=chunk_bytes())
    piece = max(_LEAST_PIECE, min(_PIECE, budget // _OF_BUDGET))
    return Sizes(examples_a_pass(device), piece, _PAIR * outputs**2)


def refuse_beyond_host(arrays: int) -> None:
    """Refuse kernels that do not fit into the host's memory.

    Raises:
        UsageError: they take more than half of what is free.
    """
    free = free_memory(torch.device("cpu"))
    if arrays > _HOST * free:
        raise UsageError(
            f"The kernels take {memory_text(arrays)} of the host's memory. {memory_text(free)} are free, and at most "
            "half of that is used for kernels. Use fewer examples, or fewer parameters (--blocks)."
        )
