"""How much fits: tile sizes that keep a kernel computation within a memory budget.

Examples are processed in batches of similar length; the factors of a tile of batches are held while every tile of
columns passes by. The sizes are planned from one measured example: bytes of factors and of saved activations per token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import UsageError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
BATCH = 8
"""Examples per forward pass: small enough that similar lengths meet, large enough for efficient products."""
_WIDE = 32
"""Column examples beside all rows that make a stream worthwhile: fewer, and forming gradients again dominates."""
_RESERVE = 96 * 2**20
"""Bytes kept free for chunks of formed gradients, products and the allocator."""


def memory_bytes(memory: str | int) -> int:
    """A budget such as `"2GiB"`, `"500MB"` or a number of bytes, in bytes.

    Raises:
        UsageError: it cannot be read or is not positive.
    """
    if isinstance(memory, int):
        amount = float(memory)
    else:
        found = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", memory)
        unit = _UNITS.get(found[2].lower()) if found else None
        if unit is None:
            raise UsageError(f"Cannot read the memory budget {memory!r}. Write for example 2GiB, 500MB or 4e9 bytes.")
        amount = float(found[1]) * unit
    if amount <= 0:
        raise UsageError(f"The memory budget is {memory!r}; expected more than zero.")
    return int(amount)


@dataclass(frozen=True)
class Footprint:
    """What one example costs to hold, measured on one.

    Attributes:
        fixed: bytes of factors whatever the length (biases, norm weights, materialised blocks).
        token: bytes of factors per token.
        activations: bytes that a forward pass keeps per token, for the backward pass.
    """

    fixed: int
    token: float
    activations: float


@dataclass(frozen=True)
class Plan:
    """Tile sizes.

    Attributes:
        batch: examples per forward pass.
        rows, columns: examples per tile; `columns` covers all of them when everything fits.
        passes: how many examples go through the model in all.
        peak: bytes of factors, activations and work space at most.
    """

    batch: int
    rows: int
    columns: int
    passes: int
    peak: int


def planned(
    footprint: Footprint, lengths: tuple[Sequence[int], Sequence[int]], budget: int, *, overlap: bool, single: bool
) -> Plan:
    """Tile sizes that keep factors and activations within `budget` bytes.

    Args:
        footprint: bytes per example and token.
        lengths: tokens of the row examples and of the column examples.
        budget: bytes above the model's own.
        overlap: the columns begin with the rows themselves (a symmetric part), so that these need no second copy.
        single: one example per forward pass.

    Raises:
        UsageError: not even one example against another fits; the message says how much is needed.
    """
    n, m = len(lengths[0]), len(lengths[1])
    longest = max((*lengths[0], *lengths[1]))
    example = footprint.fixed + footprint.token * longest
    available = budget - _RESERVE
    for batch in ([1] if single else [BATCH, 4, 2, 1]):
        graph = batch * longest * (footprint.activations + footprint.token)  # factors appear while the graph lives
        room = available - graph
        everything = _held(footprint, lengths[1] if overlap else (*lengths[0], *lengths[1]))
        if everything <= room:
            return Plan(batch, n, m, m if overlap else n + m, int(everything + graph + _RESERVE))
        beside = room - _held(footprint, lengths[0])
        if beside >= _WIDE * example:  # all rows at once, columns in a stream
            columns = int(beside / example) // batch * batch
            held = _held(footprint, lengths[0]) + columns * example
            return Plan(batch, n, columns, m if overlap else n + m, int(held + graph + _RESERVE))
        tile = int(room / 2 / example)
        if tile >= batch:
            rows = min(n, tile // batch * batch)
            columns = min(m, tile // batch * batch)
            return Plan(batch, rows, columns, n + -(-n // rows) * m, int((rows + columns) * example + graph + _RESERVE))
    needed = _RESERVE + longest * footprint.activations + 3 * example
    raise UsageError(
        f"The memory budget of {budget / 2**20:.0f} MiB is too small: this model needs about {needed / 2**20:.0f} MiB "
        f"for two examples of {longest} tokens. Use --memory {needed / 2**30 * 1.1:.1f}GiB, or a smaller --max-length."
    )


def _held(footprint: Footprint, lengths: Sequence[int]) -> float:
    return footprint.fixed * len(lengths) + footprint.token * _padded_tokens(lengths)


def _padded_tokens(lengths: Sequence[int]) -> int:
    """Tokens after padding batches of similar length."""
    ordered = sorted(lengths, reverse=True)
    return sum(ordered[start] * len(ordered[start : start + BATCH]) for start in range(0, len(ordered), BATCH))
