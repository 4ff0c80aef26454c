"""Projected gradients of some examples by themselves, for whoever makes them in parts: the same bits as in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foretune.kernels.folder import KERNEL
from foretune.kernels.job import Job
from foretune.kernels.passing import steadily
from foretune.kernels.projected import part_name, part_of
from foretune.kernels.projection import Projection
from foretune.kernels.tile_work import begun_targets


@dataclass
class ProjectedMaker:
    """Makes parts of projected gradients in kernels' folders that are begun.

    Args:
        job: as it was begun.
        projections: those that share a plan.
        memory: the budget.
        out: the folder of each.
    """

    job: Job
    projections: Sequence[Projection]
    memory: str | int
    out: Sequence[Path]

    def __post_init__(self) -> None:
        targets, plan = begun_targets(self.job, self.projections, self.out)
        pairs = zip(self.projections, targets, strict=True)
        self.folders = {each: target.folder for each, target in pairs if target.folder is not None}
        self.batch = plan.batch

    @torch.inference_mode(False)
    def written(self, places: range) -> Path:
        """Make the projected gradients of some examples for every kernel that has none of them, and write them.

        Returns:
            A file that is there then: theirs, or the description where the kernel is finished.

        Raises:
            NonFiniteError: infinite or undefined activations or gradients.
            StorageError: the disk is full or the folder cannot be written.
        """
        name = part_name(places)
        missing = [each for each, of in self.folders.items() if not (of.finished or of.has_tile(name))]
        if missing:
            piece = self.job.sizes(self.memory).piece
            for each, values in steadily(lambda: part_of(self.job, missing, places, self.batch, piece)).items():
                self.folders[each].write_tile(name, values)
        tile = self.out[0] / "tiles" / f"{name}.npy"
        return tile if tile.exists() else self.out[0] / KERNEL.file
