"""A crew of workers that carries out items: hands each to a worker that is free, and to another one where it was lost.

The engines differ in their workers only (`foretune.work.here`, `foretune.work.processes`, `foretune.work.on_ray`); who
places them on machines and starts them is the engine. Each item writes the same file wherever it is carried out.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from foretune.errors import ForetuneError, StorageError
from foretune.progress import Progress
from foretune.work.item import Done, Item, Note

TRIES = 3
"""Workers that an item, or a start, may lose before it is given up."""
_PAUSE = 0.5
"""Seconds between two looks at items that another command makes."""
_START = -1
"""The place of a worker that starts, which is not an item."""
_PACKAGES = "site-packages/"


class LostWorkerError(ForetuneError):
    """Processes that were ended from outside while they worked."""


class Opening(Protocol):
    """How a worker opens what its items need."""

    def opened(self) -> Any:
        """It: a model that is loaded, for example.

        Raises:
            ForetuneError: it cannot be opened.
        """
        ...


class Worker(ABC):
    """Carries out one item at a time.

    Attributes:
        lost: what its futures raise when it was ended from outside.
    """

    lost: tuple[type[BaseException], ...] = ()

    @abstractmethod
    def begin(self, item: Item | None) -> Future[Done]:
        """Carry out an item; with None, say only that it is there."""

    @abstractmethod
    def end(self) -> None:
        """End it at once, whatever it does."""


class Crew(ABC):
    """Workers of one engine; a context that ends them when it is left.

    Args:
        size: number of workers.
        opening: what each of them opens.
    """

    def __init__(self, size: int, opening: Opening) -> None:
        self.size, self.opening = size, opening
        self._free: dict[int, Worker] = {}
        self._busy: dict[Future[Done], tuple[int, Worker, int]] = {}
        self._losses: Counter[int] = Counter()

    @abstractmethod
    def hired(self, number: int) -> Worker:
        """A new worker.

        Args:
            number: its place among the workers, from 0.
        """

    def __enter__(self) -> Crew:
        """The crew; its workers are started with the first items."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker."""
        for worker in (*self._free.values(), *(worker for _, worker, _ in self._busy.values())):
            worker.end()
        self._free, self._busy = {}, {}

    def carry_out(self, what: str, items: Sequence[Item], progress: Progress | None = None) -> list[Path]:
        """Carry out items, in any order; the files that they wrote, in that of the items.

        Args:
            what: they are, for progress.
            items: what is to be made.
            progress: told how many are finished.

        Raises:
            LostWorkerError: an item was lost with its worker again and again.
            StorageError: a file that a worker wrote is not here.
            Exception: what the first item that failed raised.
        """
        if not items:
            return []
        left, later, files = deque(range(len(items))), list[int](), dict[int, Path]()
        report = progress or (lambda *_: None)
        report(what, 0, len(items))
        self._losses.clear()
        while len(files) < len(items):
            if not left and all(place == _START for _, _, place in self._busy.values()):
                time.sleep(_PAUSE)
                left, later = deque(later), []
            self._hand_out(items, left)
            for place, done in self._finished():
                if done is None:
                    left.append(place)
                elif done.waits:
                    later.append(place)
                else:
                    files[place] = _file_of(done)
                    report(what, len(files), len(items))
        return [files[place] for place in range(len(items))]

    def _hand_out(self, items: Sequence[Item], left: deque[int]) -> None:
        """Give items to workers that are free, and start those that are missing."""
        while left and self._free:
            (number, worker), place = self._free.popitem(), left.popleft()
            self._busy[worker.begin(items[place])] = (number, worker, place)
        there = {*self._free, *(number for number, _, _ in self._busy.values())}
        needed = min(self.size, len(self._busy) + len(left))
        for number in [number for number in range(self.size) if number not in there][: max(0, needed - len(there))]:
            worker = self.hired(number)
            self._busy[worker.begin(None)] = (number, worker, _START)

    def _finished(self) -> Iterator[tuple[int, Done | None]]:
        """The items that came to an end, by their place, after waiting for one; None where the worker was lost."""
        if not self._busy:
            return
        for future in wait(self._busy, return_when=FIRST_COMPLETED).done:
            number, worker, place = self._busy.pop(future)
            try:
                done = future.result()
            except worker.lost as error:
                worker.end()
                self._count_loss(place, error)
                if place != _START:
                    yield place, None
                continue
            self._free[number] = worker
            for note in done.notes:
                _say_again(note)
            if place != _START:
                yield place, done

    def _count_loss(self, place: int, error: BaseException) -> None:
        """Count what was lost with a worker.

        Raises:
            LostWorkerError: too often.
        """
        self._losses[place] += 1
        if self._losses[place] >= TRIES:
            raise LostWorkerError(
                f"A worker process was ended from outside {TRIES} times at the same work, by lack of memory most likely. "
                "Use fewer --workers or a smaller --memory. What is finished is kept: repeat the command to go on."
            ) from error


def _file_of(done: Done) -> Path:
    """The file of an item.

    Raises:
        Exception: what the item failed with.
        StorageError: the file is not here.
    """
    if done.failure is not None:
        raise done.failure
    if done.file is None or not done.file.exists():
        raise StorageError(
            f"A worker wrote {done.file}, which is not there for this process. Choose an --out in a folder that all "
            "machines share."
        )
    return done.file


_SAID: dict[Any, Any] = {}
"""What was said already, as `warnings` keeps it."""


def _say_again(note: Note) -> None:
    """Warn here as in the worker, so that the same warnings are shown, and each once."""
    module = note.file.rpartition(_PACKAGES)[2].removesuffix(".py").replace("/", ".")
    warnings.warn_explicit(note.text, note.category, note.file, note.line, module, _SAID)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for the arithmetic of this process, for the length of the block: as many as each worker has."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
