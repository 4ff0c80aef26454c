"""Block kernels of a model on examples: plan tiles, capture factors, contract, store.

rows x columns is cut into tiles; the factors of a row tile are held while the column tiles pass by
columns that begin with the rows themselves (a training kernel) use one triangle and no second capture
several formulas share one pass over the data: a pair of tiles is contracted by all of them
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from foretune.kernels.arrivals import Arrivals
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.folder import KernelFolder
from foretune.kernels.formula import Formula, contracted, overflow
from foretune.kernels.job import Job, job_description
from foretune.kernels.law import check_law
from foretune.kernels.memory_plan import TilePlan
from foretune.kernels.projected import projected_features_of
from foretune.kernels.projection import Projection
from foretune.kernels.tile import Tile, in_pieces_of
from foretune.progress import Progress


@dataclass
class _Target:
    """One formula's kernel while it is being computed."""

    formula: Formula
    names: list[str]
    description: dict[str, object]
    shape: tuple[int, ...]
    folder: KernelFolder | None
    array: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def nbytes(self) -> int:
        """Bytes of the kernel."""
        return 8 * math.prod(self.shape)

    @property
    def kernel(self) -> BlockKernel:
        """The finished kernel."""
        return BlockKernel(tuple(self.names), self.array, self.description)


@torch.inference_mode(False)
def run_job(
    job: Job,
    formulas: Sequence[Formula],
    memory: str | int,
    out: Sequence[Path | None],
    progress: Progress | None = None,
    started: Callable[[], None] | None = None,
) -> list[BlockKernel]:
    """Carry out a job: the kernels of all formulas from one pass over the data. See `block_kernels`.

    Args:
        job: rows and columns.
        formulas: different ones.
        memory: the budget.
        out: for each formula a folder to write to, or None.
        progress: called as the work goes on.
        started: called once every folder has been found to hold this computation, or nothing.
    """
    common = job_description(job)
    targets = [_target(job, formula, common, path) for formula, path in zip(formulas, out, strict=True)]
    unfinished: dict[TilePlan, list[_Target]] = defaultdict(list)
    fresh: list[_Target] = []
    for target in targets:
        if target.folder is not None and target.folder.finished:
            target.array = target.folder.read()
        elif target.folder is not None and target.folder.plan is not None:
            unfinished[TilePlan(**target.folder.plan)].append(target)  # its tiles are kept, so that finished ones count
        else:
            fresh.append(target)
    beginning = [*(target for members in unfinished.values() for target in members), *fresh]
    plan = next(iter(unfinished), None)
    if fresh and plan is None:
        plan = job.plan(memory, sum(target.nbytes for target in fresh))
    if plan is not None:
        blocks = {target.formula: target.names for target in beginning}
        check_law(job.source, blocks, range(min(job.n, plan.rows)), plan.batch)
        for target in fresh:
            begun = plan if target.folder is None else TilePlan(**target.folder.begin(asdict(plan)))
            unfinished[begun].append(target)
    if started is not None:
        started()
    for target in beginning:
        target.array = np.zeros(target.shape)
    for kept, members in unfinished.items():
        _carry_out(job, kept, members, job.sizes(memory).piece, progress or (lambda *_: None))
        for target in members:
            if target.folder is not None:
                target.folder.finish(target.array)
    return [target.kernel for target in targets]


def _target(job: Job, formula: Formula, common: Mapping[str, object], out: Path | None) -> _Target:
    names, c = formula.blocks(job.kinds), job.source.outputs.n_outputs
    shape = (len(names), job.n, c, len(job.columns), c)
    description = {**common, "formula": repr(formula)}
    folder = None if out is None else KernelFolder(out, names, shape, description)
    return _Target(formula, names, description, shape, folder)


def _fill(job: Job, plan: TilePlan, targets: Sequence[_Target], progress: Progress) -> None:
    """Fill the arrays (b, n, c, m, c), tile by tile."""
    work = _Work(job, plan, progress, sum(len(target.names) for target in targets))
    for i, rows in enumerate(work.row_tiles):
        left: Tile | None = None
        for j, columns in enumerate(work.column_tiles):
            missing = [target for target in targets if not _taken(target, work, i, j)]
            if not missing:
                continue
            left = left if left is not None else work.captured(rows)
            same = job.overlap and j == i
            direct = job.source.direct
            right = left if same else work.captured([job.columns[place] for place in columns])
            if direct != job.source.direct:  # a parameter has lost its rule: factors on both sides are of one kind
                left = work.captured(rows)
            with torch.autocast(left[0].outputs.device.type, enabled=False):
                _contract(left, right, missing, work, (i, j))
            del right
            for target in missing:
                values = work.part(target, (i, j))
                if target.folder is not None:
                    target.folder.write_tile(f"{i}-{j}", np.ascontiguousarray(values))
                _mirror(target, work, (i, j), values)


