"""What the computing commands do first: read the data, check every place that will be written to, load the model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from foretune.cli.options import DataOptions, ModelOptions, OutputOptions
from foretune.cli.progress import busy, progress_bar
from foretune.cli.setup import Problem, Splitter, few_shot, made_outputs, problem
from foretune.errors import UsageError
from foretune.experiment.inputs import Inputs, forecast_inputs
from foretune.forecast.stages import Stages
from foretune.model.load import HALF, LanguageModel, load_model
from foretune.model.outputs import Outputs
from foretune.report.run_folder import Record
from foretune.store.atomic import storage_error

PACKAGES = ("foretune", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")


def console() -> Console:
    """Standard output; wide enough for every table where it is a file or a pipe."""
    made = Console()
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(width=120)


@dataclass(frozen=True)
class Prepared:
    """A task, its few-shot data, and the model as a function."""

    problem: Problem
    outputs: Outputs
    stages: Stages

    @property
    def examples(self) -> tuple[list, list]:
        """Training examples, and those of validation and test together."""
        split = self.problem.split
        return split.train, [*split.validation, *split.test]


def prepared(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    folders: list[Path],
    errors: Console,
    splitter: Splitter = few_shot,
) -> Prepared:
    """Read the data, check that `folders` can be written to, then load the model."""
    stages = Stages()
    with stages.stage("read the data"), busy(errors, "read the data (the first time it is downloaded)"):
        found = problem(data, outputs, splitter)
    for folder in folders:
        _refuse_model_name(folder, model.model)
        check_writable(folder)
    with stages.stage("load the model"):
        lm = loaded_model(model, errors)
    with stages.stage("prompt or head"), busy(errors, "prompt or head"):
        made = made_outputs(outputs, data.seed, lm, found)
    return Prepared(found, made, stages)


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


def _refuse_model_name(folder: Path, model: str) -> None:
    """See that a new folder will not be taken for the model."""
    if not folder.exists() and folder.absolute() == Path(model).absolute():
        raise UsageError(
            f"A new folder {folder} would be taken for the model {model!r}. Choose another name, runs/{folder.name} for "
            "example."
        )


def check_writable(folder: Path) -> None:
    """Fail before the work, not after it.

    Raises:
        StorageError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise storage_error(folder, error) from error


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
            "versions": versions(),
            "threads": torch.get_num_threads(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
