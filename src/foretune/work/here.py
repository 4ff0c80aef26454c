"""The worker that is this process: items one after the other, with what is open already."""

from __future__ import annotations

from concurrent.futures import Future

from foretune.work.crew import Crew, Worker
from foretune.work.item import Bench, Done, Item, carried_out


class _Here(Worker):
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def begin(self, item: Item | None) -> Future[Done]:
        """As `Worker`."""
        future: Future[Done] = Future()
        future.set_result(Done() if item is None else carried_out(item, lambda: self.bench))
        return future

    def end(self) -> None:
        """As `Worker`: nothing."""


class ThisProcess(Crew):
    """One worker, which is this process."""

    def hired(self, number: int) -> Worker:
        """As `Crew`."""
        return _Here(Bench(self.opening.opened()))
