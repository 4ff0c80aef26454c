"""Projected features of all examples from one pass, and the kernels that are their products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from foretune.kernels.folder import KernelFolder
from foretune.kernels.job import Job
from foretune.kernels.passing import chunks_of, each_batch, steadily
from foretune.kernels.projection import Projection
from foretune.kernels.tile import in_pieces_of
from foretune.progress import Progress
from foretune.shapes import Float64

Kept = Callable[[Projection, str], np.ndarray | None]
Write = Callable[[Projection, str, np.ndarray], None]


def part_name(places: range) -> str:
    """The name under which the features of a part of the examples are kept."""
    return f"{places.start}-{places.stop}"


def missing_parts(job: Job, folders: Sequence[KernelFolder | None]) -> list[range]:
    """The parts of the examples whose features are not in every one of some folders."""
    every = chunks_of(len(job.source.lengths))
    return [each for each in every if not all(folder is None or folder.has_tile(part_name(each)) for folder in folders)]


def part_of(
    job: Job, projections: Sequence[Projection], places: range, batch: int, piece: int
) -> dict[Projection, Float64[np.ndarray, "m c k"]]:
    """The features of a part of the examples. Args as in `projected_features_of`; the pass is `steadily` repeated."""
    c = job.source.outputs.n_outputs
    found = {each: np.zeros((len(places), c, each.k)) for each in projections}
    for captured in each_batch(job, places, batch):
        rows = [place - places.start for place in captured.positions]
        for each in projections:
            with in_pieces_of(piece):
                found[each][rows] = each.features([captured]).view(-1, c, each.k).cpu().numpy()
    return found


def projected_features_of(
    job: Job,
    projections: Sequence[Projection],
    batch: int,
    piece: int,
    progress: Progress | None = None,
    kept: Kept = lambda *_: None,
    write: Write = lambda *_: None,
) -> dict[Projection, Float64[np.ndarray, "m c k"]]:
    """The features of all examples of a job's source, one pass for all projections.

    Args:
        job: the examples.
        projections: how gradients are projected.
        batch: examples per forward pass.
        piece: bytes of a piece of work.
        progress: called as the work goes on.
        kept: the features of a projection for a part of the examples that are known already, or None.
        write: is given those of every other part.
    """
    total, c = len(job.source.lengths), job.source.outputs.n_outputs

    def computed() -> dict[Projection, Float64[np.ndarray, "m c k"]]:
        found = {each: np.zeros((total, c, each.k)) for each in projections}
        for places in chunks_of(total):
            name, missing = part_name(places), []
            for each in projections:
                before = kept(each, name)
                if before is not None and before.shape == (len(places), c, each.k):
                    found[each][places.start : places.stop] = before
                else:
                    missing.append(each)
            for each, values in part_of(job, missing, places, batch, piece).items() if missing else ():
                found[each][places.start : places.stop] = values
                write(each, name, values)
            if progress is not None:
                progress("projected gradients", places.stop, total)
        return found

    return steadily(computed)
