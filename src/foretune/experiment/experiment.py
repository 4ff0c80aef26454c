"""An experiment: a model that is asked a task on a sample, with a folder that keeps what was computed of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foretune.errors import NonFiniteError
from foretune.experiment.data import Drawn, drawn
from foretune.experiment.folder import EXPERIMENT, KERNELS, RUNS, SEEN, WAIT, Inside, Place
from foretune.experiment.function import asked_outputs, probed, with_weights
from foretune.experiment.inputs import Inputs, forecast_inputs
from foretune.experiment.outcome import FORMAT, Outcome, kept_outcome, outcome_of
from foretune.experiment.setting import Setting
from foretune.finetune.data import split_identity
from foretune.finetune.methods import Method
from foretune.finetune.run import Run
from foretune.finetune.search import GridResult, best_of, finished_points, trained_point, unfinished_points
from foretune.finetune.training import Training
from foretune.finetune.warm_up import Warmed, warm_up_training, warmed_outputs
from foretune.kernels.block_kernel import BlockKernel, Pattern
from foretune.kernels.compute import kernels_of
from foretune.kernels.feature_pass import tangent_features
from foretune.kernels.features import TangentFeatures
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.kernels.sketch import Sketch
from foretune.model.fingerprint import outputs_identity
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel, load_model
from foretune.model.outputs import Outputs
from foretune.model.readings import Readings
from foretune.progress import Progress, Stages
from foretune.shapes import Int
from foretune.store.kept import identity_hash, kept_value, value_in
from foretune.store.lock import held
from foretune.store.tensors import read_tensors, write_tensors
from foretune.store.version import VERSION
from foretune.text.account import Account
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task
from foretune.work.crew import Crew


@dataclass
class Work:
    """How the work is done, which no number depends on.

    Attributes:
        memory: budget of kernels above the model's own memory.
        progress: called as the work goes on.
        stages: seconds and memory of what was done.
        callbacks: callbacks of `transformers.Trainer`, for every run.
        crew: who computes the kernels of a command in parts.
    """

    memory: str = "2GiB"
    progress: Progress | None = None
    stages: Stages = field(default_factory=Stages)
    callbacks: tuple[Any, ...] = ()
    crew: Crew | None = None


EVALUATION = ("validation", "test")
"""The parts of a split that no model is trained on."""
Model = LanguageModel | str | Callable[[], LanguageModel]
"""A language model, its name, or what makes it."""


@dataclass(frozen=True)
class Experiment:
    """A model that is asked a task on a sample.

    Attributes:
        setting: what was asked for.
        outputs: the model as a function.
        task, split: the task and its examples.
        account: what was read, and what became of it.
        origins: example -> its file, and its place there from 0.
        folder: where results are kept; None where nothing is.
        work: how the work is done.
        warm_up: steps that the model was trained before.
        known: what the model has said of some examples before.
    """

    setting: Setting
    outputs: Outputs
    task: Task
    split: Split
    account: Account
    origins: Mapping[Example, tuple[str, int]]
    folder: Path | None = None
    work: Work = field(default_factory=Work)
    warm_up: int = 0
    known: Readings | None = field(default=None, repr=False, compare=False)

    @cached_property
    def readings(self) -> Readings:
        """What the model says of examples, from whatever pass they have gone through."""
        return Readings(self.outputs) if self.known is None else self.known.under(self.outputs)

    @cached_property
    def identity(self) -> dict[str, object]:
        """Everything that determines its results, but for what is computed.

        The weights of a head do not belong to it: those of a probed one follow from the rest up to rounding, and are kept.
        """
        weights = self.outputs.lm.module.state_dict()
        return {**outputs_identity(self.outputs, weights), **split_identity(self.task, self.split)}

    @property
    def description(self) -> dict[str, dict[str, object]]:
        """What is asked and of how many examples, for result files."""
        task, split = self.task, self.split
        return {
            "task": {
                "name": task.name,
                "prompt": task.prompt,
                "labels": list(task.labels),
                "template": task.template,
                "words": dict(task.words),
                "metric": task.metric,
            },
            "outputs": self.outputs.description,
            "sizes": {**split.sizes},
        }

    def kept_in(self, place: Place) -> Experiment:
        """The same in a folder, which is described as its own.

        Raises:
            UsageError: the folder holds another experiment or something else.
            StorageError: it cannot be read or written.
        """
        y = [label for part in ("train", "validation", "test") for label in self.labels(part).tolist()]
        others = {**self.description, "y": y, "kernels": {}, "about": {}, "foretune": VERSION}
        return replace(self, folder=place.claimed(self.identity, others))

    def labels(self, part: str) -> Int[np.ndarray, " n"]:
        """The class numbers of `train`, `validation` or `test`."""
        return np.array(self.task.targets(getattr(self.split, part)), dtype=int)

    @cached_property
    def inputs(self) -> Inputs:
        """Labels, pretrained outputs and features of all examples; after kernels the model runs on no example again."""
        report = self.work.progress or (lambda *_: None)
        return forecast_inputs(
            self.readings,
            self.task,
            self.split,
            lambda done, total: report("pretrained outputs", done, total),
            self._below(SEEN),
        )

    @property
    def examples(self) -> tuple[list[Example], list[Example]]:
        """Training examples, and those of validation and test together."""
        return self.split.train, [*self.split.validation, *self.split.test]

    def kernels(
        self, formulas: Sequence[Formula], parts: Sequence[str] = EVALUATION, blocks: Pattern | None = None
    ) -> dict[str, BlockKernel]:
        """Kernels by label: train x (train, then the examples of `parts`)."""
        job = self.kernel_job(parts, blocks)
        return kernels_of(job, formulas, self.work.memory, self.kernel_place(parts, blocks, job), self.work.progress)

    def features(
        self, formulas: Sequence[Formula], sketch: Sketch, parts: Sequence[str], blocks: Pattern | None = None
    ) -> dict[str, TangentFeatures]:
        """The same, sketched and held as features.

        Args:
            formulas, parts, blocks: see `kernels`.
            sketch: makes the features.
        """
        job, work = self.kernel_job(parts, blocks), self.work
        place = self.features_place(parts, blocks, job, sketch)
        return tangent_features(job, formulas, sketch, work.memory, place, work.progress)

    def features_place(self, parts: Sequence[str], blocks: Pattern | None, job: Job, sketch: Sketch) -> Path | None:
        """Where `features` keeps them."""
        place = self.kernel_place(parts, blocks, job)
        return None if place is None else place / f"features-{identity_hash({'sketch': repr(sketch)})[:12]}"

    def kernel_job(self, parts: Sequence[str], blocks: Pattern | None = None) -> Job:
        """The examples and blocks of `kernels`; its pass keeps what the model says of them."""
        evaluation = [example for part in parts for example in getattr(self.split, part)]
        job = joint_job(self.outputs, self.split.train, evaluation, blocks)
        job.source.readings = self.readings
        return job

    def kernel_place(self, parts: Sequence[str], blocks: Pattern | None, job: Job) -> Path | None:
        """Where `kernels` keeps its kernels, each in a folder of its label."""
        chosen = [] if blocks is None else [identity_hash({"blocks": list(job.kinds)})[:12]]
        return self._below(KERNELS, "-".join(parts), *chosen)

    def run(self, method: Method, grid: Sequence[Training]) -> Run:
        """The best run of a grid, with its model.

        Raises:
            NonFiniteError: the loss became infinite or undefined at every point.
        """
        return self.search(method, grid).best

    def outcome(self, method: Method, grid: Sequence[Training]) -> Outcome:
        """What the best run of a grid reached; without its model, so that a finished one is read at once."""
        name, key = _outcome_place(method, grid)
        return kept_outcome(self.value(name, key, lambda: asdict(self._outcome(method, grid))))

    def finished_runs(self, method: Method, grid: Sequence[Training]) -> int:
        """How many runs of a grid are kept; all of them where their outcome is."""
        if self.kept(*_outcome_place(method, grid)) is not None:
            return len(grid)
        folder = self._below(RUNS, run_name(method, grid))
        return 0 if folder is None else finished_points(folder, len(grid))

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
        return kept_value(file, self.identity, key, compute)

    def kept(self, name: str, key: Mapping[str, object]) -> Mapping[str, Any] | None:
        """A result that was kept before; None where there is none. Args as in `value`."""
        file = self._below("values", f"{name}.json")
        return None if file is None else value_in(file, self.identity, key)

    def search(self, method: Method, grid: Sequence[Training]) -> GridResult:
        """All runs of a grid.

        Raises:
            NonFiniteError: the loss became infinite or undefined at every point.
        """
        folder = self._below(RUNS, run_name(method, grid))
        work = self.work
        return best_of(self.outputs, self.task, self.split, method, grid, folder, work.progress, work.callbacks)

    def trained_point(self, method: Method, grid: Sequence[Training], number: int) -> Path:
        """The file that says how one run of a grid ended, in the folder of the experiment; trained or there already."""
        folder = self._below(RUNS, run_name(method, grid))
        assert folder is not None  # noqa: S101 - only experiments with a folder are carried out in parts
        return trained_point(self.outputs, self.task, self.split, method, grid[number], folder, number)

    def unfinished_runs(self, method: Method, grid: Sequence[Training]) -> list[int]:
        """The numbers of the runs of a grid that are not kept; none where their outcome is."""
        folder = self._below(RUNS, run_name(method, grid))
        if folder is None or self.kept(*_outcome_place(method, grid)) is not None:
            return []
        return unfinished_points(folder, len(grid))

    def warmed(self, steps: int) -> Experiment:
        """The same with the model after a warm-up (`warmed_outputs`), in a folder inside this one.

        The warmed model is kept and read: made again with other threads it would differ in its last digits, and its
        kernels' folders would be refused.

        Raises:
            UsageError: steps below one, or a model in half precision.
            NonFiniteError: the loss became infinite or undefined.
        """
        warm = replace(self, outputs=self._warm_up(steps).outputs, folder=None, warm_up=steps, known=None)
        folder = self._warm_up_folder(steps)
        return warm if folder is None else warm.kept_in(Inside(folder))

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

    def _outcome(self, method: Method, grid: Sequence[Training]) -> Outcome:
        try:
            search = self.search(method, grid)
        except NonFiniteError as error:
            return Outcome(failure=str(error))
        return outcome_of(search, self.labels("test"))

    def place_of(self, name: str) -> Path:
        """The place of a kept value in the folder of the experiment, whether it is there or not."""
        place = self._below("values", name)
        assert place is not None  # noqa: S101 - only experiments with a folder are carried out in parts
        return place

    def _below(self, *names: str) -> Path | None:
        """A place in its folder, if it has one."""
        return None if self.folder is None else self.folder.joinpath(*names)


def load_experiment(
    setting: Setting,
    model: Model,
    place: Path | Place | None = None,
    work: Work | None = None,
    found: Drawn | None = None,
) -> Experiment:
    """The experiment of a setting: its rows are read first, then the model is loaded and asked.

    Args:
        setting: what is asked for.
        model: a loaded model, what `load_model` takes, or what makes one when the rows are read.
        place: the folder that keeps what is computed; nothing is kept without one.
        work: memory, and whom to tell how far the work is.
        found: what `drawn(setting)` has read already.

    Raises:
        UsageError, DataError, ModelError: data that cannot be used, a model that does not fit the task, or a folder that
            holds another experiment.
        StorageError: the folder cannot be read or written.
    """
    work = work or Work()
    if found is None:
        with work.stages.stage("read the data"):
            found = drawn(setting)
    with work.stages.stage("load the model"):
        lm = model if isinstance(model, LanguageModel) else model() if callable(model) else load_model(model)
    with work.stages.stage("prompt or head"):
        made = asked_experiment(setting, lm, work, found)
        if place is not None:
            made = made.kept_in(Place(place) if isinstance(place, Path) else place)
        if isinstance(made.outputs, HeadLogits) and setting.question.head == "probe":
            made = replace(made, outputs=_probed(made.outputs, made), known=made.readings)
    return made


def asked_experiment(setting: Setting, lm: LanguageModel, work: Work, found: Drawn | None = None) -> Experiment:
    """The experiment before anything is computed or kept: no folder, and a head that is not probed yet.

    Args:
        setting, work, found: as in `load_experiment`.
        lm: the model.

    Raises:
        UsageError, DataError, ModelError: as in `load_experiment`.
    """
    found = found or drawn(setting)
    outputs = asked_outputs(setting.question, lm, found.task, setting.seed)
    return Experiment(setting, outputs, found.task, found.split, found.account, found.origins, work=work)


def _probed(head: HeadLogits, made: Experiment) -> HeadLogits:
    """The outputs with the head of linear probing: the one that was kept, so that other threads find the same."""
    folder = made.folder
    if folder is None:
        return probed(head, made.task, made.split, made.readings)
    file = folder / "head.safetensors"
    if not file.exists():
        layer = probed(head, made.task, made.split, made.readings).module.output_layer
        with held(folder, wait=WAIT):
            if not file.exists():  # by another process, since
                write_tensors(file, {"weight": layer.weight, "bias": layer.bias})
    kept = EXPERIMENT.whole(folder, lambda: read_tensors(file))
    return with_weights(head, kept["weight"], kept["bias"])


def run_name(method: Method, grid: Sequence[Training]) -> str:
    """The name of the folder that keeps the runs of a grid."""
    optimisers = "-".join(dict.fromkeys(training.optimiser.name for training in grid))
    return f"{method.label}-{optimisers}-{identity_hash(run_key(method, grid))[:12]}"


def _outcome_place(method: Method, grid: Sequence[Training]) -> tuple[str, dict[str, object]]:
    """The name and the key of an outcome that is kept."""
    return f"run-{run_name(method, grid)}", {**run_key(method, grid), "format": FORMAT}


def run_key(method: Method, grid: Sequence[Training]) -> dict[str, object]:
    """What determines the runs of a grid besides the experiment."""
    return {"method": repr(method), "grid": [training.key for training in grid]}
