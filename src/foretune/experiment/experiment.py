"""An experiment: a model that is asked a task on a sample, with a folder that keeps what was computed.

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

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import NonFiniteError, StorageError
from foretune.experiment.data import Drawn, drawn
from foretune.experiment.function import asked_outputs, probed, with_weights
from foretune.experiment.inputs import Inputs, forecast_inputs
from foretune.experiment.outcome import FORMAT, Outcome, kept_outcome, outcome_of
from foretune.experiment.setting import Setting
from foretune.finetune.data import split_identity
from foretune.finetune.methods import Method
from foretune.finetune.run import Run
from foretune.finetune.search import Search, best_of
from foretune.finetune.training import Training
from foretune.finetune.warm_up import Warmed, warm_up_training, warmed_outputs
from foretune.kernels.block_kernel import BlockKernel, Pattern
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import joint_job
from foretune.model.fingerprint import outputs_identity
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel, load_model
from foretune.model.outputs import Outputs
from foretune.progress import Progress, Stages
from foretune.shapes import Int
from foretune.store.atomic import moving, names_in
from foretune.store.kept import DamagedError, identity_hash, read_kept, write_kept
from foretune.store.lock import held
from foretune.store.tensors import read_tensors, write_tensors
from foretune.store.workspace import sweep
from foretune.text.account import Account
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task

_WAIT = 60.0


@dataclass
class Work:
    """How the work is done, which no number depends on.

    Attributes:
        memory: budget of kernels above the model's own memory.
        progress: called as the work goes on.
        stages: seconds and memory of what was done.
    """

    memory: str = "2GiB"
    progress: Progress | None = None
    stages: Stages = field(default_factory=Stages)


Model = LanguageModel | str | Callable[[], LanguageModel]
"""A language model, its name, or what makes it."""


@dataclass(frozen=True)
class Experiment:
    """A model that is asked a task on a sample.

    Attributes:
        setting: what was asked for.
        outputs: the model as a function.
        task, split: the data.
        account: what was read, and what became of it.
        folder: where results are kept; None where nothing is.
        work: how the work is done.
    """

    setting: Setting
    outputs: Outputs
    task: Task
    split: Split
    account: Account
    folder: Path | None = None
    work: Work = field(default_factory=Work)

    @cached_property
    def identity(self) -> dict[str, object]:
        """Everything that determines the results of the experiment, but for what is computed."""
        return {**outputs_identity(self.outputs), **split_identity(self.task, self.split)}

    def labels(self, part: str) -> Int[np.ndarray, "n"]:
        """The class numbers of `train`, `validation` or `test`."""
        return np.array(self.task.targets(getattr(self.split, part)), dtype=int)

    @cached_property
    def inputs(self) -> Inputs:
        """Labels, pretrained outputs and features of all examples."""
        report = self.work.progress or (lambda *_: None)
        return forecast_inputs(
            self.outputs, self.task, self.split, done=lambda done, total: report("pretrained outputs", done, total)
        )

    @property
    def examples(self) -> tuple[list[Example], list[Example]]:
        """Training examples, and those of validation and test together."""
        return self.split.train, [*self.split.validation, *self.split.test]

    def kernels(
        self, formulas: Sequence[Formula], parts: Sequence[str] = ("validation", "test"), blocks: Pattern | None = None
    ) -> dict[str, BlockKernel]:
        """Kernels by label: train x (train, then the examples of `parts`)."""
        evaluation = [example for part in parts for example in getattr(self.split, part)]
        job = joint_job(self.outputs, self.split.train, evaluation, blocks)
        chosen = [] if blocks is None else [identity_hash({"blocks": list(job.kinds)})[:12]]
        where = self._below("kernels", "-".join(parts), *chosen)
        return kernels_of(job, formulas, self.work.memory, where, self.work.progress)

    def run(self, method: Method, grid: Sequence[Training]) -> Run:
        """The best run of a grid, with its model.

        Raises:
            NonFiniteError: the loss became infinite or undefined at every point.
        """
        return self._search(method, grid).best

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
            key: what determines it besides the experiment.
            compute: makes it, as plain values that JSON holds.
        """
        file = self._below("values", f"{name}.json")
        if file is None:
            return json.loads(json.dumps(compute()))
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

    def warmed(self, steps: int) -> Experiment:
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
        folder = self._warm_up_folder(steps)
        out = None if folder is None else folder / "run"
        return warmed_outputs(self.outputs, self.task, self.split, steps, out=out, progress=self.work.progress)

    def _warm_up_folder(self, steps: int) -> Path | None:
        key = identity_hash({"training": repr(warm_up_training(steps))})
        return self._below("warm-up", f"{steps}-{key[:12]}")

    def _search(self, method: Method, grid: Sequence[Training]) -> Search:
        folder = self._below("runs", _run_name(method, grid))
        return best_of(self.outputs, self.task, self.split, method, grid, folder, self.work.progress)

    def _outcome(self, method: Method, grid: Sequence[Training]) -> Outcome:
        try:
            search = self._search(method, grid)
        except NonFiniteError as error:
            return Outcome(failure=str(error))
        return outcome_of(search, self.labels("test"))

    def _below(self, *names: str) -> Path | None:
        """A place in its folder, if it has one."""
        return None if self.folder is None else self.folder.joinpath(*names)


