"""Projected features of all examples from one pass, and the kernels that are their products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from foretune.kernels.job import Job
from foretune.kernels.passing import chunks_of, each_batch, steadily
from foretune.kernels.projection import Projection
from foretune.kernels.tile import in_pieces_of
from foretune.progress import Progress
from foretune.shapes import Float64

Kept = Callable[[Projection, str], np.ndarray | None]
Write = Callable[[Projection, str, np.ndarray], None]


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
            name, missing = f"{places.start}-{places.stop}", []
            for each in projections:
                before = kept(each, name)
                if before is not None and before.shape == (len(places), c, each.k):
                    found[each][places.start : places.stop] = before
                else:
                    missing.append(each)
            for captured in each_batch(job, places, batch) if missing else ():
                for each in missing:
                    with in_pieces_of(piece):
                        of_batch = each.features([captured])
                    found[each][list(captured.positions)] = of_batch.view(-1, c, each.k).cpu().numpy()
            for each in missing:
                write(each, name, found[each][places.start : places.stop])
            if progress is not None:
                progress("projected gradients", places.stop, total)
        return found

    return steadily(computed)
