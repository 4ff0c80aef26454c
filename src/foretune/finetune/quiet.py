"""Global state that training libraries touch, put back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def restored_global_state(device: torch.device) -> Iterator[None]:
    """Put global random numbers and the log level of transformers back."""
    import transformers

    level, python, numpy = transformers.logging.get_verbosity(), random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        transformers.logging.set_verbosity(level)
