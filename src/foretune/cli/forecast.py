"""`forecast`: what fine-tuning would reach, what to train, and at which learning rate."""

from __future__ import annotations

from dataclasses import asdict, replace

from rich.console import Console

import foretune
from foretune.candidates.adam import BATCH, STEPS
from foretune.candidates.candidate import ALPHA, RANKS, formulas_for, kernel_label, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.cli.console import console, progress_console
from foretune.cli.kernel import Settings, computed, described, planned
from foretune.cli.kernel_places import FORECAST, kernel_places
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    ForecastOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.prepare import ExperimentOptions, about, inputs_of, prepared, question_of, reported
from foretune.cli.progress import busy
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks
from foretune.experiment.experiment import Experiment
from foretune.experiment.record import named, record_of
from foretune.finetune.lora_config import Adaptable, AdapterConfig, adaptable, lora_config
from foretune.forecast.cost import WARM_UP, cost
from foretune.forecast.forecast import Forecast, forecast
from foretune.kernels.job import joint_job
from foretune.pages.advice import head_note, python_snippet
from foretune.pages.reading import print_reading
from foretune.pages.terminal import print_forecast
from foretune.store.json import write_json


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
        return planned(job, formulas, run, report, out, found)
    job.refuse_too_large(formulas, run.memory)
    inputs = inputs_of(found, errors)
    inputs = replace(inputs, warm_up=wanted.warm_up, warnings=(*inputs.warnings, *able.notes))
    record = record_of(found, about(found, repeatable(settings)))
    kernels = computed(found, job, formulas, Settings(run.out, as_yaml("forecast", settings)), errors)
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
        "kernel": described(kernels["sgd"]),
        "kernels_described": {label: described(kernel) for label, kernel in kernels.items()},
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


def _warmed(found: Experiment, steps: int, errors: Console) -> Experiment:
    """The same with the outputs of the model after some steps of training."""
    with reported(found, WARM_UP, errors):
        return found.warmed(steps)


def _adapters(result: Forecast, found: Experiment, able: Adaptable) -> AdapterConfig | None:
    """The LoraConfig of the best candidate with adapters; none where nothing should be trained."""
    adapter = result.advice.adapter
    if adapter is None or adapter.rank is None or result.verdict == "no":
        return None
    return lora_config(found.outputs, able.classes, adapter.blocks, adapter.rank, ALPHA)
