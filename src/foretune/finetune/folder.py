"""Run folders: readable settings, one line an evaluation, the best parameters, and what resumes a killed run.

    run.json                     everything that determines the run, with its hash
    log.jsonl                    one line an evaluation
    best/parameters.safetensors  the trained parameters of the best checkpoint, with its step
    checkpoints/                 of an unfinished run: parameters, optimiser, random numbers, place in the data
    result.json, test.npy        of a finished run: scores and settings found, and test logits (m, c)
    failure.json                 of a run whose loss became infinite or undefined: why; it is not trained again

A checkpoint counts when its last file, a mark, is there and every file fits the checksum in it, with the log so far; the
checkpoint before is kept until the next is complete. Its first file signs it as one of foretune's: only what is signed is
ever deleted. One process at a time writes to a run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foretune.errors import StorageError
from foretune.finetune.history import LINE_START, Evaluation
from foretune.store.arrays import read_array, write_array
from foretune.store.atomic import append_line, force_to_disk, library_writes, move_command, names_in, write_text
from foretune.store.kept import (
    DamagedError,
    FolderKind,
    checksum,
    file_checksum,
    identity_hash,
    read_kept,
    refuse_streams,
    whole,
    write_kept,
)
from foretune.store.lock import held
from foretune.store.tensors import read_tensors, write_tensors
from foretune.store.workspace import remove_folder, sweep_tree

RUN = FolderKind("run", "run.json", 2, "Repeat the command that made it in a new folder.")
_MARK, _SIGN = "complete", "begun"
_PART = re.compile(r"probing|tuning|point-\d+|[a-z-]+-[0-9a-f]{12}")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

FIRST_STAGE, SECOND_STAGE = "probing", "tuning"
"""Folders inside that of a run which trains the head first."""
_RESULT, _FAILURE = "result.json", "failure.json"


def main_process() -> bool:
    """Whether this process writes: the first of those that train together."""
    return int(os.environ.get("RANK", "0")) == 0


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder.
        identity: everything that determines the run.

    Raises:
        UsageError: the folder holds another run, or is something else.
        StorageError: it cannot be written, or is damaged.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path = path
        self._identity, self._hash = dict(identity), identity_hash(identity)
        self._refuse_other()
        if self.finished and main_process():  # killed between its last file and here
            self._tidy()

    def _refuse_other(self) -> None:
        before = RUN.described(self.path, () if main_process() else names_in(self.path))
        if before is not None:
            RUN.refuse_other(self.path, before["identity"], self._identity)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The right to write to the folder, for the length of the block; what killed runs left there is removed.

        Raises:
            UsageError: another process has begun another run here.
            StorageError: another process is writing here, or nothing can be written.
        """
        if not main_process():
            yield
            return
        with held(self.path):
            self._refuse_other()
            if not (self.path / RUN.file).exists():
                RUN.describe(self.path, self._identity, {})
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Remove what killed runs left."""
        sweep_tree(self.path)
        if self.finished:
            self._drop_checkpoints()

    @property
    def checkpoints(self) -> Path:
        """Where the trainer writes what a killed run needs."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / _RESULT).exists()

    def resumable(self) -> Path | None:
        """The last checkpoint that is complete and whole, or None; others are deleted, and the log ends with it.

        Raises:
            StorageError: something else stands under the name of a checkpoint, where it would be overwritten.
        """
        found = sorted(self._checkpoints(), key=_step)
        for folder in found:
            if not _is_ours(folder):
                raise StorageError(
                    f"{folder} is not a checkpoint that foretune wrote, and would be overwritten. Move it: "
                    f"{move_command(folder)}"
                )
        last = next((folder for folder in reversed(found) if self._is_whole(folder)), None)
        if not main_process():
            return last
        if last is None and any((folder / _MARK).exists() for folder in found):
            warnings.warn(f"No checkpoint in {self.path} is complete, so the run starts again.", stacklevel=2)
        for folder in found:
            if last is None or _step(folder) > _step(last):
                remove_folder(folder)
        if (self.path / "log.jsonl").exists():
            write_text(self.path / "log.jsonl", "".join(self._lines(-1 if last is None else _step(last))))
        return last

    def _is_whole(self, folder: Path) -> bool:
        """Whether a checkpoint is what was written, with the log and the best parameters that belong to it."""
        mark = folder / _MARK
        if not mark.exists():
            return False
        try:
            kept, found = read_kept(mark), whole(folder, lambda: _file_checksums(folder))
            for name in sorted({*kept["files"], *found}):
                if found.get(name) != kept["files"].get(name):
                    raise DamagedError(folder / name, "it is not the file that was written")
            if self._log_checksum(_step(folder)) != kept["log"]:
                raise DamagedError(self.path / "log.jsonl", f"it is not what was written up to step {_step(folder)}")
            read_tensors(self._best)
        except DamagedError as error:
            warnings.warn(f"{error} The run does not go on from {folder.name}.", stacklevel=3)
            return False
        return True

    def _checkpoints(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [folder for folder in self.checkpoints.iterdir() if _CHECKPOINT.fullmatch(folder.name)]
        return []

    def _drop_checkpoints(self) -> None:
        for folder in self._checkpoints():
            if _is_ours(folder):
                remove_folder(folder)
            else:
                warnings.warn(f"{folder} is not a checkpoint that foretune wrote, and stays.", stacklevel=4)
        with contextlib.suppress(OSError):
            self.checkpoints.rmdir()

    def sign(self, step: int) -> None:
        """Begin the checkpoint of a step, before the trainer writes to it.

        Raises:
            StorageError: the folder cannot be written.
        """
        folder = self.checkpoints / f"checkpoint-{step}"
        with library_writes(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_kept(folder / _SIGN, {"run": self._hash})

    def mark(self, step: int) -> None:
        """Say that the checkpoint of a step is complete, and what is in it.

        Raises:
            StorageError: the folder cannot be written.
        """
        folder = self.checkpoints / f"checkpoint-{step}"
        with library_writes(folder):
            for file in folder.rglob("*"):
                force_to_disk(file)
            sums = _file_checksums(folder)
        write_kept(folder / _MARK, {"files": sums, "log": self._log_checksum(step)})

    def history(self) -> list[Evaluation]:
        """The evaluations so far; a last line that a kill cut short is left out.

        Raises:
            StorageError: the log is damaged.
        """
        return RUN.whole(self.path, lambda: [_evaluation(self._log, line) for line in self._lines()])

    @property
    def _log(self) -> Path:
        return self.path / "log.jsonl"

    def _lines(self, up_to: int | None = None) -> list[str]:
        """The whole lines of the log, up to a step.

        Raises:
            DamagedError: they cannot be read.
        """
        if not self._log.exists():
            return []
        refuse_streams(self._log)
        text = whole(self._log, lambda: self._log.read_text(encoding="utf-8"))
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        last = text.rpartition("\n")[2]  # of a kill while it was written, or somebody else's
        if last[: len(LINE_START)] != LINE_START[: len(last)]:
            raise DamagedError(self._log, f"its last line is not an evaluation: {last[:40]!r}")
        if up_to is None:
            return lines
        return [line for line in lines if _evaluation(self._log, line).step <= up_to]

    def _log_checksum(self, step: int) -> str:
        return checksum("".join(self._lines(step)).encode())

    def log(self, evaluation: Evaluation) -> None:
        """Add one evaluation.

        Raises:
            StorageError: the folder cannot be written.
        """
        append_line(self._log, evaluation.json())

    @property
    def _best(self) -> Path:
        return self.path / "best" / "parameters.safetensors"

    def write_best(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Write the parameters of the best checkpoint.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_tensors(self._best, parameters, step=str(step))

    def best(self) -> dict[str, Tensor]:
        """The parameters of the best checkpoint.

        Raises:
            StorageError: the file is missing or damaged.
        """
        return RUN.whole(self.path, lambda: read_tensors(self._best))

    def finish(self, result: Mapping[str, object], test_logits: np.ndarray) -> None:
        """Write what came of the run and drop its checkpoints.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_array(self.path / "test.npy", test_logits, self._hash)
        write_kept(self.path / _RESULT, {**result, "log": checksum("".join(self._lines()).encode())})
        self._drop_checkpoints()

    def fail(self, why: str) -> None:
        """Write why the run failed, and drop its checkpoints.

        Raises:
            StorageError: the folder cannot be written.
        """
        if main_process():
            write_kept(self.path / _FAILURE, {"failure": why})
            self._drop_checkpoints()

    @property
    def failure(self) -> str | None:
        """Why the run failed; None where it did not.

        Raises:
            StorageError: the file that says it is damaged.
        """
        file = self.path / _FAILURE
        return RUN.whole(self.path, lambda: read_kept(file)["failure"]) if file.exists() else None

    def result(self) -> tuple[dict[str, Any], np.ndarray]:
        """What a finished run wrote.

        Raises:
            StorageError: a file of it is missing or damaged.
        """

        def read() -> tuple[dict[str, Any], np.ndarray]:
            result = read_kept(self.path / _RESULT)
            if checksum("".join(self._lines()).encode()) != result["log"]:
                raise DamagedError(self._log, "its checksum does not fit its values")
            return result, read_array(self.path / "test.npy", self._hash)

        return RUN.whole(self.path, read)


def is_finished_run(path: Path) -> bool:
    """Whether a folder holds a run, of one stage or of two, that came to its end or failed."""
    return end_of_run(path) is not None


def end_of_run(path: Path) -> Path | None:
    """The file that says how a run ended, of one stage or of two; None where it did not end."""
    ends = [path / _RESULT, path / _FAILURE, path / SECOND_STAGE / _RESULT, path / SECOND_STAGE / _FAILURE]
    return next((file for file in (*ends, path / FIRST_STAGE / _FAILURE) if file.exists()), None)


def refuse_foreign_run(path: Path) -> None:
    """See that a folder is new, empty, or one of runs that were begun: of one, of two stages, of a grid, or of several.

    Raises:
        UsageError: it holds something else.
        StorageError: it is a file, or cannot be read.
    """
    found = names_in(path)
    if RUN.file in found:
        return
    parts = [name for name in found if _PART.fullmatch(name) and (path / name).is_dir()]
    RUN.described(path, parts)
    for name in parts:
        refuse_foreign_run(path / name)


def _is_ours(checkpoint: Path) -> bool:
    """Whether foretune made the folder of a checkpoint: it is signed, or empty."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        return False
    for name in (_SIGN, _MARK):
        with contextlib.suppress(DamagedError):
            read_kept(checkpoint / name)
            return True
    return not names_in(checkpoint)


def _file_checksums(folder: Path) -> dict[str, str]:
    """Of every file in a checkpoint but its mark, by name."""
    files = [file for file in folder.rglob("*") if file.is_file() and file != folder / _MARK]
    return {str(file.relative_to(folder)): file_checksum(file) for file in files}


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _evaluation(file: Path, line: str) -> Evaluation:
    try:
        return Evaluation(**json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(file, f"a line is not an evaluation: {line.strip()[:40]!r}") from error
