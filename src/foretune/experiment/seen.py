"""What the model says of an experiment's examples, kept in its folder: a command that is repeated runs nothing again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foretune.experiment.folder import EXPERIMENT
from foretune.shapes import Float64
from foretune.store.kept import whole
from foretune.store.tensors import read_remark, read_tensors, write_tensors

_SECONDS = "forward_seconds"
"""A remark beside the tensors: it is another one each time, and no number depends on it."""


@dataclass(frozen=True)
class SeenOutputs:
    """Outputs and features of examples in one order.

    Attributes:
        outputs: pretrained outputs f0.
        features: what the output layer reads.
        notes: on how the texts were read.
        forward_seconds: seconds that a forward pass took for an example.
    """

    outputs: Float64[np.ndarray, "e c"]
    features: Float64[np.ndarray, "e i"]
    notes: tuple[str, ...]
    forward_seconds: float


def kept_seen(file: Path | None, made: Callable[[], SeenOutputs]) -> SeenOutputs:
    """What is kept in a file, or what is made now and kept there.

    Args:
        file: in the folder of an experiment; nothing is kept without one.
        made: runs the model.

    Raises:
        StorageError: the file is damaged or cannot be written.
    """
    if file is None:
        return made()
    if not file.exists():
        found = made()
        written = {name: torch.from_numpy(getattr(found, name)) for name in ("outputs", "features")}
        notes = torch.tensor(list("\n".join(found.notes).encode()), dtype=torch.uint8)
        write_tensors(file, {**written, "notes": notes}, **{_SECONDS: repr(found.forward_seconds)})
    kept = EXPERIMENT.whole(file.parent, lambda: read_tensors(file))
    notes = tuple(filter(None, bytes(kept["notes"].tolist()).decode().split("\n")))
    seconds = EXPERIMENT.whole(file.parent, lambda: whole(file, lambda: float(read_remark(file, _SECONDS) or "nan")))
    return SeenOutputs(kept["outputs"].numpy(), kept["features"].numpy(), notes, seconds)