def load_experiment(
    setting: Setting, model: Model, root: Path | None = None, work: Work | None = None, found: Drawn | None = None
) -> Experiment:
    """The experiment of a setting: its rows are read first, then the model is loaded and asked.

    Args:
        setting: what is asked for.
        model: a loaded model, what `load_model` takes, or what makes one when the rows are read.
        root: a folder for all experiments with the model; nothing is kept without one.
        work: memory, and whom to tell how far the work is.
        found: what `drawn(setting)` has read already.

    Raises:
        UsageError, DataError, ModelError: data that cannot be used, or a model that does not fit the task.
        StorageError: what was kept cannot be read.
    """
    work = work or Work()
    if found is None:
        with work.stages.stage("read the data"):
            found = drawn(setting)
    with work.stages.stage("load the model"):
        lm = model if isinstance(model, LanguageModel) else model() if callable(model) else load_model(model)
    with work.stages.stage("prompt or head"):
        outputs = asked_outputs(setting.question, lm, found.task, setting.seed)
        # a head's weights are no part of it: those of a probed one follow from the rest up to rounding, and are kept
        identity = {**outputs_identity(outputs, lm.module.state_dict()), **split_identity(found.task, found.split)}
        folder = None if root is None else _own_folder(root / setting.folder(found.task.name), identity)
        if isinstance(outputs, HeadLogits) and setting.question.head == "probe":
            outputs = _probed(outputs, found, folder)
    return Experiment(setting, outputs, found.task, found.split, found.account, folder, work)


def _probed(head: HeadLogits, found: Drawn, folder: Path | None) -> HeadLogits:
    """The outputs with the head of linear probing: the one that was kept, so that other threads find the same."""
    if folder is None:
        return probed(head, found.task, found.split)
    file = folder / "head.safetensors"
    if not file.exists():
        layer = probed(head, found.task, found.split).module.output_layer
        with held(folder, wait=_WAIT):
            if not file.exists():  # by another process, since
                write_tensors(file, {"weight": layer.weight, "bias": layer.bias})
    try:
        kept = read_tensors(file)
    except DamagedError as error:
        raise error.with_remedy(_delete(folder)) from error
    return with_weights(head, kept["weight"], kept["bias"])


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
    return f"Move that folder and repeat the command that made it: {moving(folder)}"


def _run_name(method: Method, grid: Sequence[Training]) -> str:
    optimisers = "-".join(dict.fromkeys(training.optimiser.name for training in grid))
    key = identity_hash({"method": repr(method), "grid": [repr(training) for training in grid]})
    return f"{method.label}-{optimisers}-{key[:12]}"
