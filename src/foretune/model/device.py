"""What differs between devices for passes through a model."""

from __future__ import annotations

import time

import torch

_EXAMPLES = {"cpu": 8, "cuda": 64}


def examples_a_pass(device: torch.device) -> int:
    """Examples per forward pass: on a CPU few, so that similar lengths meet; on a GPU enough to keep it busy."""
    return _EXAMPLES.get(device.type, _EXAMPLES["cpu"])


def wait_for_device(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for: only then does a clock show what it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds, when the device has done what it was asked for."""
    wait_for_device(device)
    return time.perf_counter()
