"""What the commands do."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import foretune
from foretune.cli.progress import busy, progress_bar
from foretune.cli.settings import Settings
from foretune.cli.setup import Problem, made_outputs, problem
from foretune.errors import UsageError
from foretune.forecast.forecast import forecast
from foretune.forecast.inputs import Inputs, forecast_inputs
from foretune.forecast.plan import estimate
from foretune.forecast.stages import Stages
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import joint_kernels
from foretune.kernels.job import joint_job
from foretune.kernels.sgd import SGD
from foretune.model.builtin import MODELS
from foretune.model.load import load_model
from foretune.model.outputs import Outputs
from foretune.report.json import write_json
from foretune.report.terminal import print_estimate, print_forecast, stage_table
from foretune.store.atomic import storage_error, write_text
from foretune.store.packages import cache_folder
from foretune.text.builtin import TASKS

_PACKAGES = ("foretune", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")
_FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """What both commands need before the kernel."""

    problem: Problem
    outputs: Outputs
    stages: Stages


def _prepared(settings: Settings, errors: Console) -> Prepared:
    """Read the data, check every place that will be written to, then load the model."""
    stages = Stages()
    with stages.stage("read the data"), busy(errors, "read the data (the first time it is downloaded)"):
        found = problem(settings)
    if settings.json is not None:
        _check_writable(settings.json.parent)
    if settings.out is not None:
        _check_writable(settings.out)
    with stages.stage("load the model"), busy(errors, "load the model (the first time it is downloaded and converted)"):
        lm = load_model(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
        outputs = made_outputs(settings, lm, found.task)
    return Prepared(found, outputs, stages)


def _console() -> Console:
    """Standard output; wide enough for every table where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=120)


def _check_writable(folder: Path) -> None:
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


def _kernel(settings: Settings, prepared: Prepared, console: Console) -> BlockKernel:
    split = prepared.problem.split
    with prepared.stages.stage("kernel"), progress_bar(console) as report:
        return joint_kernels(
            prepared.outputs,
            split.train,
            [*split.validation, *split.test],
            blocks=_blocks(settings),
            memory=settings.memory,
            out=None if settings.out is None else settings.out / "kernel",
            progress=report,
        )


def _blocks(settings: Settings) -> list[str] | None:
    return None if settings.blocks is None else [glob.strip() for glob in settings.blocks.split(",") if glob.strip()]


def _planned(settings: Settings, prepared: Prepared, console: Console) -> None:
    split = prepared.problem.split
    job = joint_job(prepared.outputs, split.train, [*split.validation, *split.test], _blocks(settings))
    found = estimate(job, [SGD()], settings.memory)
    print_estimate(console, found)
    if settings.json is not None:
        write_json(settings.json, found)


def run_forecast(settings: Settings) -> None:
    """The forecast, to the terminal and, on request, to JSON and a folder."""
    console, errors = _console(), Console(stderr=True)
    prepared = _prepared(settings, errors)
    if settings.plan:
        return _planned(settings, prepared, console)
    inputs = _inputs(prepared, errors)
    kernel = _kernel(settings, prepared, errors)
    with prepared.stages.stage("forecast"):
        result = forecast(inputs, kernel)
    record = {
        **_record(settings, prepared, kernel),
        "forecast": result,
        "stages": prepared.stages.finished,
    }
    if settings.out is not None:
        write_text(settings.out / "run.yaml", settings.as_yaml("forecast"))
        write_json(settings.out / "forecast.json", record)
    if settings.json is not None:
        write_json(settings.json, record)
    print_forecast(console, result, prepared.stages.finished, inputs.metric)
    return None


def _inputs(prepared: Prepared, errors: Console) -> Inputs:
    with prepared.stages.stage("pretrained outputs"), progress_bar(errors) as report:
        return forecast_inputs(
            prepared.outputs,
            prepared.problem.task,
            prepared.problem.split,
            done=lambda done, total: report("pretrained outputs", done, total),
        )


def run_kernel(settings: Settings) -> None:
    """The kernel folder, with labels and pretrained outputs beside it.

    Raises:
        UsageError: no --out.
    """
    console, errors = _console(), Console(stderr=True)
    if settings.out is None and not settings.plan:
        raise UsageError("A kernel needs a folder to go to: --out DIR.")
    prepared = _prepared(settings, errors)
    if settings.plan or settings.out is None:
        return _planned(settings, prepared, console)
    write_text(settings.out / "run.yaml", settings.as_yaml("kernel"))
    inputs = _inputs(prepared, errors)
    kernel = _kernel(settings, prepared, errors)
    split = prepared.problem.split
    record = {
        **_record(settings, prepared, kernel),
        "sizes": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "y": inputs.y,
        "f0": inputs.f0,
        "stages": prepared.stages.finished,
    }
    write_json(settings.out / "examples.json", record)
    if settings.json is not None:
        write_json(settings.json, record)
    b, n, c, m, _ = kernel.array.shape
    console.print(f"{b} blocks, {n} x {m} examples, {c} output{'s' if c > 1 else ''}: {settings.out / 'kernel'}")
    console.print(stage_table(prepared.stages.finished))
    for warning in inputs.warnings:
        console.print(f"[yellow]Note:[/yellow] {warning}")
    return None


def _record(settings: Settings, prepared: Prepared, kernel: BlockKernel) -> dict[str, object]:
    """What a result file says about how it was made."""
    task, split = prepared.problem.task, prepared.problem.split
    hidden = ("config", "debug", "plan")
    values = {key: value for key, value in dataclasses.asdict(settings).items() if key not in hidden}
    return {
        "format": _FORMAT,
        "settings": values,
        "task": {"name": task.name, "labels": task.labels, "template": task.template, "words": task.words},
        "split": {
            "rows": prepared.problem.rows,
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
            "duplicates": split.duplicates,
            "conflicts": split.conflicts,
        },
        "kernel": {**kernel.description, "shape": kernel.array.shape},
        "versions": _versions(),
        "threads": torch.get_num_threads(),
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def run_tasks() -> None:
    """The built-in tasks and models."""
    console = _console()
    table = Table(title="Tasks", title_justify="left")
    for heading in ("name", "labels", "template", "words", "metric"):
        table.add_column(heading)
    for task in TASKS.values():
        table.add_row(task.name, ", ".join(task.labels), task.template, ", ".join(task.words.values()), task.metric)
    console.print(table)
    table = Table(title="Models", title_justify="left")
    table.add_column("name")
    table.add_column("what")
    for name, model in MODELS.items():
        table.add_row(name, model.package.about)
    console.print(table)
    console.print(
        "Any hub id, model folder or .gguf file works in the place of a model, any file or dataset id as data."
    )


def run_env() -> None:
    """Versions, devices, cache."""
    console = _console()
    table = Table(show_header=False)
    for name, version in _versions().items():
        table.add_row(name, version)
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("devices", ", ".join(["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]))
    table.add_row("threads", str(torch.get_num_threads()))
    table.add_row("cache", str(cache_folder()))
    table.add_row("offline", "yes" if os.environ.get("HF_HUB_OFFLINE") else "no")
    console.print(table)
    console.print(f"foretune {foretune.__version__}")
