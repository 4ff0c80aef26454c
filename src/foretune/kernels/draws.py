"""Random numbers that depend on a seed and a name only: the same on every machine, device, thread and tile size."""

from __future__ import annotations

import hashlib

import numpy as np


def draws(seed: int, *key: str | int) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for each key."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
