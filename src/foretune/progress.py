"""How far a computation is, and the seconds and peak memory of each of its stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import psutil

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_INTERVAL = 0.01


@dataclass(frozen=True)
class Stage:
    """One finished stage.

    Attributes:
        name: what was done.
        seconds: wall-clock time in seconds.
        peak: largest resident memory of the process during the stage, bytes, sampled every 10 ms.
        above: how much of it came on top of what was resident when the stage began.
    """

    name: str
    seconds: float
    peak: int
    above: int


@dataclass
class Stages:
    """The stages so far.

    Attributes:
        finished: the stages that ended.
        around: told the name of a stage that begins; what it returns is entered for the length of the stage.
    """

    finished: list[Stage] = field(default_factory=list)
    around: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        with self.around(name), peak_memory() as peak:
            start = time.perf_counter()
            yield
            seconds = time.perf_counter() - start
        self.finished.append(Stage(name, seconds, peak.peak, peak.peak - peak.before))


@dataclass
class Peak:
    """Resident memory in bytes: before, and the largest seen since."""

    before: int
    peak: int


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watch the resident memory of this process from a thread."""
    process = psutil.Process()
    start = process.memory_info().rss
    peak = Peak(start, start)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL):
            peak.peak = max(peak.peak, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.peak = max(peak.peak, process.memory_info().rss)
