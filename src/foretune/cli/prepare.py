"""What the computing commands do first: read the data, check every place that will be written to, load the model."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from foretune.cli.data import Problem, Splitter, few_shot, problem
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions
from foretune.cli.places import Places, refuse_model_name
from foretune.cli.setup import made_outputs
from foretune.experiment.asked import Asked, asked, reading
from foretune.experiment.inputs import Inputs, forecast_inputs
from foretune.experiment.record import Record
from foretune.finetune.data import split_identity
from foretune.model.fingerprint import outputs_identity
from foretune.model.load import HALF, LanguageModel, load_model
from foretune.model.outputs import Outputs
from foretune.page import Fact
from foretune.pages.console import Console
from foretune.pages.progress import busy, progress_bar
from foretune.progress import Stages

PACKAGES = ("foretune", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")


@dataclass(frozen=True)
class Prepared:
    """A task, its few-shot data, and the model as a function."""

    problem: Problem
    outputs: Outputs
    stages: Stages

    @property
    def asked(self) -> Asked:
        """What the model is asked, with the first training example."""
        return asked(self.outputs, self.problem.task, self.problem.split.train[0])

    @property
    def reading(self) -> tuple[Fact, ...]:
        """What was read and what is asked, for pages."""
        return reading(self.problem.account, self.asked)

    @property
    def said(self) -> dict[str, object]:
        """What was read and what is asked, for result files."""
        return {"data": asdict(self.problem.account), "asked": asdict(self.asked)}

    @property
    def examples(self) -> tuple[list, list]:
        """Training examples, and those of validation and test together."""
        split = self.problem.split
        return split.train, [*split.validation, *split.test]


def prepared(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    places: Places,
    errors: Console,
    splitter: Splitter = few_shot,
) -> Prepared:
    """Check every place that will be written to, read the data, then load the model."""
    places.check(read_by(model, data, outputs))
    stages = Stages()
    with stages.stage("read the data"), busy(errors, "read the data (the first time it is downloaded)"):
        found = problem(data, outputs, splitter)
    for folder in places.folders:
        refuse_model_name(folder, model.model)
    places.make()
    with stages.stage("load the model"):
        lm = loaded_model(model, errors)
    with stages.stage("prompt or head"), busy(errors, "prompt or head"):
        made = made_outputs(outputs, data.seed, lm, found)
    return Prepared(found, made, stages)


def read_by(model: ModelOptions, data: DataOptions, outputs: OutputOptions) -> list[str | Path | None]:
    """The files and folders that are read, where the options name such."""
    return [model.model, data.data, data.test_data, data.validation_data, outputs.task]


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


def read_inputs(found: Prepared, errors: Console) -> Inputs:
    """Labels, pretrained outputs and features of the whole split."""
    with found.stages.stage("pretrained outputs"), progress_bar(errors) as report:
        return forecast_inputs(
            found.outputs,
            found.problem.task,
            found.problem.split,
            done=lambda done, total: report("pretrained outputs", done, total),
        )


def record_of(found: Prepared, inputs: Inputs, settings: dict[str, object]) -> Record:
    """What a run folder says of its examples."""
    task, split = found.problem.task, found.problem.split
    return Record(
        identity={**outputs_identity(found.outputs), **split_identity(task, split)},
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
            "rows": found.problem.rows,
            "left_out": {key: value for key, value in asdict(split).items() if isinstance(value, int)},
            **found.said,
            "versions": versions(),
            "threads": torch.get_num_threads(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
