"""A validation of four candidates of a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foretune.experiment.sample import FewShot
from foretune.finetune.training import Training
from foretune.model.load import load_model
from foretune.validation.runs import ValidationStudy

FOUR = "layer*,all linear,attention.self.query"


def small_validation(
    model: Path, data: Path, root: Path, seeds: tuple[int, ...], grid: Sequence[Training]
) -> ValidationStudy:
    """Of `FOUR` on mr, with four examples per label."""
    return ValidationStudy(
        lm=load_model(str(model)),
        tasks=("mr",),
        sample=FewShot(4),
        seeds=seeds,
        test=12,
        rank=2,
        grid=tuple(grid),
        root=root,
        data=data,
        candidates=tuple(FOUR.split(",")),
    )
