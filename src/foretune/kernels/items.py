"""The work items of kernels: a tile, a chunk of tangent features, one of projected gradients, each in a file of its own.

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
from foretune.kernels.projected import part_name
from foretune.kernels.projected_work import ProjectedMaker
from foretune.kernels.projection import Projection
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
class ProjectedItem:
    """The projected gradients of some examples.

    Attributes:
        begun: the examples.
        projections: how gradients are projected.
        memory: budget of a worker.
        out: the folder of each kernel.
        places: of the examples.
    """

    begun: BegunJob
    projections: tuple[Projection, ...]
    memory: str | int
    out: tuple[Path, ...]
    places: range

    def carry_out(self, bench: Bench) -> Path:
        """As `Item`."""
        maker = bench.kept("projected", self.out, self._maker(bench), most=1)
        with claimed(self.out[0] / "tiles" / f"{part_name(self.places)}.npy"):
            return maker.written(self.places)

    def _maker(self, bench: Bench) -> Callable[[], ProjectedMaker]:
        return lambda: ProjectedMaker(self.begun.made(bench), self.projections, self.memory, self.out)


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

    def kernels(self, where: Path) -> Carry:
        """Has the parts of kernels made.

        Args:
            where: folder of the kernels' folders.
        """
        return KernelsInParts(self, where)

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


@dataclass(frozen=True)
class KernelsInParts:
    """Has tiles and projected gradients made.

    Attributes:
        parts: by whom, and of what.
        where: folder of the kernels' folders.
    """

    parts: InParts
    where: Path

    def tiles(self, formulas: Sequence[Formula], tiles: Sequence[tuple[int, int]]) -> None:
        """As `Carry`."""
        begun, memory, out = self._begun(formulas)
        items = [TileItem(begun, tuple(formulas), memory, out, tile) for tile in tiles]
        self.parts.crew.carry_out("kernel tiles", items, self.parts.progress)

    def projected(self, projections: Sequence[Projection], parts: Sequence[range]) -> None:
        """As `Carry`."""
        begun, memory, out = self._begun(projections)
        items = [ProjectedItem(begun, tuple(projections), memory, out, places) for places in parts]
        self.parts.crew.carry_out("projected gradients", items, self.parts.progress)

    def _begun(self, formulas: Sequence[Formula]) -> tuple[BegunJob, str | int, tuple[Path, ...]]:
        begun = BegunJob.of(self.parts.asked, self.parts.job)
        return begun, self.parts.memory, tuple(self.where / formula.label for formula in formulas)
