"""Workers that are processes of this machine: a pool of `concurrent.futures` each, so that one that dies takes no other.

Workers ignore Ctrl-C, which is for the process that started them, and end with that process however it ends. They print to
standard error only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from foretune.errors import UsageError
from foretune.work.crew import Crew, Opening, Worker
from foretune.work.item import Bench, Done, Item, carried_out

THREADS: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What libraries read when they are imported."""
DEVICES = "CUDA_VISIBLE_DEVICES"


class _Kept:
    """What this process keeps, once it was asked for an item."""

    opening: Opening
    bench: Bench | None = None


def _settle(opening: Opening) -> None:
    """Make a worker of this process."""
    _Kept.opening = opening
    os.dup2(2, 1)  # what libraries print is not a result
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _bench() -> Bench:
    if _Kept.bench is None:
        _Kept.bench = Bench(_Kept.opening.opened())
    return _Kept.bench


def _begun(item: Item | None) -> Done:
    return Done() if item is None else carried_out(item, _bench)


class _Process(Worker):
    lost = (BrokenProcessPool,)

    def __init__(self, opening: Opening, environment: Mapping[str, str]) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _settle, (opening,))
        before = set(multiprocessing.active_children())
        with _started_with(environment):
            self._ready = self._pool.submit(_begun, None)
        self._processes = set(multiprocessing.active_children()) - before

    def begin(self, item: Item | None) -> Future[Done]:
        """As `Worker`."""
        return self._ready if item is None else self._pool.submit(_begun, item)

    def end(self) -> None:
        """As `Worker`."""
        for process in self._processes:
            process.kill()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _started_with(environment: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in the block have this environment, ignore Ctrl-C, and do not run this program again."""
    before = {name: os.environ.get(name) for name in environment}
    main: Any = sys.modules["__main__"]
    os.environ.update(environment)
    sys.modules["__main__"] = types.ModuleType("__main__")
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


class LocalProcesses(Crew):
    """Processes of this machine.

    Args:
        size, opening: see `Crew`.
        cpus: threads of each.
        gpus: of each; a part of one is shared with others.
    """

    def __init__(self, size: int, opening: Opening, cpus: int, gpus: float = 0) -> None:
        super().__init__(size, opening)
        self.cpus, self.gpus = cpus, gpus
        self._devices = _visible_devices() if gpus else []
        if gpus and size * gpus > len(self._devices):
            raise UsageError(
                f"{size} workers with {gpus:g} GPUs each need {size * gpus:g}; there are {len(self._devices)} here. Use "
                "fewer --workers, or a part of a GPU for each, such as --gpus-per-worker 0.5."
            )

    def hired(self, number: int) -> Worker:
        """As `Crew`."""
        environment: dict[str, str] = dict.fromkeys(THREADS, str(self.cpus))
        if self.gpus:
            environment[DEVICES] = ",".join(devices_of(number, self.gpus, self._devices))
        return _Process(self.opening, environment)


def _visible_devices() -> list[str]:
    """The names of the GPUs that this process may use."""
    named = os.environ.get(DEVICES)
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def devices_of(number: int, gpus: float, devices: list[str]) -> list[str]:
    """The GPUs of one worker.

    Args:
        number: the worker.
        gpus: of each worker; a part of one is shared with others.
        devices: all of them.
    """
    first = number * gpus
    if gpus < 1:
        return [devices[int(first)]]
    return [devices[place] for place in range(int(first), int(first + gpus))]