def _carry_out(job: Job, plan: TilePlan, targets: Sequence[_Target], piece: int, progress: Progress) -> None:
    """Fill the arrays: projected kernels from one pass over the examples, the others tile by tile."""
    projected = [target for target in targets if isinstance(target.formula, Projection)]
    walked = [target for target in targets if not isinstance(target.formula, Projection)]
    if walked:
        with in_pieces_of(piece):
            _fill(job, plan, walked, progress)
    if projected:
        _multiply(job, plan.batch, projected, piece, progress)


def _multiply(job: Job, batch: int, targets: Sequence[_Target], piece: int, progress: Progress) -> None:
    """Fill the arrays of projected kernels: features from one pass over the examples, whatever the tiles, then products."""
    of: dict[Projection, _Target] = {
        target.formula: target for target in targets if isinstance(target.formula, Projection)
    }

    def kept(projection: Projection, name: str) -> np.ndarray | None:
        folder = of[projection].folder
        return None if folder is None else folder.tile(name)

    def write(projection: Projection, name: str, values: np.ndarray) -> None:
        folder = of[projection].folder
        if folder is not None:
            folder.write_tile(name, values)

    found = projected_features_of(job, list(of), batch, piece, progress, kept, write)
    for projection, target in of.items():
        rows, columns = (found[projection][list(places)] for places in (range(job.n), job.columns))
        product = rows.reshape(-1, projection.k) @ columns.reshape(-1, projection.k).T
        if not np.isfinite(product).all():
            raise overflow(target.names[0], projection.label)
        target.array[0] = product.reshape(target.shape[1:])


def _taken(target: _Target, work: _Work, i: int, j: int) -> bool:
    """Whether tile (i, j) of a kernel needs no computing: the mirror of another, or on the disk already."""
    if work.mirrored(target.formula, j) and j < i:
        return True
    values = target.folder.tile(f"{i}-{j}") if target.folder is not None else None
    if values is not None:
        work.part(target, (i, j))[...] = values
        _mirror(target, work, (i, j), values)
    return values is not None


def _mirror(target: _Target, work: _Work, tile: tuple[int, int], values: np.ndarray) -> None:
    """Put the mirror image of a tile where it belongs."""
    i, j = tile
    if work.mirrored(target.formula, j) and i != j:
        work.part(target, (j, i))[...] = values.transpose(0, 3, 4, 1, 2)


class _Work:
    """Tiles of a job, and how far it is."""

    def __init__(self, job: Job, plan: TilePlan, progress: Progress, blocks: int) -> None:
        self.job, self.plan, self.progress = job, plan, progress
        m = len(job.columns)
        self.row_tiles = _ranges(0, job.n, plan.rows)
        extra = _ranges(job.n, m, plan.columns) if job.overlap else _ranges(0, m, plan.columns)
        self.column_tiles = self.row_tiles + extra if job.overlap else extra
        self.passes, self.total = 0, plan.passes
        self.contracted, self.blocks = 0, blocks * len(self.row_tiles) * len(self.column_tiles)

    def part(self, target: _Target, tile: tuple[int, int]) -> np.ndarray:
        """Where a tile stands in a kernel."""
        rows, columns = self.row_tiles[tile[0]], self.column_tiles[tile[1]]
        return target.array[:, rows.start : rows.stop, :, columns.start : columns.stop]

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


def _ranges(start: int, stop: int, step: int) -> list[range]:
    return [range(k, min(k + step, stop)) for k in range(start, stop, step)]


def _contract(left: Tile, right: Tile, targets: Sequence[_Target], work: _Work, tile: tuple[int, int]) -> None:
    """Put the kernels of two tiles where they belong, examples back in their own order."""
    wanted: Mapping[Formula, Sequence[str]] = {target.formula: target.names for target in targets}
    parts = {target.formula: work.part(target, tile) for target in targets}
    place = {formula: {name: number for number, name in enumerate(names)} for formula, names in wanted.items()}
    arrivals = Arrivals(left, right)
    for formula, name, kernel in contracted(left, right, wanted):
        arrivals.put(kernel, parts[formula][place[formula][name]], partial(overflow, name, formula.label))
        work.finished_block()
    arrivals.finish()
