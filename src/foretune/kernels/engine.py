"""Block kernels of a model on examples: plan tiles, capture factors, contract, store.

rows x columns is cut into tiles; the factors of a row tile are held while the column tiles pass by
columns that begin with the rows themselves (a training kernel) use one triangle and no second capture
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from foretune.errors import UsageError
from foretune.gradients.source import GradientSource
from foretune.kernels.block_kernel import BlockKernel, Pattern, matching
from foretune.kernels.folder import KernelFolder
from foretune.kernels.sgd import SGD
from foretune.kernels.tile import Tile
from foretune.kernels.tiles import Footprint, Plan, memory_bytes, planned
from foretune.model.fingerprint import fingerprint
from foretune.model.outputs import Outputs
from foretune.text.example import Example

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@runtime_checkable
class Formula(Protocol):
    """How gradient factors become a kernel."""

    symmetric: ClassVar[bool]
    """Whether K(x, x') = K(x', x)."""

    def contract(self, rows: Tile, columns: Tile, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Name and kernel (n, c, m, d), float64, of each block."""
        ...


@dataclass(frozen=True)
class Job:
    """What is computed: row and column examples by their place in the source, and which columns are the rows.

    Attributes:
        source: the factors of all examples.
        n: row examples, at places 0 to n - 1.
        columns: places of the column examples.
        overlap: the columns begin with the rows.
    """

    source: GradientSource
    n: int
    columns: range
    overlap: bool

    def footprint(self) -> Footprint:
        """Bytes per example and token, measured on the longest example."""
        lengths = self.source.lengths
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        held, graph = self.source.footprint(longest)
        c = self.source.outputs.n_outputs
        vectors = [t for t in self.source.parameters.values() if t.dim() == 1]
        fixed = sum(t.numel() * t.element_size() * c for t in vectors)
        fixed += sum(self.source.parameters[name].numel() * 4 * c for name in self.source.direct)
        fixed = min(fixed, held)
        return Footprint(fixed, (held - fixed) / lengths[longest], graph / lengths[longest])

    def plan(self, budget: int) -> Plan:
        """Tiles that keep the computation within `budget` bytes."""
        lengths = self.source.lengths
        sides = (lengths[: self.n], [lengths[place] for place in self.columns])
        array = 8 * len(self.source.parameters) * self.n * len(self.columns) * self.source.outputs.n_outputs**2
        if array > budget // 2:
            raise UsageError(
                f"The kernel itself takes {array / 2**30:.2f} GiB, more than half of the memory budget of "
                f"{budget / 2**30:.2f} GiB. Use --memory {array * 2.2 / 2**30:.1f}GiB, fewer examples, or --blocks."
            )
        footprint = self.footprint()
        return planned(footprint, sides, budget - array, overlap=self.overlap, single=self.source.single)


