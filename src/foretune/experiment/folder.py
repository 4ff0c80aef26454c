"""The folder of an experiment: one format for what `forecast`, `kernel`, `tune` and the studies keep.

    experiment.json    the model and the examples that everything here is of, and which kernels the commands made
    head.safetensors   a head that starts from the linear-probing solution
    kernels/LABEL/     kernels of the commands, train x (train, validation, test) (foretune.kernels.folder); those of the
                       studies stand in kernels/PARTS/ of the same kind
    runs/NAME/         grids of fine-tuning runs (foretune.finetune): point-0, point-1 and so on
    values/NAME.json   everything else that takes long, each with a hash of what determines it
    warm-up/NAME/      the experiment with the model after a few steps (run/), in the same format
    run.yaml           the options that repeat the command; beside it its answer, forecast.json or result.json

What is there already is read, not computed again. A folder of an older version with `cell.json` is opened; another one is
refused with the command that makes it again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretune.errors import StorageError
from foretune.store.json import strangers_in
from foretune.store.kept import FolderKind, identity_hash, read_kept
from foretune.store.lock import held
from foretune.store.workspace import sweep

SETTINGS, FORECAST = "run.yaml", "forecast.json"
KERNELS, RUNS = "kernels", "runs"
"""The folders of kernels and of fine-tuning runs in that of an experiment."""
WAIT = 60.0
"""Seconds to wait for another process that describes the same folder."""
EXPERIMENT = FolderKind(
    "experiment",
    "experiment.json",
    4,
    f"Repeat the command that made it, with --config and its {SETTINGS}, in a new folder.",
    ("about", "foretune"),
)
_CELL, _EXAMPLES = "cell.json", "examples.json"
_COMMAND = "# foretune "


@dataclass(frozen=True)
class Place:
    """A folder for one experiment; one that holds another is refused."""

    folder: Path

    def found(self, identity: Mapping[str, Any]) -> Path:
        """The folder that an experiment has here, whether it is there or not; nothing is written.

        Args:
            identity: everything that determines the experiment's results.

        Raises:
            UsageError: something else than an experiment is there.
            StorageError: it cannot be read.
        """
        return self.folder

    def claimed(self, identity: Mapping[str, Any], others: Mapping[str, Any]) -> Path:
        """The folder, described as that of the experiment.

        Args:
            identity: everything that determines the experiment's results.
            others: what else the description says.

        Raises:
            UsageError: it holds another experiment or something else.
            StorageError: it cannot be read or written.
        """
        return _claimed(self.found(identity), identity, others)


@dataclass(frozen=True)
class Beside(Place):
    """A folder for one experiment; where it holds another, one beside it, with a part of the hash in its name."""

    def found(self, identity: Mapping[str, Any]) -> Path:
        """The folder, or the one beside it where it holds another experiment. Args and errors as in `Place`."""
        before = folder_description(self.folder)
        if before is None or EXPERIMENT.same(before["identity"], identity):
            return self.folder
        return self.folder.with_name(f"{self.folder.name}-{identity_hash(identity)[:12]}")


@dataclass(frozen=True)
class Inside(Place):
    """A folder inside that of another experiment, in which something may stand already."""

    def claimed(self, identity: Mapping[str, Any], others: Mapping[str, Any]) -> Path:
        """The folder, described as that of the experiment. Args and errors as in `Place`."""
        return _claimed(self.folder, identity, others, ours=("run", KERNELS, "values"))


def folder_description(folder: Path, ours: Sequence[str] = ()) -> dict[str, Any] | None:
    """What a folder says of its experiment; None where it is empty or not there yet.

    Args:
        folder: it.
        ours: names that may stand there before anything is said.

    Raises:
        UsageError: it holds something else.
        StorageError: it cannot be read, or is of an older version; the message says what makes it again.
    """
    if not EXPERIMENT.is_in(folder):
        found = strangers_in(folder)
        if _CELL in found:
            return EXPERIMENT.whole(folder, lambda: read_kept(folder / _CELL))
        command = command_of(folder)
        if command is not None or _EXAMPLES in found:
            words = ["foretune", str(command), "--config", str(folder / SETTINGS)]
            again = "the command that made it" if command is None else f"`{shlex.join(words)} --out NEW`"
            raise StorageError(
                f"{folder} has no {EXPERIMENT.file}: it was made by an older version of foretune, or the file was lost. "
                f"Repeat {again} in a new folder."
            )
    return EXPERIMENT.described(folder, ours)


def command_of(folder: Path) -> str | None:
    """The name of the command that made a folder, by the first line of its settings; None where that is not known."""
    file = folder / SETTINGS
    try:
        if not file.is_file():  # opening a pipe waits for somebody who writes
            return None
        with file.open(encoding="utf-8") as opened:
            first = opened.readline(200)
    except (OSError, UnicodeDecodeError):
        return None
    if not first.startswith(_COMMAND):
        return None
    return first.removeprefix(_COMMAND).split()[0]


def _claimed(folder: Path, identity: Mapping[str, Any], others: Mapping[str, Any], ours: Sequence[str] = ()) -> Path:
    if not _agrees(folder, identity, ours):
        with held(folder, wait=WAIT):
            if not _agrees(folder, identity, ours):  # else another process described it, since
                EXPERIMENT.describe(folder, identity, others)
    for place in (folder, folder / "values", folder / KERNELS):
        sweep(place)
    return folder


def _agrees(folder: Path, identity: Mapping[str, Any], ours: Sequence[str]) -> bool:
    """Whether a folder is described as that of the experiment.

    Raises:
        UsageError, StorageError: as in `folder_description`; or it holds another experiment.
    """
    before = folder_description(folder, ours)
    if before is not None:
        EXPERIMENT.refuse_other(folder, before["identity"], identity)
    return (folder / EXPERIMENT.file).exists()
