"""`forecast` and `kernel`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import foretune
from foretune.candidates.adam import BATCH, STEPS
from foretune.candidates.candidate import ALPHA, RANKS, formulas_for, kernel_label, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.cli.console import console, progress_console
from foretune.cli.kernel_places import FORECAST, kernel_places
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    ForecastOptions,
    FormulaOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.prepare import ExperimentOptions, about, prepared, question_of, reported, said
from foretune.cli.progress import busy
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks, made_formulas
from foretune.errors import UsageError
from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import SETTINGS
from foretune.experiment.inputs import Inputs
from foretune.experiment.record import kernels_with, named, record_of
from foretune.finetune.lora_config import Adaptable, AdapterConfig, adaptable, bypassed_notes, lora_config
from foretune.forecast.cost import WARM_UP, cost
from foretune.forecast.forecast import Forecast, forecast
from foretune.forecast.plan import estimate
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.kernels.lora import LoRA
from foretune.pages.advice import head_note, python_snippet
from foretune.pages.reading import print_reading
from foretune.pages.terminal import print_estimate, print_forecast, print_kernels
from foretune.store.atomic import write_text
from foretune.store.json import write_json


@dataclass(frozen=True)
class Settings:
    """The options that repeat a command, and the folder that keeps them, if there is one."""

    folder: Path | None
    yaml: str

    def write(self) -> None:
        """Write run.yaml."""
        if self.folder is not None:
            write_text(self.folder / SETTINGS, self.yaml)


def run_forecast(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    wanted: ForecastOptions,
    run: RunOptions,
    report: ReportOptions,
) -> None:
    """The forecast, to the terminal and, on request, to JSON and a folder.

    Raises:
        UsageError: --warm-up in half precision.
    """
    out, errors = console(), progress_console(quiet=report.quiet)
    settings = (model, data, outputs, blocks, wanted, run, report)
    places = kernel_places(run.out, report.json, map(kernel_label, (None, *RANKS)))
    found = prepared(ExperimentOptions(model, data, outputs), places, None if run.plan else run.out, errors)
    found.work.memory = run.memory
    if wanted.warm_up and not run.plan:
        found = _warmed(found, wanted.warm_up, errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    with busy(errors, "ask peft what it adapts"):
        able = adaptable(found.outputs, job.kinds)
    formulas = formulas_for(job.kinds, targets=able.targets)
    if run.plan:
        return _planned(job, formulas, run, report, out, found)
    job.refuse_too_large(formulas, run.memory)
    inputs = _inputs(found, errors)
    inputs = replace(inputs, warm_up=wanted.warm_up, warnings=(*inputs.warnings, *able.notes))
    record = record_of(found, about(found, repeatable(settings)))
    kernels = _computed(found, job, formulas, Settings(run.out, as_yaml("forecast", settings)), errors)
    record = named(found, record, kernels)
    with found.work.stages.stage("forecast"), busy(errors, "compare the candidates"):
        result = forecast(Pool.sized(kernels, inputs, parameter_sizes(found.outputs)))
    costs = cost(
        found.work.stages.finished, len(inputs.y), min(BATCH, inputs.n_train), STEPS, len(result.comparison.candidates)
    )
    with busy(errors, "ask peft for the adapters"):
        config = _adapters(result, found, able)
    note = head_note(found.outputs, config)
    whole = {
        "foretune": foretune.__version__,
        **asdict(record),
        "kernel": _described(kernels["sgd"]),
        "kernels_described": {label: _described(kernel) for label, kernel in kernels.items()},
        "verdict": result.verdict,
        "forecast": result,
        "lora_config": None if config is None else config.arguments,
        "lora_config_classes": None
        if config is None
        else {"trained": config.trained, "also": config.also, "elsewhere": config.elsewhere},
        "beside_lora_config": note,
        "cost": costs,
        "stages": found.work.stages.finished,
    }
    if run.out is not None:
        write_json(run.out / FORECAST, whole)
    if report.json is not None:
        write_json(report.json, whole)
    rate, advised = result.adapter_adamw, result.advice.beats_probing is not False
    snippet = None
    if config is not None and rate is not None and advised:
        snippet = python_snippet(config, f"AdamW: {rate.words}.", note)
    print_reading(out, found.account, question_of(found))
    print_forecast(out, result, found.work.stages.finished, inputs.metric, snippet, costs)
    return None


def run_kernel(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    formula: FormulaOptions,
    run: RunOptions,
    report: ReportOptions,
) -> None:
    """Kernel folders, with labels and pretrained outputs beside them.

    Raises:
        UsageError: no --out.
    """
    out, errors = console(), progress_console(quiet=report.quiet)
    settings = (model, data, outputs, blocks, formula, run, report)
    formulas = made_formulas(formula)
    if run.out is None and not run.plan:
        raise UsageError("A kernel needs a folder to go to: --out DIR.")
    places = kernel_places(run.out, report.json, [each.label for each in formulas])
    found = prepared(ExperimentOptions(model, data, outputs), places, None if run.plan else run.out, errors)
    found.work.memory = run.memory
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    if run.plan or run.out is None:
        return _planned(job, formulas, run, report, out, found)
    job.refuse_too_large(formulas, run.memory)
    inputs = _inputs(found, errors)
    if any(isinstance(each, LoRA) for each in formulas):
        inputs = replace(inputs, warnings=(*inputs.warnings, *bypassed_notes(job.kinds)))
    record = record_of(found, about(found, repeatable(settings)))
    kernels = _computed(found, job, formulas, Settings(run.out, as_yaml("kernel", settings)), errors)
    record = named(found, record, kernels)
    if report.json is not None:
        described = {label: _described(kernel) for label, kernel in kernels.items()}
        costs = {"kernel": described, "stages": found.work.stages.finished}
        write_json(report.json, {"foretune": foretune.__version__, **asdict(record), **costs})
    print_reading(out, found.account, question_of(found))
    print_kernels(out, kernels, run.out, found.work.stages.finished, inputs.warnings)
    return None


def _warmed(found: Experiment, steps: int, errors: Console) -> Experiment:
    """The same with the outputs of the model after some steps of training."""
    with reported(found, WARM_UP, errors):
        return found.warmed(steps)


def _inputs(found: Experiment, errors: Console) -> Inputs:
    """Labels, pretrained outputs and features of the whole split."""
    with reported(found, "pretrained outputs", errors):
        return found.inputs


def _adapters(result: Forecast, found: Experiment, able: Adaptable) -> AdapterConfig | None:
    """The LoraConfig of the best candidate with adapters; none where nothing should be trained."""
    adapter = result.advice.adapter
    if adapter is None or adapter.rank is None or result.verdict == "no":
        return None
    return lora_config(found.outputs, able.classes, adapter.blocks, adapter.rank, ALPHA)


def _described(kernel: BlockKernel) -> dict[str, Any]:
    return {**kernel.description, "shape": kernel.array.shape}


def _computed(
    found: Experiment, job: Job, formulas: list[Formula], settings: Settings, errors: Console
) -> dict[str, BlockKernel]:
    """The kernels; where there is a folder they are written there, and the settings when it is known to be theirs."""
    with reported(found, "kernel", errors):
        return kernels_with(found, job, formulas, settings.write)


def _planned(
    job: Job, formulas: list[Formula], run: RunOptions, report: ReportOptions, out: Console, found: Experiment
) -> None:
    needed = estimate(job, formulas, run.memory)
    print_reading(out, found.account, question_of(found))
    print_estimate(out, needed)
    if report.json is not None:
        write_json(report.json, {"foretune": foretune.__version__, **asdict(needed), "about": said(found)})
