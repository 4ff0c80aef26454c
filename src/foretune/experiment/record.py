"""What a folder with kernels says of its rows and columns: labels and pretrained outputs of all examples.

Examples are ordered train, validation, test; kernels are train x (train, validation, test).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import KernelFolderError, UsageError, nearest
from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import EXPERIMENT, KERNELS, WAIT, folder_description
from foretune.experiment.inputs import refuse_untested
from foretune.experiment.items import AskedCell, CellJob
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import kernels_of
from foretune.kernels.feature_folder import read_features
from foretune.kernels.feature_pass import tangent_features
from foretune.kernels.features import Blocked, TangentFeatures
from foretune.kernels.formula import Formula
from foretune.kernels.items import InParts
from foretune.kernels.job import Job
from foretune.kernels.sketch import Sketch
from foretune.shapes import Float64, Int
from foretune.store.json import plain
from foretune.store.kept import identity_hash, is_of, read_kept
from foretune.store.lock import held
from foretune.work.crew import Crew

_F0 = "pretrained-outputs"
FEATURES_FOLDER = "features"
"""The folder of tangent features beside those of kernels."""


@dataclass(frozen=True)
class Record:
    """What is known of an experiment's examples without its model.

    Attributes:
        identity: model, weights, precision, prompt or head, every text and versions: what all that stands here is of.
        task: name, prompt, labels, template, words and metric.
        outputs: what determines the outputs besides the weights.
        sizes: how many examples are for training, validation and test.
        y: class numbers of the examples.
        f0: pretrained outputs of the examples.
        kernels: label -> hash of everything that determines the kernel.
        features: label -> the same of kernels that are held as features.
        about: settings, versions and costs, for readers.
    """

    identity: Mapping[str, Any]
    task: Mapping[str, Any]
    outputs: Mapping[str, Any]
    sizes: Mapping[str, int]
    y: Int[np.ndarray, " e"]
    f0: Float64[np.ndarray, "e c"]
    kernels: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kernel_labels(self) -> list[str]:
        """The labels of all kernels; one that is there both ways counts once."""
        return list(dict.fromkeys([*self.kernels, *self.features]))


def record_of(experiment: Experiment, about: Mapping[str, Any]) -> Record:
    """What is known of an experiment's examples; kept in its folder, if it has one.

    Args:
        experiment: model and examples.
        about: settings and versions, for readers.
    """
    f0 = experiment.inputs.f0
    experiment.value(_F0, {}, lambda: {"f0": f0.tolist()})
    return Record(
        identity=experiment.identity,
        f0=f0,
        y=experiment.inputs.y,
        about=about,
        **experiment.description,  # pyright: ignore[reportArgumentType]
    )


def kernels_with(
    experiment: Experiment,
    job: Job,
    formulas: Sequence[Formula],
    begun: Callable[[], None] = lambda: None,
    sketch: Sketch | None = None,
) -> Mapping[str, Blocked]:
    """The kernels of a command by label; in the experiment's folder, if it has one. A crew makes them in parts.

    Args:
        experiment: model and examples.
        job: the kernels between its examples.
        formulas: which kernels.
        begun: called when the folder of each kernel is known to be of this computation; until then no other process
            writes to the experiment's folder.
        sketch: makes tangent features instead of kernels.

    Raises:
        UsageError: a folder holds another kernel.
        DataError: there are no test examples.
        StorageError: the disk is full or the folder cannot be written.
    """
    refuse_untested(experiment.split)
    folder, work = experiment.folder, experiment.work

    def made(where: Path | None, started: Callable[[], None]) -> Mapping[str, Blocked]:
        parts = None if work.crew is None else _in_parts(experiment, job, work.crew)
        if sketch is None:
            carry = None if parts is None or where is None else parts.kernels(where)
            return kernels_of(job, formulas, work.memory, where, work.progress, started, carry)
        out = None if where is None else where / FEATURES_FOLDER
        chunks = None if parts is None or out is None else parts.chunks(formulas, sketch, out)
        return tangent_features(job, formulas, sketch, work.memory, out, work.progress, started, chunks)

    if folder is None:
        return made(None, begun)
    with ExitStack() as hold:
        hold.enter_context(held(folder, wait=WAIT))

        def started() -> None:
            begun()
            hold.close()

        return made(folder / KERNELS, started)


def _in_parts(experiment: Experiment, job: Job, crew: Crew) -> InParts:
    """The kernels of an experiment in parts.

    Raises:
        UsageError: the experiment has no folder.
    """
    if experiment.folder is None:
        raise UsageError("Workers hand their results over in a folder. Give one: --out DIR.")
    asked = CellJob(AskedCell.of(experiment), tuple(job.kinds))
    return InParts(crew, asked, job, experiment.work.memory, experiment.work.progress)


def named(experiment: Experiment, record: Record, kernels: Mapping[str, Blocked]) -> Record:
    """The record with the kernels that its folder holds and these; written there.

    Raises:
        UsageError: the folder holds another experiment.
        StorageError: the disk is full or the folder cannot be written.
    """
    folder = experiment.folder
    if folder is None:
        return record
    with held(folder, wait=WAIT):
        before = EXPERIMENT.present(folder)
        EXPERIMENT.refuse_other(folder, before["identity"], record.identity)
        hashes: dict[type, dict[str, str]] = {BlockKernel: {}, TangentFeatures: {}}
        for label, kernel in kernels.items():
            hashes[type(kernel)][label] = identity_hash(kernel.description)
        features = hashes[TangentFeatures] or before.get("features", {})  # of one pass: they replace those before
        record = replace(record, kernels={**before["kernels"], **hashes[BlockKernel]}, features=features)
        changed: Any = plain({"kernels": record.kernels, "features": record.features, "about": record.about})
        EXPERIMENT.describe(folder, record.identity, {**before, **changed})
    return record


def read_record(folder: Path) -> tuple[Record, str]:
    """The record in a folder of an experiment, and the version of foretune that described it.

    Raises:
        UsageError, KernelFolderError: there is none.
        StorageError: it is damaged, or this version cannot read it.
    """
    values = folder_description(folder)
    if values is None:
        raise KernelFolderError(
            f"{folder} is not a folder of kernels: it has no {EXPERIMENT.file}. Make one with `foretune kernel MODEL DATA "
            f"--out {shlex.quote(str(folder))}`."
        )
    if not (values.get("kernels") or values.get("features")):
        within = sorted(str(place.parent) for place in folder.glob(f"warm-up/*/{EXPERIMENT.file}"))
        where = f"Those after a warm-up are in {', '.join(within)}." if within else "Repeat the command that made it."
        raise KernelFolderError(f"{folder} has no finished kernel. {where}")
    file = folder / "values" / f"{_F0}.json"
    f0 = EXPERIMENT.whole(folder, lambda: read_kept(file)["value"]["f0"])
    known = {name: values[name] for name in ("identity", "task", "outputs", "sizes", "kernels", "about")}
    y, features = np.array(values["y"], dtype=int), values.get("features", {})
    record = Record(y=y, f0=np.array(f0, dtype=float), features=features, **known)
    return record, str(values.get("foretune", "an older version"))


@dataclass(frozen=True)
class KeptKernels:
    """The kernels in the folder of an experiment.

    Attributes:
        folder: the experiment's.
        record: what it says.
    """

    folder: Path
    record: Record

    def read(self, label: str) -> Blocked:
        """One kernel: the exact one where it is there, else its features.

        Raises:
            KernelFolderError: there is none of this label, it is unfinished, or it is not of the record's examples and
                labels.
            StorageError: it is damaged.
        """
        record = self.record
        if label not in record.kernel_labels:
            known = ", ".join(record.kernel_labels) or "none"
            raise KernelFolderError(
                f"{self.folder} has no finished kernel {label!r}; it has {known}.{nearest(label, record.kernel_labels)}"
            )
        if label not in record.kernels:
            kernel = self._features.get(label)
            if kernel is None:
                raise self._strange(self.folder / KERNELS / FEATURES_FOLDER, f"it has no features {label!r}")
            return self._own(kernel, self.folder / KERNELS / FEATURES_FOLDER, record.features[label])
        place = self.folder / KERNELS / label
        return self._own(BlockKernel.open(place), place, record.kernels[label])

    @cached_property
    def _features(self) -> Mapping[str, TangentFeatures]:
        return read_features(self.folder / KERNELS / FEATURES_FOLDER)

    def _own(self, kernel: Blocked, place: Path, hash: str) -> Blocked:
        """A kernel that is of the record's examples and labels."""
        self._refuse_other_question(place, kernel.description)
        _, n, c, total, _ = kernel.shape
        expected = (self.record.sizes["train"], self.record.f0.shape[1], sum(self.record.sizes.values()))
        if (n, c, total) != expected or not is_of(kernel.description, hash):
            what = f"the kernel has {n} x {total} examples and {c} outputs"
            raise self._strange(place, f"{what}, expected {expected[0]} x {expected[2]} and {expected[1]}")
        return kernel

    def _refuse_other_question(self, place: Path, identity: Mapping[str, Any]) -> None:
        if not EXPERIMENT.same(identity["outputs"], self.record.outputs):
            raise KernelFolderError(
                f"{place} was made with other labels or another prompt than {self.folder / EXPERIMENT.file} describes: "
                f"{_shown(identity['outputs'])} against {_shown(self.record.outputs)}. Repeat the run in a new folder."
            )

    def _strange(self, place: Path, why: str) -> KernelFolderError:
        file = self.folder / EXPERIMENT.file
        return KernelFolderError(f"{place} does not belong to {file}: {why}. Repeat the run in a new folder.")


def _shown(outputs: Mapping[str, Any]) -> str:
    return str(outputs.get("words") or {key: outputs[key] for key in ("kind", "classes") if key in outputs})