def block_kernels(
    outputs: Outputs,
    rows: Sequence[Example | str | Mapping[str, object]],
    columns: Sequence[Example | str | Mapping[str, object]] | None = None,
    formula: Formula | None = None,
    blocks: Pattern | None = None,
    memory: str | int = "2GiB",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> BlockKernel:
    """The kernel of every parameter block between `rows` and `columns`.

    Args:
        outputs: the model as a function of its parameters, with c outputs.
        rows: n examples.
        columns: m examples; the rows themselves when left out.
        formula: which kernel; `SGD()` when left out.
        blocks: globs or a predicate on parameter names; all trainable parameters when left out.
        memory: budget above the model's own footprint, such as `"2GiB"`.
        out: a folder to write to while computing; an unfinished computation there is resumed.
        progress: called as the work goes on.

    Returns:
        Block kernels of shape (b, n, c, m, c), float64.

    Raises:
        UsageError: no examples, no matching block, or too little memory.
        KernelFolderError: `out` holds another computation.
        NonFiniteError: infinite or undefined activations or gradients, with the module's name.
    """
    given = _examples(rows, "rows")
    others = [] if columns is None else _examples(columns, "columns")
    places = range(len(given)) if columns is None else range(len(given), len(given) + len(others))
    source = GradientSource(outputs, given + others, _names(outputs, blocks))
    job = Job(source, len(given), places, overlap=columns is None)
    return computed(job, formula or SGD(), memory, out, progress)


def joint_kernels(
    outputs: Outputs,
    train: Sequence[Example],
    evaluation: Sequence[Example],
    formula: Formula | None = None,
    blocks: Pattern | None = None,
    memory: str | int = "2GiB",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> BlockKernel:
    """The kernel between the training examples and (training, then evaluation) examples, in one pass over the data.

    Args and errors as in `block_kernels`.

    Returns:
        Block kernels of shape (b, n, c, n + m, c): the first n columns are the symmetric training kernel.
    """
    job = joint_job(outputs, train, evaluation, blocks)
    return computed(job, formula or SGD(), memory, out, progress)


def joint_job(
    outputs: Outputs, train: Sequence[Example], evaluation: Sequence[Example], blocks: Pattern | None = None
) -> Job:
    """The job of `joint_kernels`, for planning without computing."""
    given, others = _examples(train, "train"), _examples(evaluation, "evaluation")
    source = GradientSource(outputs, given + others, _names(outputs, blocks))
    return Job(source, len(given), range(len(given) + len(others)), overlap=True)


def _examples(rows: Sequence[Example | str | Mapping[str, object]], what: str) -> list[Example]:
    if len(rows) == 0:
        raise UsageError(f"No examples in {what}; expected at least one.")
    return [Example.of(row) for row in rows]


def _names(outputs: Outputs, blocks: Pattern | None) -> list[str]:
    names = list(outputs.parameters())
    if not names:
        raise UsageError("Every parameter of the model is frozen; unfreeze some (requires_grad_) to have a kernel.")
    return names if blocks is None else [names[place] for place in matching(names, blocks)]


def computed(
    job: Job, formula: Formula, memory: str | int, out: str | Path | None, progress: Progress | None
) -> BlockKernel:
    """Carry out a job. See `block_kernels`."""
    names, c = list(job.source.parameters), job.source.outputs.n_outputs
    shape = (len(names), job.n, c, len(job.columns), c)
    description = described(job, formula)
    budget = memory_bytes(memory)
    folder = None
    if out is not None:
        folder = _reopened(Path(out), names, shape, description)
        if folder is not None and folder.finished:
            return BlockKernel(tuple(names), folder.read(), description)
    plan = job.plan(budget)
    if out is not None:
        sizes = {"batch": plan.batch, "rows": plan.rows, "columns": plan.columns}
        folder = KernelFolder(Path(out), names, shape, sizes, description)
        plan = Plan(**{**asdict(plan), **folder.plan})
    array = _tiled(job, formula, plan, folder, progress or (lambda *_: None))
    if folder is not None:
        folder.finish(array)
    return BlockKernel(tuple(names), array, description)


def _reopened(
    path: Path, names: list[str], shape: tuple[int, ...], description: Mapping[str, object]
) -> KernelFolder | None:
    return KernelFolder(path, names, shape, {}, description) if (path / "kernel.json").exists() else None


def _tiled(job: Job, formula: Formula, plan: Plan, folder: KernelFolder | None, progress: Progress) -> np.ndarray:
    """The array (b, n, c, m, c), tile by tile."""
    names, c = list(job.source.parameters), job.source.outputs.n_outputs
    array = np.zeros((len(names), job.n, c, len(job.columns), c))
    work = _Work(job, plan, progress, len(names))
    for i, rows in enumerate(work.row_tiles):
        left: Tile | None = None
        for j, columns in enumerate(work.column_tiles):
            mirrored = job.overlap and formula.symmetric and j < len(work.row_tiles)
            if mirrored and j < i:
                continue
            values = folder.tile(f"{i}-{j}") if folder is not None else None
            if values is None:
                left = left if left is not None else work.captured(rows)
                same = job.overlap and j == i
                right = left if same else work.captured([job.columns[place] for place in columns])
                values = _contracted(formula, left, right, names, work)
                del right
                if folder is not None:
                    folder.write_tile(f"{i}-{j}", values)
            a, b, k, m = rows.start, rows.stop, columns.start, columns.stop
            array[:, a:b, :, k:m] = values
            if mirrored and i != j:
                array[:, k:m, :, a:b] = values.transpose(0, 3, 4, 1, 2)
    return array


class _Work:
    """Tiles of a job, and how far it is."""

    def __init__(self, job: Job, plan: Plan, progress: Progress, blocks: int) -> None:
        self.job, self.plan, self.progress = job, plan, progress
        m = len(job.columns)
        self.row_tiles = _ranges(0, job.n, plan.rows)
        extra = _ranges(job.n, m, plan.columns) if job.overlap else _ranges(0, m, plan.columns)
        self.column_tiles = self.row_tiles + extra if job.overlap else extra
        self.passes, self.total = 0, plan.passes
        self.contracted, self.blocks = 0, blocks * len(self.row_tiles) * len(self.column_tiles)

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


def _contracted(formula: Formula, left: Tile, right: Tile, names: list[str], work: _Work) -> np.ndarray:
    """The kernel of two tiles, examples back in their own order."""
    c = left[0].outputs.shape[1]
    order = [np.argsort([place for batch in tile for place in batch.positions]) for tile in (left, right)]
    values = np.zeros((len(names), len(order[0]), c, len(order[1]), c))
    place = {name: number for number, name in enumerate(names)}
    for name, kernel in formula.contract(left, right, names):
        values[place[name]] = kernel.cpu().numpy()[order[0]][:, :, order[1]]
        work.finished_block()
    return values


def described(job: Job, formula: Formula) -> dict[str, object]:
    """Everything that determines the values of a kernel."""
    outputs = job.source.outputs
    lm = outputs.lm
    return {
        "model": lm.name,
        "revision": lm.revision,
        "weights": fingerprint(outputs.module.state_dict()),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": lm.device.type,
        "outputs": outputs.description,
        "rows": _tokens_hash(job, range(job.n)),
        "columns": _tokens_hash(job, job.columns),
        "parameters": hashlib.sha256("\n".join(job.source.parameters).encode()).hexdigest(),
        "formula": repr(formula),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


def _tokens_hash(job: Job, places: Sequence[int]) -> str:
    ids = [[*job.source.encoded[place].ids, job.source.encoded[place].position] for place in places]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()
