"""A run folder: kernels, and one file that says what their rows and columns are.

    run.yaml         the options that repeat the run
    examples.json    task, split, labels y and pretrained outputs f0 of all examples, and the hash of each kernel
    sgd/, lora-r8/   kernel folders (foretune.kernels.folder), one for each formula

Examples are ordered train, validation, test; kernels are train x (train, validation, test).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import KernelFolderError, nearest
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.folder import identity_hash, read_description
from foretune.report.json import plain, write_json
from foretune.shapes import Float64, Int

FORMAT = 2
_FILE = "examples.json"
_SAME = ("task", "outputs", "sizes", "y")


@dataclass(frozen=True)
class Record:
    """What a run folder says of its examples.

    Attributes:
        task: name, prompt, labels, template, words and metric.
        outputs: what determines the outputs besides the weights.
        sizes: how many examples are for training, validation and test.
        y: class numbers.
        f0: pretrained outputs.
        kernels: label -> hash of everything that determines the kernel.
        about: settings, versions and costs, for readers.
    """

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


def write_record(folder: Path, record: Record, version: str) -> None:
    """Write examples.json, whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    write_json(folder / _FILE, {"format": FORMAT, "foretune": version, **asdict(record)})


def present_record(folder: Path, wanted: Record) -> Record | None:
    """The record that a folder holds already, None for a fresh one.

    Raises:
        KernelFolderError: it belongs to other examples; the message says what differs.
    """
    if not (folder / _FILE).exists():
        return None
    before, _ = read_record(folder)
    differing = [name for name in _SAME if plain(getattr(before, name)) != plain(getattr(wanted, name))]
    if differing:
        raise KernelFolderError(
            f"{folder} holds a run on other examples: it differs in {', '.join(differing)}. Choose another folder, or "
            "delete this one."
        )
    return before


def read_record(folder: Path) -> tuple[Record, str]:
    """The record of a run folder, and the version of foretune that wrote it.

    Raises:
        KernelFolderError: there is none, it is damaged, or this version cannot read it.
    """
    file = folder / _FILE
    if not file.is_file():
        raise KernelFolderError(
            f"{folder} is no run folder: it has no {_FILE}. Make one with `foretune kernel MODEL DATA --out {folder}`."
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found, version = values.pop("format"), values.pop("foretune", "an older version")
        if found != FORMAT:
            raise KernelFolderError(
                f"{file} has format {found}, written by foretune {version}; this version reads format {FORMAT}. Repeat the "
                "run in a new folder: its run.yaml holds the options."
            )
        values["y"] = np.array(values["y"], dtype=int)
        values["f0"] = np.array(values["f0"], dtype=float)
        if len(values["f0"]) != len(values["y"]) or len(values["y"]) != sum(values["sizes"].values()):
            raise ValueError("labels, outputs and sizes do not agree")
        return Record(**values), str(version)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise KernelFolderError(f"{file} is damaged: {error!r}. Repeat the run in a new folder.") from error


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
