"""Workers that are Ray actors, on this machine or on a cluster: Ray places them, starts them, and tells which are lost.

Each actor opens its model once. Paths are those of the process that started the work, so that its folder and the folder
of the results must be the same on all machines.
"""

from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from foretune.errors import UsageError
from foretune.work.crew import Crew, Opening, Worker
from foretune.work.item import Bench, Done, Item, carried_out
from foretune.work.processes import THREADS

_HANDED_ON = ("FORETUNE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TQDM_")
"""How the variables begin that workers on other machines read too."""
_OBJECTS = 100 * 2**20
"""Bytes of a local Ray's object store: no values travel, so the least that Ray takes is enough."""


class _Actor:
    """What a Ray actor is made of."""

    def __init__(self, opening: Opening, folder: str) -> None:
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self._opening, self._bench = opening, None

    def begun(self, item: Item | None) -> Done:
        """Carry out an item; with None, say only that the actor is there."""
        return Done() if item is None else carried_out(item, self._opened)

    def _opened(self) -> Bench:
        if self._bench is None:
            self._bench = Bench(self._opening.opened())
        return self._bench


class _RayWorker(Worker):
    def __init__(self, ray: Any, actor: Any) -> None:
        self.lost = (ray.exceptions.RayActorError,)
        self._ray, self._actor = ray, actor

    def begin(self, item: Item | None) -> Future[Done]:
        """As `Worker`."""
        return self._actor.begun.remote(item).future()

    def end(self) -> None:
        """As `Worker`."""
        self._ray.kill(self._actor)


class OnRay(Crew):
    """Actors of Ray.

    Args:
        size, opening: see `Crew`.
        cpus: CPUs, and threads, of each.
        gpus: of each; a part of one is shared with others.
        address: of a cluster that runs; a Ray of this machine is started without one, and ended with the crew.

    Raises:
        UsageError: Ray is not installed, does not answer, or no machine has so many CPUs and GPUs.
    """

    def __init__(self, size: int, opening: Opening, cpus: int, gpus: float = 0, address: str | None = None) -> None:
        super().__init__(size, opening)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "--engine ray needs Ray, which is not installed. Type: python -m pip install 'foretune[ray]'"
            ) from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray, address, size * cpus)
        try:
            _refuse_too_much(ray, cpus, gpus)
        except UsageError:
            self._leave()
            raise
        handed_on = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
        environment = {**handed_on, **dict.fromkeys(THREADS, str(cpus))}
        self._class = ray.remote(_Actor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment},
        )

    def hired(self, number: int) -> Worker:
        """As `Crew`."""
        return _RayWorker(self._ray, self._class.remote(self.opening, str(Path.cwd())))

    def __exit__(self, *error: object) -> None:
        """End every worker, and a Ray that was started here."""
        super().__exit__(*error)
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    """Connect to a cluster, or start a Ray of this machine.

    Raises:
        UsageError: there is no cluster at the address.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECTS, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(
            f"No Ray cluster answers at --address {address}: {first}. Start one with `ray start --head`, or leave "
            f"--address out to use this machine."
        ) from error


def _refuse_too_much(ray: Any, cpus: int, gpus: float) -> None:
    """See that some machine has room for a worker.

    Raises:
        UsageError: none has.
    """
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    if not any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in machines):
        most = ", ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in machines)
        raise UsageError(
            f"A worker needs {cpus} CPUs and {gpus:g} GPUs, and no machine of the Ray cluster has them: {most}. Choose a "
            "smaller --cpus-per-worker or --gpus-per-worker."
        )
