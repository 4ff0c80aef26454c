"""One pass over examples, batch by batch: each is captured, used and forgotten, so that memory is constant in N."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from foretune.gradients.factors import FactorBatch
from foretune.kernels.budget import device_bytes
from foretune.kernels.job import Job
from foretune.kernels.memory_plan import one_pass_batch

Found = TypeVar("Found")
CHUNK = 64
"""Examples of a part that is written by itself."""


class _RuleLostError(Exception):
    """A parameter has lost its factor rule: what was made of its factors so far is of another kind."""


def chunks_of(total: int, size: int = CHUNK) -> list[range]:
    """The parts of some examples that are written by themselves."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def each_batch(job: Job, places: Sequence[int], batch: int) -> Iterator[FactorBatch]:
    """The factors of some examples, of similar length together, one batch after the other.

    Args:
        job: the examples.
        places: which of them.
        batch: examples per forward pass at most.
    """
    direct, lengths = job.source.direct, job.source.lengths
    ordered = sorted(places, key=lambda place: (-lengths[place], place))
    for start in range(0, len(ordered), batch):
        captured = job.source.capture(ordered[start : start + batch], batch)
        if job.source.direct != direct:
            raise _RuleLostError
        yield from captured


def steadily(attempt: Callable[[], Found]) -> Found:
    """What an attempt returns that reads `each_batch`; begun again when a parameter loses its rule on the way."""
    while True:
        try:
            return attempt()
        except _RuleLostError:
            continue


def batch_within(job: Job, memory: str | int, beside: int) -> int:
    """Examples per forward pass that a budget allows for one pass.

    Args:
        job: the examples.
        memory: the budget.
        beside: bytes that are held besides factors and activations.

    Raises:
        UsageError: not even one example fits.
    """
    budget, longest = device_bytes(memory, job.device), max(job.source.lengths)
    sizes = job.sizes(memory)
    return one_pass_batch(job.footprint(), longest, budget, beside, single=job.source.single, sizes=sizes)
