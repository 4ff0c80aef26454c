"""The work items of kernels: a tile, and a chunk of tangent features, each written to the kernels' own folder.

A worker holds the factors of its row tile while column tiles pass by, and captures what it contracts itself: no factor
travels. Where all rows fit into one tile, with `w` workers,

    examples that are captured = w x rows + columns beside the rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from foretune.kernels.engine import Carry
from foretune.kernels.feature_pass import FeaturePass, feature_pass
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job
from foretune.kernels.sketch import Sketch
from foretune.kernels.tile_work import TileMaker
from foretune.progress import Progress
from foretune.store.lock import claimed
from foretune.work.crew import Crew
from foretune.work.item import Bench


@runtime_checkable
class AskedJob(Protocol):
    """A job as a worker makes it."""

    def job(self, bench: Bench) -> Job:
        """It, with examples and blocks as where the work was begun."""
        ...


@dataclass(frozen=True)
class BegunJob:
    """A job that was begun elsewhere.

    Attributes:
        asked: makes it.
        direct, single: what the source of factors had found out; see `GradientSource`.
    """

    asked: AskedJob
    direct: frozenset[str]
    single: bool

    @classmethod
    def of(cls, asked: AskedJob, job: Job) -> BegunJob:
        """The same job, as far as it is known now."""
        return cls(asked, job.source.direct, job.source.single)

    def made(self, bench: Bench) -> Job:
        """The job of a worker."""
        job = self.asked.job(bench)
        job.source.direct |= self.direct
        job.source.single |= self.single
        return job


@dataclass(frozen=True)
class TileItem:
    """One tile of the kernels that share a plan.

    Attributes:
        begun: rows and columns.
        formulas: of the kernels.
        memory: budget of a worker.
        out: the folder of each kernel.
        tile: its row and its column.
    """

    begun: BegunJob
    formulas: tuple[Formula, ...]
    memory: str | int
    out: tuple[Path, ...]
    tile: tuple[int, int]

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        i, j = self.tile
        with claimed(self.out[0] / "tiles" / f"{i}-{j}.npy"):
            maker = bench.kept("tiles", self.out, self._maker(bench), most=1)
            maker.make(i, j)
        return maker.file(i, j)

    def _maker(self, bench: Bench) -> Callable[[], TileMaker]:
        return lambda: TileMaker(self.begun.made(bench), self.formulas, self.memory, self.out)


@dataclass(frozen=True)
class ChunkItem:
    """One chunk of tangent features.

    Attributes:
        begun: the examples.
        formulas, sketch: see `tangent_features`.
        memory: budget of a worker.
        out: the folder.
        places: of the chunk's examples.
    """

    begun: BegunJob
    formulas: tuple[Formula, ...]
    sketch: Sketch
    memory: str | int
    out: Path
    places: range

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        made = bench.kept("features", self.out, self._pass(bench), most=1)
        with claimed(self.out / "chunks" / f"{self.places.start}"):
            return made.written(self.places)

    def _pass(self, bench: Bench) -> Callable[[], FeaturePass]:
        return lambda: feature_pass(self.begun.made(bench), self.formulas, self.sketch, self.memory, self.out)


@dataclass(frozen=True)
class InParts:
    """Kernels whose parts a crew makes, in their folders.

    Attributes:
        crew: who makes them.
        asked: the job as a worker makes it.
        job: the same here.
        memory: budget of each worker.
        progress: told how many parts are finished.
    """

    crew: Crew
    asked: AskedJob
    job: Job
    memory: str | int
    progress: Progress | None = None

    def tiles(self, where: Path) -> Carry:
        """Has tiles made.

        Args:
            where: folder of the kernels' folders.
        """

        def carry(formulas: Sequence[Formula], tiles: Sequence[tuple[int, int]]) -> None:
            begun, out = BegunJob.of(self.asked, self.job), tuple(where / formula.label for formula in formulas)
            items = [TileItem(begun, tuple(formulas), self.memory, out, tile) for tile in tiles]
            self.crew.carry_out("kernel tiles", items, self.progress)

        return carry

    def chunks(self, formulas: Sequence[Formula], sketch: Sketch, out: Path) -> Callable[[Sequence[range]], None]:
        """Has chunks of tangent features made.

        Args:
            formulas, sketch, out: see `tangent_features`.
        """

        def carry(chunks: Sequence[range]) -> None:
            begun = BegunJob.of(self.asked, self.job)
            items = [ChunkItem(begun, tuple(formulas), sketch, self.memory, out, places) for places in chunks]
            self.crew.carry_out("chunks of tangent features", items, self.progress)

        return carry
