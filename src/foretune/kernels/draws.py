"""Random numbers that depend on a seed and a name only: the same on every machine, device, thread and tile size."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from foretune.shapes import Float64


def draws(seed: int, *key: str | int) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for each key."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def drawn_rows(init: str, seed: int, block: str, rank: int, inputs: int) -> Float64[np.ndarray, "r i"]:
    """The first rows of LoRA's matrix A, a common drawing: one row after the other, so that ranks are nested."""
    generator = draws(seed, "lora", init, block)
    if init == "gaussian":
        return generator.standard_normal((rank, inputs))
    bound = 1 / math.sqrt(inputs)
    return generator.uniform(-bound, bound, (rank, inputs))
