"""What the computing commands do first: read the data, check every place that will be written to, load the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from foretune.cli.early import read_by, read_data
from foretune.cli.held import Held
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions
from foretune.cli.places import Places, refuse_model_name
from foretune.cli.versions import versions
from foretune.cli.workers import source_of
from foretune.experiment.asked import Asked, asked, reading
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.inputs import Inputs
from foretune.experiment.precision import precision_note
from foretune.kernels.job import Job
from foretune.model.load import HALF, LanguageModel
from foretune.page import Fact
from foretune.pages.console import Console
from foretune.pages.progress import busy, progress_bar
from foretune.progress import Stages


@dataclass(frozen=True)
class ExperimentOptions:
    """The options that say what an experiment is: its model, its rows and sample, and its question."""

    model: ModelOptions
    data: DataOptions
    outputs: OutputOptions


def loaded_experiment(options: ExperimentOptions, places: Places, folder: Path | None, errors: Console) -> Experiment:
    """Check every place that will be written to, read the data, then load the model.

    Args:
        options: what the experiment is.
        places: what is written to.
        folder: keeps what is computed; nothing is kept without one.
        errors: where progress is shown.

    Raises:
        UsageError, DataError, ModelError, StorageError: see `load_experiment`; or a place that must not be written to.
    """
    places.check(read_by(options.model, options.data, options.outputs))
    read = read_data(options.data, options.outputs, errors)
    stages = Stages(
        read.stages.finished, around=lambda name: busy(errors, name) if name == "prompt or head" else nullcontext()
    )

    def load() -> LanguageModel:
        for place in places.folders:
            refuse_model_name(place, options.model.model)
        places.make()
        return loaded_model(options.model, errors)

    return load_experiment(read.setting, load, folder, Work(stages=stages), read.found)


def question_of(experiment: Experiment) -> Asked:
    """What the model is asked, with the first training example."""
    return asked(experiment.outputs, experiment.task, experiment.split.train[0])


def facts_of(experiment: Experiment) -> tuple[Fact, ...]:
    """What was read and what is asked, for pages."""
    return reading(experiment.account, question_of(experiment))


def said(experiment: Experiment) -> dict[str, object]:
    """What was read and what is asked, for result files."""
    return {"data": asdict(experiment.account), "asked": asdict(question_of(experiment))}


@contextmanager
def reported(experiment: Experiment, stage: str, errors: Console) -> Iterator[None]:
    """A stage of the work on an experiment, with its progress shown."""
    work = experiment.work
    with work.stages.stage(stage), progress_bar(errors) as work.progress:
        yield


def loaded_model(model: ModelOptions, errors: Console) -> LanguageModel:
    """The language model of the options.

    Raises:
        UsageError, ModelError: see `load_model`.
    """
    source = source_of(model)
    if isinstance(source, Held):
        return source.value
    with busy(errors, "load the model (the first time it is downloaded and converted)"):
        lm = source.opened()
    if lm.dtype in HALF:
        warnings.warn(
            f"The model computes in {model.dtype}: its outputs and kernels are off by 0.3% to 5%. float32 is exact to "
            "about 1e-6.",
            stacklevel=2,
        )
    return lm


def about(experiment: Experiment, settings: dict[str, object]) -> dict[str, object]:
    """What result files say of an experiment besides its numbers."""
    return {
        "settings": settings,
        "rows": experiment.account.rows["training"],
        "left_out": experiment.split.left_out,
        **said(experiment),
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def inputs_of(found: Experiment, job: Job, errors: Console) -> Inputs:
    """Labels, pretrained outputs and features of the whole split; with a note of how far half precision is off.

    Args:
        found: the experiment.
        job: its kernels.
        errors: where progress is shown.
    """
    with reported(found, "pretrained outputs", errors):
        inputs = found.inputs
    if found.outputs.lm.dtype not in HALF:
        return inputs
    with busy(errors, "compare with float32"):
        return replace(inputs, warnings=(*inputs.warnings, *precision_note(found, list(job.kinds))))
