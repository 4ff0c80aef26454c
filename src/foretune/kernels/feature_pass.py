"""The tangent features of all examples from one pass: captured, sketched, written, forgotten. Memory is constant in N."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foretune.errors import UsageError
from foretune.gradients.factors import FactorBatch
from foretune.kernels.budget import device_bytes
from foretune.kernels.feature_folder import FeatureFolder
from foretune.kernels.features import TangentFeatures
from foretune.kernels.formula import Formula, overflow
from foretune.kernels.job import Job, job_description
from foretune.kernels.landmarks import Landmarks
from foretune.kernels.law import check_law
from foretune.kernels.lora import LoRA
from foretune.kernels.memory_plan import memory_text
from foretune.kernels.passing import CHUNK, batch_within, chunks_of, each_batch, steadily
from foretune.kernels.sgd import SGD
from foretune.kernels.sketch import Sketch, Sketcher
from foretune.kernels.tile import in_pieces_of
from foretune.progress import Progress
from foretune.shapes import Float32


@torch.inference_mode(False)
def tangent_features(
    job: Job,
    formulas: Sequence[Formula],
    sketch: Sketch | None = None,
    memory: str | int = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
    started: Callable[[], None] | None = None,
    carry: Callable[[Sequence[range]], None] | None = None,
) -> dict[str, TangentFeatures]:
    """The tangent features of several formulas from one pass over the examples.

    Args:
        job: `joint_job(outputs, train, evaluation, blocks)`.
        formulas: `SGD()` and `LoRA`s.
        sketch: how each block is sketched.
        memory: budget above the model's own footprint.
        out: a folder that keeps the features; chunks that are there are read. Without one they are held in memory.
        progress: called as the work goes on.
        started: called before the work, once the folder has been found to hold this computation, or nothing.
        carry: makes chunks of these examples, in the folder.

    Returns:
        Label of the formula (`sgd`, `lora-r4`) -> its features.

    Raises:
        UsageError: another formula, too little memory, or `out` holds another computation.
        NonFiniteError: infinite or undefined activations or gradients, with the module's name.
    """
    found = feature_pass(job, formulas, sketch or Sketch(), memory, out, progress)
    blocks = found.blocks
    check_law(job.source, {SGD(): blocks.get(SGD(), [])}, found.chunks[0], found.batch)
    if started is not None:
        started()
    if carry is not None:
        carry(found.missing)
    chunks = steadily(found.computed)
    first, made = 0, {}
    for formula, names in blocks.items():
        of = {**found.description, "formula": repr(formula)}
        made[formula.label] = TangentFeatures(tuple(names), chunks, first, job.n, of)
        first += len(names)
    return made


def feature_pass(
    job: Job,
    formulas: Sequence[Formula],
    sketch: Sketch,
    memory: str | int,
    out: str | Path | None,
    progress: Progress | None = None,
) -> FeaturePass:
    """A pass over the examples before it is made. Args and errors as in `tangent_features`."""
    blocks = {formula: formula.blocks(job.kinds) for formula in formulas}
    other = next((formula for formula in formulas if not isinstance(formula, (SGD, LoRA))), None)
    if other is not None or not formulas:
        raise UsageError(
            f"Tangent features are of SGD() and LoRA(...), not of {other}. Use block_kernels for its kernel."
        )
    description = {**job_description(job), "sketch": repr(sketch), "chunk": CHUNK}
    folder = _folder(out, description, blocks, sketch)
    return FeaturePass(job, blocks, sketch, memory, folder, description, progress or (lambda *_: None))


def _folder(
    out: str | Path | None, description: Mapping[str, object], blocks: Mapping[Formula, Sequence[str]], sketch: Sketch
) -> FeatureFolder | None:
    if out is None:
        return None
    identity = {**description, "formulas": [repr(formula) for formula in blocks]}
    return FeatureFolder(
        Path(out), identity, {"blocks": {f.label: list(names) for f, names in blocks.items()}, "k": sketch.k}
    )


def pass_sizes(
    job: Job, blocks: Mapping[Formula, Sequence[str]], sketch: Sketch, memory: str | int, *, on_disk: bool
) -> tuple[int, int]:
    """Examples per forward pass, and bytes of all features.

    Raises:
        UsageError: the memory budget is too small.
    """
    total = len(job.columns)
    c, few = job.source.outputs.n_outputs, len(landmark_places(job, sketch))
    each = 4 * c * sum(map(len, blocks.values())) * (sketch.k + few * c)
    held, budget = each * total, device_bytes(memory, job.device)
    if not on_disk and held > budget // 2:
        raise UsageError(
            f"The features of {total} examples take {memory_text(held)}, more than half of the memory budget of "
            f"{memory_text(budget)}. Keep them in a folder: --out DIR; or use --memory "
            f"{memory_text(2 * held).replace(' ', '')}."
        )
    signs = 4 * sketch.inner * sum(sum(t.shape[:2]) for t in job.source.parameters.values() if t.dim() > 1)
    footprint, longest = job.footprint(), max(job.source.lengths)
    landmarks = few * int(footprint.fixed + footprint.token * longest)
    return batch_within(job, memory, each * (2 * CHUNK if on_disk else total) + 3 * signs // 2 + landmarks), held


def landmark_places(job: Job, sketch: Sketch) -> list[int]:
    """The training examples whose gradients are held exactly, at equal distances."""
    count = min(job.n, max(1, sketch.landmarks // job.source.outputs.n_outputs)) if sketch.landmarks else 0
    return [number * job.n // count for number in range(count)]


@dataclass
class FeaturePass:
    """A pass, and what it works with."""

    job: Job
    blocks: Mapping[Formula, Sequence[str]]
    sketch: Sketch
    memory: str | int
    folder: FeatureFolder | None
    description: Mapping[str, object]
    progress: Progress

    def __post_init__(self) -> None:
        self.chunks = chunks_of(len(self.job.columns), CHUNK)
        self.maker: FeatureMaker | None = None
        self._direct = self.job.source.direct
        self.batch, _ = pass_sizes(self.job, self.blocks, self.sketch, self.memory, on_disk=self.folder is not None)

    @property
    def missing(self) -> list[range]:
        """The chunks that are not in the folder."""
        return [places for places in self.chunks if self.folder is None or not self.folder.file(places).exists()]

    def written(self, places: range) -> Path:
        """The file of one chunk, which is made unless it is there."""
        assert self.folder is not None  # noqa: S101 - chunks by themselves are handed over in a folder
        folder = self.folder

        def made() -> Path:
            if self.job.source.direct != self._direct:  # a rule was lost
                self.maker, self._direct = None, self.job.source.direct
            kinds = " ".join(sorted(self.job.source.direct))
            if folder.chunk(places, kinds) is None:
                folder.write(places, kinds, self._chunk(places))
            return folder.file(places)

        return steadily(made)

    def computed(self) -> list[Float32[np.ndarray, "_ c b k"]]:
        """Every chunk, from the folder where it is there."""
        found, total = [], self.chunks[-1].stop
        self.maker = FeatureMaker(self.job, self.blocks, self.sketch, self.batch)  # anew where a rule was lost
        for places in self.chunks:
            kinds = " ".join(sorted(self.job.source.direct))
            values = None if self.folder is None else self.folder.chunk(places, kinds)
            if values is None:
                values = self._chunk(places)
                if self.folder is not None:
                    values = self.folder.write(places, kinds, values)
            found.append(values)
            self.progress("tangent features", places.stop, total)
        return found

    def _chunk(self, places: range) -> Float32[np.ndarray, "_ c b k"]:
        parts, order = [], []
        self.maker = maker = self.maker or FeatureMaker(self.job, self.blocks, self.sketch, self.batch)
        with in_pieces_of(self.job.sizes(self.memory).piece):
            for captured in each_batch(self.job, places, self.batch):
                parts.append(maker.features(captured))
                order.extend(captured.positions)
        return np.concatenate(parts)[np.argsort(order)]


@dataclass
class FeatureMaker:
    """Makes features batch after batch; signs are drawn, and landmarks taken, once."""

    job: Job
    blocks: Mapping[Formula, Sequence[str]]
    sketch: Sketch
    batch: int

    def __post_init__(self) -> None:
        self.sketcher = Sketcher(self.sketch)
        self.landmarks: Landmarks | None = None

    def features(self, captured: FactorBatch) -> Float32[np.ndarray, "n c b k"]:
        """The features of a batch.

        Raises:
            NonFiniteError: they are infinite or undefined.
        """
        with torch.no_grad(), torch.autocast(captured.outputs.device.type, enabled=False):
            found = self.sketcher.features(captured, self.blocks)
            if self.sketch.landmarks:
                found = self._landmarks().features(captured, found)
            found = found.float()
        self._refuse_overflow(found)
        return found.cpu().numpy()

    def _landmarks(self) -> Landmarks:
        if self.landmarks is None:
            tile = self.job.source.capture(landmark_places(self.job, self.sketch), self.batch)
            self.landmarks = Landmarks.of(tile, self.blocks, self.sketcher)
        return self.landmarks

    def _refuse_overflow(self, found: torch.Tensor) -> None:
        if torch.isfinite(found).all():
            return
        broken = int((~torch.isfinite(found)).any(-1).any(0).any(0).nonzero()[0])
        named = [(name, formula.label) for formula, names in self.blocks.items() for name in names]
        raise overflow(*named[broken])
