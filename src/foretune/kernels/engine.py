"""Block kernels of a model on examples: plan tiles, capture factors, contract, store.

rows x columns is cut into tiles; the factors of a row tile are held while the column tiles pass by
columns that begin with the rows themselves (a training kernel) use one triangle and no second capture
several formulas share one pass over the data: a pair of tiles is contracted by all of them
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.folder import WAIT
from foretune.kernels.formula import Formula, overflow
from foretune.kernels.job import Job, job_description
from foretune.kernels.law import check_law
from foretune.kernels.memory_plan import TilePlan
from foretune.kernels.projected import missing_parts, projected_features_of
from foretune.kernels.projection import Projection
from foretune.kernels.tile import Tile, in_pieces_of
from foretune.kernels.tile_work import KernelTarget, TileWork, contract_into, kernel_target, missing_tiles
from foretune.progress import Progress
from foretune.store.lock import held


@runtime_checkable
class Carry(Protocol):
    """Has parts of kernels made that share a plan, each in its formula's folder."""

    def tiles(self, formulas: Sequence[Formula], tiles: Sequence[tuple[int, int]]) -> None:
        """Has tiles made."""
        ...

    def projected(self, projections: Sequence[Projection], parts: Sequence[range]) -> None:
        """Has the projected gradients of these examples made."""
        ...


PARTS = 8
"""Parts of the columns beside the rows where tiles are made by a crew."""


@torch.inference_mode(False)
def run_job(
    job: Job,
    formulas: Sequence[Formula],
    memory: str | int,
    out: Sequence[Path | None],
    progress: Progress | None = None,
    started: Callable[[], None] | None = None,
    carry: Carry | None = None,
) -> list[BlockKernel]:
    """Carry out a job: the kernels of all formulas from one pass over the data. See `block_kernels`.

    Args:
        job: rows and columns.
        formulas: different ones.
        memory: the budget.
        out: for each formula a folder to write to, or None.
        progress: called as the work goes on.
        started: called once every folder has been found to hold this computation, or nothing.
        carry: makes the tiles, in the folders.
    """
    common = job_description(job)
    targets = [kernel_target(job, formula, common, path) for formula, path in zip(formulas, out, strict=True)]
    unfinished: dict[TilePlan, list[KernelTarget]] = defaultdict(list)
    fresh: list[KernelTarget] = []
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
        plan = job.plan(memory, sum(target.nbytes for target in fresh), parts=PARTS if carry else 1)
    if plan is not None:
        blocks = {target.formula: target.names for target in beginning}
        check_law(job.source, blocks, range(min(job.n, plan.rows)), plan.batch)
        for target in fresh:
            begun = plan if target.folder is None else TilePlan(**target.folder.begin(asdict(plan)))
            unfinished[begun].append(target)
    if started is not None:
        started()
    for kept, members in unfinished.items():
        with ExitStack() as hold:
            if carry is not None:
                _carried(job, kept, members, carry, hold)
            _finish(job, kept, members, job.sizes(memory).piece, progress or (lambda *_: None))
    return [target.kernel for target in targets]


def _carried(job: Job, plan: TilePlan, targets: Sequence[KernelTarget], carry: Carry, hold: ExitStack) -> None:
    """Have tiles made that are missing; then hold the folders, so that nobody drops tiles while they are read."""
    walked = [target for target in targets if not isinstance(target.formula, Projection)]
    if walked:
        carry.tiles([target.formula for target in walked], missing_tiles(job, plan, walked))
    projected = [(target.formula, target.folder) for target in targets if isinstance(target.formula, Projection)]
    missing = missing_parts(job, [folder for _, folder in projected])
    if missing:
        carry.projected([projection for projection, _ in projected], missing)
    for folder in (target.folder for target in targets if target.folder is not None):
        hold.enter_context(held(folder.path, wait=WAIT))


def _finish(job: Job, plan: TilePlan, targets: Sequence[KernelTarget], piece: int, progress: Progress) -> None:
    """Fill the arrays, and write them; those that another command finished meanwhile are read."""
    left = [target for target in targets if target.folder is None or not target.folder.finished]
    for target in left:
        target.array = np.zeros(target.shape)
    _carry_out(job, plan, left, piece, progress)
    for target in targets:
        if target.folder is not None and target not in left:
            target.array = target.folder.read()
        elif target.folder is not None:
            target.folder.finish(target.array)


def _fill(job: Job, plan: TilePlan, targets: Sequence[KernelTarget], progress: Progress) -> None:
    """Fill the arrays (b, n, c, m, c), tile by tile."""
    work = TileWork(job, plan, progress, sum(len(target.names) for target in targets))
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
                contract_into(left, right, missing, work, (i, j))
            del right
            for target in missing:
                values = work.part(target, (i, j))
                if target.folder is not None:
                    target.folder.write_tile(f"{i}-{j}", np.ascontiguousarray(values))
                _mirror(target, work, (i, j), values)


def _carry_out(job: Job, plan: TilePlan, targets: Sequence[KernelTarget], piece: int, progress: Progress) -> None:
    """Fill the arrays: projected kernels from one pass over the examples, the others tile by tile."""
    projected = [target for target in targets if isinstance(target.formula, Projection)]
    walked = [target for target in targets if not isinstance(target.formula, Projection)]
    if walked:
        with in_pieces_of(piece), job.source.keeping(plan.front):
            _fill(job, plan, walked, progress)
    if projected:
        _multiply(job, plan.batch, projected, piece, progress)


def _multiply(job: Job, batch: int, targets: Sequence[KernelTarget], piece: int, progress: Progress) -> None:
    """Fill the arrays of projected kernels: features from one pass over the examples, whatever the tiles, then products."""
    of: dict[Projection, KernelTarget] = {
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


def _taken(target: KernelTarget, work: TileWork, i: int, j: int) -> bool:
    """Whether tile (i, j) of a kernel needs no computing: the mirror of another, or on the disk already."""
    if work.mirrored(target.formula, j) and j < i:
        return True
    values = target.folder.tile(f"{i}-{j}") if target.folder is not None else None
    if values is not None:
        work.part(target, (i, j))[...] = values
        _mirror(target, work, (i, j), values)
    return values is not None


def _mirror(target: KernelTarget, work: TileWork, tile: tuple[int, int], values: np.ndarray) -> None:
    """Put the mirror image of a tile where it belongs."""
    i, j = tile
    if work.mirrored(target.formula, j) and i != j:
        work.part(target, (j, i))[...] = values.transpose(0, 3, 4, 1, 2)
