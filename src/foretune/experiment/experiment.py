"""One cell of a study: a setting with its model and data, and a folder that keeps what was computed there.

    cell.json          the model and the data that everything here is of
    head.safetensors   a head that starts from the linear-probing solution
    kernels/LABEL/     joint kernels (foretune.kernels.folder)
    runs/NAME/         grids of fine-tuning runs (foretune.finetune)
    values/NAME.json   everything else that takes long, each with a hash of what determines it
    warm-up/NAME/      the model after a few steps (run/), with kernels of its own

What is there already is read, not computed again; a changed model, data set or setting is computed anew, in a folder
beside the one that holds the results of another model or other data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import NonFiniteError, StorageError
from foretune.experiment.heads import probed_head
from foretune.experiment.inputs import Inputs, forecast_inputs
from foretune.experiment.outcome import FORMAT, Outcome, kept_outcome, outcome_of
from foretune.experiment.setting import Setting, sampled_data
from foretune.finetune.data import split_identity
from foretune.finetune.methods import Method
from foretune.finetune.run import Run
from foretune.finetune.search import best_of
from foretune.finetune.training import Training
from foretune.finetune.warm_up import Warmed, warm_up_training, warmed_outputs
from foretune.kernels.block_kernel import BlockKernel, Pattern
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import joint_job
from foretune.model.answer import AnswerLogits
from foretune.model.fingerprint import outputs_identity
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel
from foretune.model.outputs import Outputs
from foretune.progress import Progress
from foretune.shapes import Int
from foretune.store.atomic import names_in
from foretune.store.kept import DamagedError, identity_hash, read_kept, write_kept
from foretune.store.lock import held
from foretune.store.tensors import read_tensors, write_tensors
from foretune.store.workspace import sweep
from foretune.text.split import Split
from foretune.text.task import Task

_WAIT = 60.0


@dataclass(frozen=True)
class Cell:
    """A setting with its model and data.

    Attributes:
        setting: what was asked for.
        outputs: the model as a function.
        task, split: the data.
        folder: where results are kept.
        memory: budget of kernels above the model's own memory.
        progress: called as the work goes on.
    """

    setting: Setting
    outputs: Outputs
    task: Task
    split: Split
    folder: Path
    memory: str = "2GiB"
    progress: Progress | None = None

    @cached_property
    def identity(self) -> dict[str, object]:
        """Everything that determines the results of the cell, but for what is computed."""
        return {**outputs_identity(self.outputs), **split_identity(self.task, self.split)}

    def labels(self, part: str) -> Int[np.ndarray, "n"]:
        """The class numbers of `train`, `validation` or `test`."""
        return np.array(self.task.targets(getattr(self.split, part)), dtype=int)

    @cached_property
    def inputs(self) -> Inputs:
        """Labels, pretrained outputs and features of all examples."""
        report = self.progress or (lambda *_: None)
        return forecast_inputs(
            self.outputs, self.task, self.split, done=lambda done, total: report("pretrained outputs", done, total)
        )

    def kernels(
        self, formulas: Sequence[Formula], parts: Sequence[str] = ("validation", "test"), blocks: Pattern | None = None
    ) -> dict[str, BlockKernel]:
        """Kernels by label: train x (train, then the examples of `parts`)."""
        evaluation = [example for part in parts for example in getattr(self.split, part)]
        job = joint_job(self.outputs, self.split.train, evaluation, blocks)
        where = self.folder / "kernels" / "-".join(parts)
        if blocks is not None:
            where /= identity_hash({"blocks": list(job.kinds)})[:12]
        return kernels_of(job, formulas, self.memory, where, self.progress)

    def run(self, method: Method, grid: Sequence[Training]) -> Run:
        """The best run of a grid, with its model.

        Raises:
            NonFiniteError: the loss became infinite or undefined at every point.
        """
        folder = self.folder / "runs" / _run_name(method, grid)
        return best_of(self.outputs, self.task, self.split, method, grid, folder, self.progress).best

    def outcome(self, method: Method, grid: Sequence[Training]) -> Outcome:
        """What the best run of a grid reached; without its model, so that a finished one is read at once."""
        key = {"method": repr(method), "grid": [repr(training) for training in grid], "format": FORMAT}
        return kept_outcome(
            self.value(f"run-{_run_name(method, grid)}", key, lambda: asdict(self._outcome(method, grid)))
        )

    def value(
        self, name: str, key: Mapping[str, object], compute: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """A result that is kept: read, or computed and written.

        Args:
            name: of its file.
            key: what determines it besides the cell.
            compute: makes it, as plain values that JSON holds.
        """
        file = self.folder / "values" / f"{name}.json"
        wanted = identity_hash({**self.identity, **key})
        if file.exists():
            try:
                kept = read_kept(file)
                if kept["hash"] == wanted:
                    return kept["value"]
            except DamagedError as error:
                warnings.warn(f"{error} It is made again.", stacklevel=2)
        write_kept(file, {"hash": wanted, "key": key, "value": compute()})
        return read_kept(file)["value"]

    def warmed(self, steps: int) -> Cell:
        """The same with the model after a warm-up (`warmed_outputs`), in a folder inside this one.

        The warmed model is kept and read: made again with other threads it would differ in its last digits, and its
        kernels' folders would be refused.

        Raises:
            UsageError: steps below one, or a model in half precision.
            NonFiniteError: the loss became infinite or undefined.
        """
        return replace(self, outputs=self._warm_up(steps).outputs, folder=self._warm_up_folder(steps))

    def warm_up_seconds(self, steps: int) -> float:
        """What a warm-up cost when it was made. Raises as `warmed` does."""
        key = {"warm_up": repr(warm_up_training(steps))}
        return self.value(f"warm-up-{steps}", key, lambda: {"seconds": self._warm_up(steps).seconds})["seconds"]

    def _warm_up(self, steps: int) -> Warmed:
        out = self._warm_up_folder(steps) / "run"
        return warmed_outputs(self.outputs, self.task, self.split, steps, out=out, progress=self.progress)

    def _warm_up_folder(self, steps: int) -> Path:
        key = identity_hash({"training": repr(warm_up_training(steps))})
        return self.folder / "warm-up" / f"{steps}-{key[:12]}"

    def _outcome(self, method: Method, grid: Sequence[Training]) -> Outcome:
        folder = self.folder / "runs" / _run_name(method, grid)
        try:
            search = best_of(self.outputs, self.task, self.split, method, grid, folder, self.progress)
        except NonFiniteError as error:
            return Outcome(failure=str(error))
        return outcome_of(search, self.labels("test"))


def made_cell(
    setting: Setting,
    lm: LanguageModel,
    data: Path | None,
    root: Path,
    memory: str = "2GiB",
    progress: Progress | None = None,
) -> Cell:
    """The cell of a setting.

    Args:
        setting: what is asked for.
        lm: the model.
        data: see `sampled_data`.
        root: where all cells of the model are kept.
        memory: budget of kernels.
        progress: called as the work goes on.

    Raises:
        UsageError, DataError, ModelError: data that cannot be used, or a model that does not fit the task.
        StorageError: a head that was kept cannot be read.
    """
    task, split = sampled_data(setting, data)
    outputs = _outputs(setting, lm, task)
    # a head's weights are no part of it: those of a probed one follow from the rest up to rounding, and are kept
    identity = outputs_identity(outputs, lm.module.state_dict())
    folder = _own_folder(root / setting.folder, {**identity, **split_identity(task, split)})
    if isinstance(outputs, HeadLogits) and setting.output == "probed head":
        outputs = _probed(outputs, task, split, folder / "head.safetensors")
    return Cell(setting, outputs, task, split, folder, memory, progress)


def checked_outputs(setting: Setting, lm: LanguageModel, data: Path | None) -> Outputs:
    """The outputs of a setting that has its data, its prompt and words that the model knows; no cell is made.

    Raises:
        UsageError, DataError, ModelError: data that cannot be used, or a model that does not fit the task.
    """
    task, _ = sampled_data(setting, data)
    return _outputs(setting, lm, task)


def _outputs(setting: Setting, lm: LanguageModel, task: Task) -> Outputs:
    if setting.output == "prompt":
        return AnswerLogits(lm, task, first_piece=setting.first_piece)
    pooling, seed = (
        "last" if lm.kind == "causal" else setting.pooling,
        0 if setting.output == "probed head" else setting.seed,
    )
    return HeadLogits(lm, len(task.labels), pooling, seed=seed, max_length=task.max_length)


def _probed(outputs: HeadLogits, task: Task, split: Split, file: Path) -> HeadLogits:
    """The outputs with the head of linear probing: the one that was kept, so that other threads find the same."""
    if not file.exists():
        head = probed_head(outputs.lm, task, split, outputs.pooling, max_length=task.max_length).module.output_layer
        with held(file.parent, wait=_WAIT):
            if not file.exists():  # by another process, since
                write_tensors(file, {"weight": head.weight, "bias": head.bias})
    try:
        kept = read_tensors(file)
    except DamagedError as error:
        raise error.with_remedy(_delete(file.parent)) from error
    return HeadLogits(
        outputs.lm,
        len(task.labels),
        outputs.pooling,
        weight=kept["weight"],
        bias=kept["bias"],
        max_length=task.max_length,
    )


def _own_folder(folder: Path, identity: Mapping[str, object]) -> Path:
    """The folder, or one beside it where it holds the results of another model or other data."""
    file, wanted = folder / "cell.json", identity_hash(identity)
    if not file.exists():
        with held(folder, wait=_WAIT):
            if not file.exists():  # else another process made it, since
                _refuse_foreign(folder)
                write_kept(file, {"hash": wanted, "identity": identity})
    for place in (folder, folder / "values"):
        sweep(place)
    try:
        kept = read_kept(file)
    except DamagedError as error:
        raise error.with_remedy(_delete(folder)) from error
    if kept["hash"] != wanted:
        return _own_folder(folder.with_name(f"{folder.name}-{wanted[:12]}"), identity)
    return folder


def _refuse_foreign(folder: Path) -> None:
    found = names_in(folder)
    if found:
        raise StorageError(f"{folder} has no cell.json but holds {found[0]!r}. {_delete(folder)}")


def _delete(folder: Path) -> str:
    return f"Move or delete the folder {folder} and repeat the command that made it."


def _run_name(method: Method, grid: Sequence[Training]) -> str:
    optimisers = "-".join(dict.fromkeys(training.optimiser.name for training in grid))
    key = identity_hash({"method": repr(method), "grid": [repr(training) for training in grid]})
    return f"{method.label}-{optimisers}-{key[:12]}"
