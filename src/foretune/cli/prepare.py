"""What the computing commands do first: read the data, check every place that will be written to, load the model."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import torch

from foretune.cli.early import read_by, read_data
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions
from foretune.cli.places import Places, refuse_model_name
from foretune.experiment.asked import Asked, asked, reading
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.inputs import Inputs
from foretune.experiment.record import Record
from foretune.model.load import HALF, LanguageModel, load_model
from foretune.page import Fact
from foretune.pages.console import Console
from foretune.pages.progress import busy, progress_bar
from foretune.progress import Stages

PACKAGES = ("foretune", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")


def prepared(
    model: ModelOptions, data: DataOptions, outputs: OutputOptions, places: Places, errors: Console
) -> Experiment:
    """Check every place that will be written to, read the data, then load the model."""
    places.check(read_by(model, data, outputs))
    read = read_data(data, outputs, errors)
    stages = Stages(
        read.stages.finished, around=lambda name: busy(errors, name) if name == "prompt or head" else nullcontext()
    )

    def load() -> LanguageModel:
        for folder in places.folders:
            refuse_model_name(folder, model.model)
        places.make()
        return loaded_model(model, errors)

    return load_experiment(read.setting, load, work=Work(stages=stages), found=read.found)


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
    with busy(errors, "load the model (the first time it is downloaded and converted)"):
        lm = load_model(
            model.model,
            dtype=model.dtype,
            device=model.device,
            revision=model.revision,
            kind=model.kind,
            trust_remote_code=model.trust_remote_code,
        )
    if lm.dtype in HALF:
        warnings.warn(
            f"The model computes in {model.dtype}: its outputs and kernels are off by 0.3% to 5%. float32 is exact to "
            "about 1e-6.",
            stacklevel=2,
        )
    return lm


def record_of(found: Experiment, inputs: Inputs, settings: dict[str, object]) -> Record:
    """What a run folder says of its examples."""
    task, split = found.task, found.split
    return Record(
        identity=found.identity,
        task={
            "name": task.name,
            "prompt": task.prompt,
            "labels": list(task.labels),
            "template": task.template,
            "words": dict(task.words),
            "metric": task.metric,
        },
        outputs=found.outputs.description,
        sizes={"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        y=inputs.y,
        f0=inputs.f0,
        about={
            "settings": settings,
            "rows": found.account.rows["training"],
            "left_out": {key: value for key, value in asdict(split).items() if isinstance(value, int)},
            **said(found),
            "versions": versions(),
            "threads": torch.get_num_threads(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def inputs_of(found: Experiment, errors: Console) -> Inputs:
    """Labels, pretrained outputs and features of the whole split."""
    with reported(found, "pretrained outputs", errors):
        return found.inputs
