"""The tiles of a job: which there are, where each stands in a kernel, and the making of one by itself.

A tile is a row tile against a column tile; its file in a kernel's folder is written whole. Whoever makes tiles one by one
(`TileMaker`) writes the same bits as whoever makes all of them, for the same plan, formulas and number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from foretune.kernels.arrivals import Arrivals
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.folder import KERNEL, KernelFolder
from foretune.kernels.formula import Formula, contracted, overflow
from foretune.kernels.job import Job, job_description
from foretune.kernels.memory_plan import TilePlan
from foretune.kernels.tile import Tile, in_pieces_of
from foretune.progress import Progress


@dataclass(eq=False)
class KernelTarget:
    """One formula's kernel while it is being computed; `origin` is the row and the column where its array begins."""

    formula: Formula
    names: list[str]
    description: dict[str, object]
    shape: tuple[int, ...]
    folder: KernelFolder | None
    array: np.ndarray = field(default_factory=lambda: np.zeros(0))
    origin: tuple[int, int] = (0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of the kernel."""
        return 8 * math.prod(self.shape)

    @property
    def kernel(self) -> BlockKernel:
        """The finished kernel."""
        return BlockKernel(tuple(self.names), self.array, self.description)


def kernel_target(job: Job, formula: Formula, common: Mapping[str, object], out: Path | None) -> KernelTarget:
    """One formula's kernel before it is computed.

    Args:
        job: rows and columns.
        formula: of the kernel.
        common: `job_description(job)`.
        out: its folder, if it has one.

    Raises:
        UsageError: the folder holds another computation.
    """
    names, c = formula.blocks(job.kinds), job.source.outputs.n_outputs
    shape = (len(names), job.n, c, len(job.columns), c)
    description = {**common, "formula": repr(formula)}
    folder = None if out is None else KernelFolder(out, names, shape, description)
    return KernelTarget(formula, names, description, shape, folder)


class TileWork:
    """Tiles of a job, and how far it is."""

    def __init__(self, job: Job, plan: TilePlan, progress: Progress, blocks: int) -> None:
        self.job, self.plan, self.progress = job, plan, progress
        m = len(job.columns)
        self.row_tiles = _ranges(0, job.n, plan.rows)
        extra = _ranges(job.n, m, plan.columns) if job.overlap else _ranges(0, m, plan.columns)
        self.column_tiles = self.row_tiles + extra if job.overlap else extra
        self.passes, self.total = 0, plan.passes
        self.contracted, self.blocks = 0, blocks * len(self.row_tiles) * len(self.column_tiles)

    def part(self, target: KernelTarget, tile: tuple[int, int]) -> np.ndarray:
        """Where a tile stands in a kernel."""
        rows, columns = self.row_tiles[tile[0]], self.column_tiles[tile[1]]
        row, column = target.origin
        return target.array[:, rows.start - row : rows.stop - row, :, columns.start - column : columns.stop - column]

    def mirrored(self, formula: Formula, j: int) -> bool:
        """Whether column tile j is a row tile too, and the kernel symmetric there."""
        return self.job.overlap and formula.symmetric and j < len(self.row_tiles)

    def captured(self, places: Sequence[int]) -> Tile:
        """The factors of one tile."""
        return self.job.source.capture(places, self.plan.batch, self._seen)

    def _seen(self, count: int) -> None:
        self.passes += count
        self.progress("gradient factors", self.passes, max(self.total, self.passes))

    def finished_block(self) -> None:
        """Count one contracted block."""
        self.contracted += 1
        self.progress("kernel blocks", self.contracted, max(self.blocks, self.contracted))


def missing_tiles(job: Job, plan: TilePlan, targets: Sequence[KernelTarget]) -> list[tuple[int, int]]:
    """The tiles of some kernels that are not on the disk, rows before columns."""
    work = TileWork(job, plan, lambda *_: None, 0)
    every = [(i, j) for i in range(len(work.row_tiles)) for j in range(len(work.column_tiles))]
    return [(i, j) for i, j in every if any(_is_missing(target, work, i, j) for target in targets)]


def _is_missing(target: KernelTarget, work: TileWork, i: int, j: int) -> bool:
    mirror = work.mirrored(target.formula, j) and j < i
    return target.folder is not None and not mirror and not target.folder.has_tile(f"{i}-{j}")


def begun_targets(job: Job, formulas: Sequence[Formula], out: Sequence[Path]) -> tuple[list[KernelTarget], TilePlan]:
    """Kernels whose folders are begun, and the plan that they share.

    Args:
        job: as it was begun.
        formulas: those that share a plan.
        out: the folder of each.
    """
    common = job_description(job)
    targets = [kernel_target(job, each, common, path) for each, path in zip(formulas, out, strict=True)]
    plans = [target.folder.plan for target in targets if target.folder is not None and target.folder.plan]
    return targets, TilePlan(**plans[0])


@dataclass
class TileMaker:
    """Makes single tiles of kernels whose folders are begun; the factors of the last row tile are held.

    Args:
        job: as it was begun.
        formulas: those that share a plan.
        memory: the budget.
        out: the folder of each.
    """

    job: Job
    formulas: Sequence[Formula]
    memory: str | int
    out: Sequence[Path]

    def __post_init__(self) -> None:
        self.targets, plan = begun_targets(self.job, self.formulas, self.out)
        self.work = TileWork(self.job, plan, lambda *_: None, 0)
        self.job.source.keep(plan.front)
        self._left: tuple[int, Tile] | None = None

    @torch.inference_mode(False)
    def make(self, i: int, j: int) -> None:
        """Make tile (i, j) of every kernel that has none, and write it.

        Raises:
            NonFiniteError: infinite or undefined activations or gradients.
            StorageError: the disk is full or the folder cannot be written.
        """
        missing = [target for target in self.targets if _is_missing(target, self.work, i, j)]
        missing = [target for target in missing if target.folder is not None and not target.folder.finished]
        if not missing:
            return
        rows, columns = self.work.row_tiles[i], self.work.column_tiles[j]
        for target in missing:
            target.origin = rows.start, columns.start
            b, _, c, _, _ = target.shape
            target.array = np.zeros((b, len(rows), c, len(columns), c))
        left = self._rows(i)
        direct = self.job.source.direct
        same = self.job.overlap and j == i
        right = left if same else self.work.captured([self.job.columns[place] for place in columns])
        if direct != self.job.source.direct:
            self._left = None
            left = self._rows(i)
        with (
            in_pieces_of(self.job.sizes(self.memory).piece),
            torch.autocast(left[0].outputs.device.type, enabled=False),
        ):
            contract_into(left, right, missing, self.work, (i, j))
        for target in missing:
            if target.folder is not None:
                target.folder.write_tile(f"{i}-{j}", target.array)
            target.array = np.zeros(0)

    def file(self, i: int, j: int) -> Path:
        """A file that is there when tile (i, j) is: the tile, or the description where the kernel is finished."""
        folder = next(target.folder for target in self.targets if target.folder is not None)
        tile = folder.path / "tiles" / f"{i}-{j}.npy"
        return tile if tile.exists() else folder.path / KERNEL.file

    def _rows(self, i: int) -> Tile:
        """The factors of a row tile."""
        if self._left is None or self._left[0] != i:
            self._left = None
            self._left = i, self.work.captured(self.work.row_tiles[i])
        return self._left[1]


def _ranges(start: int, stop: int, step: int) -> list[range]:
    return [range(k, min(k + step, stop)) for k in range(start, stop, step)]


def contract_into(
    left: Tile, right: Tile, targets: Sequence[KernelTarget], work: TileWork, tile: tuple[int, int]
) -> None:
    """Put the kernels of two tiles where they belong, examples back in their own order."""
    wanted: Mapping[Formula, Sequence[str]] = {target.formula: target.names for target in targets}
    parts = {target.formula: work.part(target, tile) for target in targets}
    place = {formula: {name: number for number, name in enumerate(names)} for formula, names in wanted.items()}
    arrivals = Arrivals(left, right)
    for formula, name, kernel in contracted(left, right, wanted):
        arrivals.put(kernel, parts[formula][place[formula][name]], partial(overflow, name, formula.label))
        work.finished_block()
    arrivals.finish()
