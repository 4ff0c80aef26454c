"""Work items that cost nothing, for `benchmarks.workers`: workers import them from here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from foretune.work.item import Bench


@dataclass(frozen=True)
class Ready:
    """Does nothing but wait until both workers have opened their model."""

    folder: Path
    number: int
    of: int

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        (self.folder / f"ready-{self.number}").touch()
        while len(list(self.folder.glob("ready-*"))) < self.of:
            time.sleep(0.02)
        return self.folder


@dataclass(frozen=True)
class Empty:
    """Writes an empty file."""

    file: Path

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        self.file.touch()
        return self.file


@dataclass(frozen=True)
class Nothing:
    """Opens nothing."""

    def opened(self) -> None:
        """Nothing."""
