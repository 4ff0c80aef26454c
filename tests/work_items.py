"""Work items without a model, whose files show what crews do with them; and a Ray of two nodes."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foretune.errors import UsageError
from foretune.store.kept import DamagedError
from foretune.store.lock import claimed
from foretune.work.item import Bench


@contextmanager
def ray_of_two_nodes() -> Iterator[tuple[Any, Any]]:
    """A Ray of two nodes on this machine, to which this process is connected, and its second node, which may be killed."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'foretune[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **quiet})
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass(frozen=True)
class Opened:
    """Opens a number, and leaves a file in a folder for each time that it was opened."""

    folder: Path
    number: int = 7

    def opened(self) -> int:
        """The number."""
        (self.folder / f"opened-{os.getpid()}-{time.monotonic_ns()}").touch()
        return self.number


@dataclass(frozen=True)
class Toy:
    """Writes a file; on the way, whatever its name says."""

    file: Path

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        if not self.file.exists():
            getattr(self, self.file.name.split("-")[0])()
            with claimed(self.file):
                self.file.write_text(str(bench.tool))
        return self.file

    def plain(self) -> None:
        """Nothing."""

    def once(self) -> None:
        """Kill the worker, the first time."""
        mark = self.file.with_suffix(".killed")
        if not mark.exists():
            mark.touch()
            self.kills()

    def kills(self) -> None:
        """Kill the worker."""
        os.kill(os.getpid(), signal.SIGKILL)

    def refused(self) -> None:
        """An error of ours."""
        raise UsageError("That is not a number.")

    def damaged(self) -> None:
        """An error of ours that takes more than a message."""
        raise DamagedError(self.file, "it is cut off")

    def crash(self) -> None:
        """Another error."""
        raise ZeroDivisionError("by hand")

    def warns(self) -> None:
        """A warning."""
        warnings.warn("rounded by hand", stacklevel=2)

    def sleeps(self) -> None:
        """Say which process sleeps, and sleep."""
        (self.file.parent / f"asleep-{os.getpid()}").touch()
        time.sleep(600)


@dataclass(frozen=True)
class Elsewhere:
    """Says that it wrote a file which is not there."""

    file: Path

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        return self.file
