"""The tangent features of all examples from one pass: captured, sketched, written, forgotten. Memory is constant in N."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from foretune.errors import UsageError
from foretune.gradients.factors import FactorBatch
from foretune.kernels.budget import device_bytes
from foretune.kernels.directions import bytes_of_directions, directions_of, examples_of, with_one_output
from foretune.kernels.feature_folder import FeatureFolder
from foretune.kernels.features import Chunk, TangentFeatures
from foretune.kernels.formula import Formula, overflow
from foretune.kernels.job import Job, job_description
from foretune.kernels.law import check_law
from foretune.kernels.lora import LoRA
from foretune.kernels.memory_plan import memory_text
from foretune.kernels.passing import CHUNK, batch_within, chunks_of, each_batch, steadily
from foretune.kernels.sgd import SGD
from foretune.kernels.sketch import Sketch, Sketcher, Wanted, wanted_blocks
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
    starts, first, made = np.cumsum([0, *found.maker.widths]).tolist(), 0, {}
    for formula, names in blocks.items():
        of, own = {**found.description, "formula": repr(formula)}, starts[first : first + len(names) + 1]
        made[formula.label] = TangentFeatures(tuple(names), chunks, tuple(own), first, job.n, of)
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
    folder = None if out is None else _folder(Path(out), job, description, blocks, sketch)
    return FeaturePass(job, blocks, sketch, memory, folder, description, progress or (lambda *_: None))


def _folder(
    out: Path, job: Job, description: Mapping[str, object], blocks: Mapping[Formula, Sequence[str]], sketch: Sketch
) -> FeatureFolder:
    identity = {**description, "formulas": [repr(formula) for formula in blocks]}
    others = {
        "blocks": {formula.label: list(names) for formula, names in blocks.items()},
        "widths": _widths(wanted_of(job, blocks, sketch), len(examples_of(job.n, sketch.directions))),
        "n": job.n,
        "examples": len(job.columns),
        "outputs": job.source.outputs.n_outputs,
        "k": sketch.k,
    }
    return FeatureFolder(out, identity, others)


@dataclass(frozen=True)
class PassSizes:
    """How a pass is cut.

    Attributes:
        batch: examples per forward pass.
        held: bytes of all features.
        once: whether the factors of the examples that directions are made of are held, so that they are made once.
    """

    batch: int
    held: int
    once: bool


def pass_sizes(
    job: Job, blocks: Mapping[Formula, Sequence[str]], sketch: Sketch, memory: str | int, *, on_disk: bool
) -> PassSizes:
    """How a pass is cut for a budget.

    Raises:
        UsageError: the memory budget is too small.
    """
    total, count = len(job.columns), len(examples_of(job.n, sketch.directions))
    each, budget = bytes_of_example(job, blocks, sketch), device_bytes(memory, job.device)
    held = each * total
    if not on_disk and held > budget // 2:
        raise UsageError(
            f"The features of {total} examples take {memory_text(held)}, more than half of the memory budget of "
            f"{memory_text(budget)}. Keep them in a folder: --out DIR; or use --memory "
            f"{memory_text(2 * held).replace(' ', '')}."
        )
    beside = each * (2 * CHUNK if on_disk else total) + _sign_bytes(job, sketch)
    beside += _direction_bytes(job, blocks, sketch, count)
    factors = count * _factor_bytes(job) * 2 // (1 + job.source.outputs.n_outputs)  # inputs, and one output
    once = factors <= budget // 4
    return PassSizes(batch_within(job, memory, beside + (factors if once else 0)), held, once)


def fits(
    job: Job, blocks: Mapping[Formula, Sequence[str]], sketch: Sketch, memory: str | int, *, on_disk: bool
) -> bool:
    """Whether a budget allows a pass."""
    try:
        pass_sizes(job, blocks, sketch, memory, on_disk=on_disk)
    except UsageError:
        return False
    return True


def bytes_of_example(job: Job, blocks: Mapping[Formula, Sequence[str]], sketch: Sketch) -> int:
    """Bytes of the features of one example."""
    widths = _widths(wanted_of(job, blocks, sketch), len(examples_of(job.n, sketch.directions)))
    return 4 * job.source.outputs.n_outputs * sum(widths)


def _factor_bytes(job: Job) -> int:
    """Bytes of the gradient factors of the longest example."""
    footprint = job.footprint()
    return max(1, int(footprint.fixed + footprint.token * max(job.source.lengths)))


def _sign_bytes(job: Job, sketch: Sketch) -> int:
    """Bytes of the signs of tables, and while one part of them is drawn."""
    kinds = job.kinds
    rows = [len(tensor) for name, tensor in job.source.parameters.items() if kinds[name] == "embedding"]
    return 6 * sketch.k * sum(rows)


def _direction_bytes(job: Job, blocks: Mapping[Formula, Sequence[str]], sketch: Sketch, count: int) -> int:
    """Bytes of the directions of all blocks while they are made."""
    shapes, widths = job.source.parameters, job.source.outputs.widths()
    found = 0
    for block in wanted_of(job, blocks, sketch):
        if not block.exact:
            shape = shapes[block.name].shape
            features = widths.get(block.name, shape[-1])
            found += bytes_of_directions(features, -(-block.entries // features), count, sketch.k)
    return found


def wanted_of(job: Job, blocks: Mapping[Formula, Sequence[str]], sketch: Sketch) -> list[Wanted]:
    """What is kept of every block."""
    shapes = {name: tuple(tensor.shape) for name, tensor in job.source.parameters.items()}
    return wanted_blocks(blocks, shapes, job.source.outputs.widths(), sketch)


def _widths(wanted: Sequence[Wanted], directions: int) -> list[int]:
    """Numbers kept of each block for an example and output, those of directions with them."""
    return [block.width + (0 if block.exact else directions) for block in wanted]


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
        sizes = pass_sizes(self.job, self.blocks, self.sketch, self.memory, on_disk=self.folder is not None)
        self.batch, self.once = sizes.batch, sizes.once
        self._begin()

    def _begin(self) -> None:
        """Draw signs and directions anew: the factors so far may be of another kind."""
        self.maker = FeatureMaker(self.job, self.blocks, self.sketch, self.batch, self.once)
        self._direct = self.job.source.direct

    @property
    def missing(self) -> list[range]:
        """The chunks that are not in the folder."""
        return [places for places in self.chunks if self.folder is None or not self.folder.file(places).exists()]

    def written(self, places: range) -> Path:
        """The file of one chunk, which is made unless it is there."""
        assert self.folder is not None  # noqa: S101 - chunks by themselves are handed over in a folder
        folder = self.folder

        def made() -> Path:
            if self.job.source.direct != self._direct:
                self._begin()
            kinds = " ".join(sorted(self._direct))
            if folder.chunk(places, kinds) is None:
                folder.write(places, kinds, self._chunk(places))
            return folder.file(places)

        return steadily(made)

    def computed(self) -> list[Chunk]:
        """Every chunk, from the folder where it is there."""
        found, total = [], self.chunks[-1].stop
        self._begin()
        c = self.job.source.outputs.n_outputs
        for places in self.chunks:
            kinds = " ".join(sorted(self.job.source.direct))
            values = None if self.folder is None else self.folder.chunk(places, kinds)
            if values is None:
                values = self._chunk(places)
                if self.folder is not None:
                    values = self.folder.write(places, kinds, values)
            found.append(Chunk(values, len(places), c))
            self.progress("tangent features", places.stop, total)
        if self.folder is not None:
            self.folder.finish(" ".join(sorted(self.job.source.direct)))
        return found

    def _chunk(self, places: range) -> Float32[np.ndarray, " _"]:
        made, order = [], []
        with in_pieces_of(self.job.sizes(self.memory).piece):
            for captured in each_batch(self.job, places, self.batch):
                order.extend(captured.positions)
                made.append(self.maker.features(captured))
        back, start = np.argsort(order), 0
        found = np.empty(sum(part.size for parts in made for part in parts), np.float32)
        for parts in zip(*made, strict=True):
            block = np.concatenate(parts)[back]
            found[start : start + block.size] = block.ravel()
            start += block.size
        return found


@dataclass
class FeatureMaker:
    """Makes features batch after batch; signs and directions are drawn once.

    Attributes:
        job, blocks, sketch: what of.
        batch: examples per forward pass.
        once: whether the factors that directions are made of are held.
    """

    job: Job
    blocks: Mapping[Formula, Sequence[str]]
    sketch: Sketch
    batch: int
    once: bool

    def __post_init__(self) -> None:
        self.sketcher = Sketcher(self.sketch)
        self.wanted = wanted_of(self.job, self.blocks, self.sketch)
        self.places = examples_of(self.job.n, self.sketch.directions)
        self._kept: list[FactorBatch] = []
        self._ready = False

    @property
    def widths(self) -> list[int]:
        """Numbers kept of each block for an example and output."""
        return _widths(self.wanted, len(self.places))

    def features(self, batch: FactorBatch) -> list[Float32[np.ndarray, "n c w"]]:
        """The features of every block in a batch.

        Raises:
            NonFiniteError: they are infinite or undefined.
        """
        with torch.no_grad(), torch.autocast(batch.outputs.device.type, enabled=False):
            self.prepare()
            found = self.sketcher.features(batch, self.wanted)
        for block, of_block in zip(self.wanted, found, strict=True):
            if not torch.isfinite(of_block).all():
                raise overflow(block.name, block.formula.label)
        return [of_block.float().cpu().numpy() for of_block in found]

    def prepare(self) -> None:
        """Find the directions, unless they are there."""
        if self._ready:
            return
        mixed = [block for block in self.wanted if not block.exact]
        if self.places and mixed:
            sides = partial(self.sketcher.sides, wanted=mixed)
            found = directions_of(self._examples, self.places, sides, self.sketch.seed)
            self.sketcher.hold(found, len(self.places))
        self._kept, self._ready = [], True

    def _examples(self) -> Iterable[FactorBatch]:
        """The factors of the examples that directions are made of, of one output each."""
        found = (with_one_output(batch, self.sketch.seed) for batch in each_batch(self.job, self.places, self.batch))
        if not self.once:
            return found
        self._kept = self._kept or list(found)
        return self._kept
