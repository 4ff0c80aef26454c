"""A run folder: kernels, and one file that says what their rows and columns are.

    examples.json    model, task, split, labels y and pretrained outputs f0 of all examples, and the hash of each kernel
    run.yaml         the options that repeat the run
    sgd/, lora-r8/   kernel folders (foretune.kernels.folder), one for each formula

Examples are ordered train, validation, test; kernels are train x (train, validation, test). examples.json is written
first: it claims the folder for one model on one set of examples, and everything else there is of these.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import KernelFolderError, nearest
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.folder import read_description
from foretune.shapes import Float64, Int
from foretune.store.atomic import moving, names_in
from foretune.store.json import is_written_json, plain
from foretune.store.kept import DamagedError, identity_difference, identity_hash, read_kept, write_kept
from foretune.store.lock import held
from foretune.store.workspace import sweep

FORMAT = 3
_FILE = "examples.json"
_SAME = ("task", "sizes", "y")
_UNCOVERED = ("about", "foretune")
_WAIT = 60.0


@dataclass(frozen=True)
class Record:
    """What a run folder says of its examples.

    Attributes:
        identity: model, weights, precision, prompt or head, every text and versions: what all that stands here is of.
        task: name, prompt, labels, template, words and metric.
        outputs: what determines the outputs besides the weights.
        sizes: how many examples are for training, validation and test.
        y: class numbers.
        f0: pretrained outputs.
        kernels: label -> hash of everything that determines the kernel.
        about: settings, versions and costs, for readers.
    """

    identity: Mapping[str, Any]
    task: Mapping[str, Any]
    outputs: Mapping[str, Any]
    sizes: Mapping[str, int]
    y: Int[np.ndarray, "e"]
    f0: Float64[np.ndarray, "e c"]
    kernels: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def with_kernels(self, found: Mapping[str, BlockKernel], before: Record | None) -> Record:
        """The record with some more kernels, besides those that stand in the folder already."""
        hashes = {label: identity_hash(kernel.description) for label, kernel in found.items()}
        return replace(self, kernels={**({} if before is None else before.kernels), **hashes})


@contextmanager
def claimed(folder: Path, record: Record, version: str) -> Iterator[None]:
    """Claim a folder for a record, or find that it holds this one; for the length of the block no other process claims it.

    Raises:
        KernelFolderError: it belongs to another model or other examples (the message says what differs), or is something
            else.
        StorageError: the disk is full or the folder cannot be written.
    """
    with held(folder, wait=_WAIT):
        if present_record(folder, record) is None:
            _write_record(folder, record, version)
        sweep(folder)
        yield


def add_kernels(folder: Path, record: Record, kernels: Mapping[str, BlockKernel], version: str) -> Record:
    """Write examples.json with some more kernels, besides those that stand in the folder already.

    Raises:
        KernelFolderError, StorageError: as in `claimed`.
    """
    with held(folder, wait=_WAIT):
        record = record.with_kernels(kernels, present_record(folder, record))
        _write_record(folder, record, version)
    return record


def _write_record(folder: Path, record: Record, version: str) -> None:
    values: Any = plain({"format": FORMAT, "foretune": version, **asdict(record)})
    write_kept(folder / _FILE, values, _UNCOVERED)


def strangers_in(folder: Path) -> list[str]:
    """The names in a folder, but for what `--json` wrote: an estimate of the work to come may stand there before it.

    Raises:
        StorageError: it is a file, or cannot be read.
    """
    return [name for name in names_in(folder) if not (name.endswith(".json") and is_written_json(folder / name))]


def refuse_foreign(folder: Path) -> None:
    """See that a folder is empty or one of kernels, before the work.

    Raises:
        KernelFolderError: it holds something else, or its record is damaged.
        StorageError: it cannot be read.
    """
    found = strangers_in(folder)
    if not found:
        return
    if not (folder / _FILE).exists():
        raise KernelFolderError(
            f"{folder} is not a folder of kernels: it holds {found[0]!r} but no {_FILE}. Choose an empty or new folder for "
            "--out."
        )
    read_record(folder)


def present_record(folder: Path, wanted: Record) -> Record | None:
    """The record that a folder holds already, None for a fresh one.

    Raises:
        KernelFolderError: it belongs to another model or other examples; the message says what differs.
    """
    refuse_foreign(folder)
    if not (folder / _FILE).exists():
        return None
    before, _ = read_record(folder)
    differing = identity_difference(before.identity, wanted.identity)
    differing += [name for name in _SAME if plain(getattr(before, name)) != plain(getattr(wanted, name))]
    if differing:
        raise KernelFolderError(
            f"{folder} holds a run on other examples or another model: it differs in {', '.join(differing)}. Choose "
            f"another folder, or move this one: {moving(folder)}"
        )
    return before


def read_record(folder: Path) -> tuple[Record, str]:
    """The record of a run folder, and the version of foretune that wrote it.

    Raises:
        KernelFolderError: there is none, it is damaged, or this version cannot read it.
    """
    file = folder / _FILE
    if not file.exists():
        raise KernelFolderError(
            f"{folder} is not a run folder: it has no {_FILE}. Make one with `foretune kernel MODEL DATA --out "
            f"{shlex.quote(str(folder))}`."
        )
    try:
        values = read_kept(file, _UNCOVERED, FORMAT)
    except DamagedError as error:
        remedy = f"Repeat the command that made it in a new folder, or move this one first: {moving(folder)}"
        raise KernelFolderError(str(error.with_remedy(remedy))) from error
    found, version = values.pop("format"), values.pop("foretune", "an older version")
    if found != FORMAT:
        raise KernelFolderError(
            f"{file} has format {found}, written by foretune {version}; this version reads format {FORMAT}. Repeat the "
            "run in a new folder: `foretune kernel MODEL DATA --out NEW`, with --config and the run.yaml of this run."
        )
    values["y"] = np.array(values["y"], dtype=int)
    values["f0"] = np.array(values["f0"], dtype=float)
    return Record(**values), str(version)


def read_kernel(folder: Path, record: Record, label: str) -> BlockKernel:
    """One kernel of a run folder.

    Raises:
        KernelFolderError: there is none of this label, it is unfinished, or it is not of the record's examples and labels.
    """
    if label not in record.kernels:
        known = ", ".join(record.kernels) or "none"
        raise KernelFolderError(
            f"{folder} has no finished kernel {label!r}; it has {known}.{nearest(label, record.kernels)}"
        )
    identity = read_description(folder / label)["identity"]
    if plain(identity["outputs"]) != plain(record.outputs):
        raise KernelFolderError(
            f"{folder / label} was made with other labels or another prompt than {folder / _FILE} describes: "
            f"{_shown(identity['outputs'])} against {_shown(record.outputs)}. Repeat the run in a new folder."
        )
    kernel = BlockKernel.open(folder / label)
    (n, c), total = kernel.array.shape[1:3], sum(record.sizes.values())
    expected = (record.sizes["train"], record.f0.shape[1], total)
    if (n, c, kernel.array.shape[3]) != expected or identity_hash(identity) != record.kernels[label]:
        raise KernelFolderError(
            f"{folder / label} does not belong to {folder / _FILE}: the kernel has {n} x {kernel.array.shape[3]} examples "
            f"and {c} outputs, expected {expected[0]} x {expected[2]} and {expected[1]}. Repeat the run in a new folder."
        )
    return kernel


def _shown(outputs: Mapping[str, Any]) -> str:
    return str(outputs.get("words") or {key: outputs[key] for key in ("kind", "classes") if key in outputs})
