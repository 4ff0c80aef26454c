"""Run folders: readable settings, one line an evaluation, the best parameters, and what resumes a killed run.

    run.json                     everything that determines the run, with its hash
    log.jsonl                    one line an evaluation
    best/parameters.safetensors  the trained parameters of the best checkpoint, with its step
    checkpoints/                 of an unfinished run: parameters, optimiser, random numbers, place in the data
    result.json, test.npy        of a finished run: scores and settings found, and test logits (m, c)

A checkpoint counts when its last file, a mark, is there, and one complete checkpoint is kept while the next is written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foretune.errors import StorageError, UsageError
from foretune.finetune.history import Evaluation
from foretune.kernels.folder import identity_difference, identity_hash
from foretune.store.atomic import remove_folder, replacing, write_text

_FORMAT = 1
_MARK = "complete"


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
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path = path
        now = {"format": _FORMAT, "hash": identity_hash(identity), "identity": dict(identity)}
        file = path / "run.json"
        if file.exists():
            _refuse_other(path, json.loads(file.read_text(encoding="utf-8")), now)
        elif main_process():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UsageError(f"{path} exists and is no run folder. Choose an empty or new folder.")
            write_text(file, json.dumps(now, indent=1, default=str) + "\n")

    @property
    def checkpoints(self) -> Path:
        """Where the trainer writes what a killed run needs."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "result.json").exists()

    def resumable(self) -> Path | None:
        """The last complete checkpoint, or None; incomplete ones are deleted, and the log ends with it."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=_step)
        complete = [folder for folder in found if (folder / _MARK).exists()]
        last = complete[-1] if complete else None
        if main_process():
            for folder in found:
                if folder not in complete:
                    shutil.rmtree(folder)
            kept = [line for line in self.history() if last is not None and line.step <= _step(last)]
            if self.history():
                write_text(self.path / "log.jsonl", "".join(line.json() + "\n" for line in kept))
        return last

    def mark(self, step: int) -> None:
        """Say that the checkpoint of a step is complete."""
        write_text(self.checkpoints / f"checkpoint-{step}" / _MARK, "")

    def history(self) -> list[Evaluation]:
        """The evaluations so far; a last line that a kill cut short is left out."""
        file = self.path / "log.jsonl"
        if not file.exists():
            return []
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        return [Evaluation(**json.loads(line)) for line in lines]

    def log(self, evaluation: Evaluation) -> None:
        """Add one evaluation."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(evaluation.json() + "\n")

    def write_best(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Write the parameters of the best checkpoint.

        Raises:
            StorageError: the folder cannot be written.
        """
        from safetensors.torch import save_file

        with replacing(self.path / "best" / "parameters.safetensors") as temporary:
            save_file(dict(parameters), temporary, metadata={"format": "pt", "step": str(step)})

    def best(self) -> dict[str, Tensor]:
        """The parameters of the best checkpoint.

        Raises:
            StorageError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path / "best" / "parameters.safetensors")
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{self.path} is damaged: {error}. Delete it and run again.") from error

    def finish(self, result: Mapping[str, object], test_logits: np.ndarray) -> None:
        """Write what came of the run and drop its checkpoints.

        Raises:
            StorageError: the folder cannot be written.
        """
        with replacing(self.path / "test.npy") as temporary, temporary.open("wb") as file:
            np.save(file, test_logits, allow_pickle=False)
        write_text(self.path / "result.json", json.dumps(result, indent=1) + "\n")
        remove_folder(self.checkpoints)

    def result(self) -> tuple[dict[str, Any], np.ndarray]:
        """What a finished run wrote.

        Raises:
            StorageError: a file of it is missing or damaged.
        """
        try:
            result = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
            return result, np.load(self.path / "test.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.path} is damaged: {error}. Delete it and run again.") from error


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _refuse_other(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before["hash"] == now["hash"]:
        return
    differing = identity_difference(before["identity"], now["identity"])
    raise UsageError(
        f"{path} holds another run: it differs in {', '.join(differing) or 'its format'}. Choose another folder, or "
        "delete this one."
    )
