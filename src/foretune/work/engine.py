"""Which engine carries out work, with how many workers: what options say of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from foretune.errors import UsageError
from foretune.work.crew import Crew, Opening, threads
from foretune.work.here import ThisProcess
from foretune.work.processes import LocalProcesses


@dataclass(frozen=True)
class Engine:
    """Who carries out the work.

    Attributes:
        engine: run workers as processes of this machine (local) or on a Ray cluster (ray).
        workers: number of workers; each loads the model and has a --memory of its own; None for no workers.
        address: address of the Ray cluster, such as auto or 10.0.0.1:6379; None for Ray on this machine.
        cpus_per_worker: threads of each worker, and CPUs that Ray keeps for it; None for an equal share of the threads.
        gpus_per_worker: GPUs of each worker, such as 1 or 0.5; None for 1 on Ray with --device cuda, else 0.
    """

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    @property
    def asked(self) -> bool:
        """Whether workers were asked for.

        Raises:
            UsageError: something was said of workers, but not how many.
        """
        given = {
            "--engine ray": self.engine == "ray",
            "--cpus-per-worker": self.cpus_per_worker is not None,
            "--gpus-per-worker": self.gpus_per_worker is not None,
        }
        named = next((option for option, there in given.items() if there), None)
        if self.workers is None and named is not None:
            raise UsageError(f"{named} is for workers, and their number is missing. Give it, --workers 2 for example.")
        return self.workers is not None

    @contextmanager
    def crew(self, opening: Opening, device: str) -> Iterator[Crew]:
        """The workers, for the length of the block; this process takes as many threads as each of them.

        Args:
            opening: what each worker opens; one worker of the engine `local` is this process.
            device: where the model is.

        Raises:
            UsageError: no number of workers, or more than there is room for.
        """
        import torch

        size = self.workers or 1
        cpus = self.cpus_per_worker or max(1, torch.get_num_threads() // size)
        with threads(cpus), self._workers(size, opening, cpus, device) as crew:
            yield crew

    def _workers(self, size: int, opening: Opening, cpus: int, device: str) -> Crew:
        gpus = self.gpus_per_worker
        if self.engine == "ray":
            from foretune.work.on_ray import OnRay

            gpus = gpus if gpus is not None else float(device.startswith("cuda"))
            return OnRay(size, opening, cpus, gpus, self.address)
        return ThisProcess(1, opening) if size == 1 else LocalProcesses(size, opening, cpus, gpus or 0)
