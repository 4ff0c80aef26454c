"""`forecast`: what fine-tuning would reach, what to train, and how."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import foretune
from foretune.candidates.adam import BATCH, STEPS
from foretune.candidates.candidate import ALPHA, RANKS, Candidate, formulas_for, kernel_label, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.cli.beside import real_runs
from foretune.cli.deliver import deliver, keep_report
from foretune.cli.kernel import Settings, deliver_plan, shown_kernels
from foretune.cli.kernel_places import kernel_places
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    ForecastOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.prepare import ExperimentOptions, about, facts_of, inputs_of, loaded_experiment, reported
from foretune.cli.settings import as_yaml, option_words, repeatable, typed_again
from foretune.cli.setup import chosen_blocks
from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import FORECAST
from foretune.experiment.page import kernel_descriptions
from foretune.experiment.record import named, record_of
from foretune.finetune.lora_config import Adaptable, AdapterConfig, adaptable, lora_config
from foretune.finetune.snippet import head_note, python_snippet
from foretune.forecasting.cost import WARM_UP, forecast_cost
from foretune.forecasting.figures import with_real_runs
from foretune.forecasting.forecast import Forecast, forecast
from foretune.forecasting.page import ForecastData, Seen, forecast_page
from foretune.forecasting.recommended import Recommendation
from foretune.handover.files import SCRIPT, refuse_foreign, write_next_run
from foretune.handover.next_run import NextRun, method_options, next_run, training_options, why_none
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.job import joint_job
from foretune.naming import layer_number, layer_path
from foretune.page import Fact, Listing
from foretune.pages.console import Console, progress_console
from foretune.pages.json import write_page_json
from foretune.pages.progress import busy

_NAMED = 3
"""Modules that the command which goes on may name."""


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
    errors = progress_console(quiet=report.quiet)
    settings = (model, data, outputs, blocks, wanted, run, report)
    places = kernel_places(run.out, report.json, map(kernel_label, (None, *RANKS)))
    if run.out is not None:
        refuse_foreign(run.out)
    found = loaded_experiment(ExperimentOptions(model, data, outputs), places, None if run.plan else run.out, errors)
    found.work.memory = run.memory
    if wanted.warm_up and not run.plan:
        found = _warmed(found, wanted.warm_up, errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    with busy(errors, "ask peft what it adapts"):
        able = adaptable(found.outputs, job.kinds)
    formulas = formulas_for(job.kinds, targets=able.targets)
    if run.plan:
        return deliver_plan(job, formulas, run, report, found)
    job.refuse_too_large(formulas, run.memory)
    inputs = inputs_of(found, errors)
    inputs = replace(inputs, warm_up=wanted.warm_up, warnings=(*inputs.warnings, *able.notes))
    record = record_of(found, about(found, repeatable(settings)))
    kernels = shown_kernels(found, job, formulas, Settings(run.out, as_yaml("forecast", settings)), errors)
    record = named(found, record, kernels)
    with found.work.stages.stage("forecast"), busy(errors, "compare the candidates"):
        result = forecast(Pool.sized(kernels, inputs, parameter_sizes(found.outputs)))
    costs = forecast_cost(
        found.work.stages.finished, len(inputs.y), min(BATCH, inputs.n_train), STEPS, len(result.comparison.candidates)
    )
    with busy(errors, "ask peft for the adapters"):
        config, picked = (_adapters(item, found, able) for item in (result.advice.adapter, _picked(result)))
        run_next = _next_run(result, found, picked, trust_remote_code=model.trust_remote_code)
        config = None if result.verdict == "no" else config
    descriptions = kernel_descriptions(kernels)
    numbers = ForecastData(
        **vars(record),
        kernel=descriptions["sgd"],
        kernels_described=descriptions,
        verdict=result.verdict if result.recommended is None else result.recommended.verdict,
        forecast=result,
        lora_config=None if config is None else config.arguments,
        lora_config_classes=None if config is None else config.classes,
        beside_lora_config=head_note(found.outputs, config),
        recommended_lora_config=None if picked is None else picked.arguments,
        tune_options=None if run_next is None or result.recommended is None else _tune(result.recommended, settings),
        cost=costs,
        stages=found.work.stages.finished,
    )
    seen = Seen(
        title=f"{model.model} on {data.data}",
        about=facts_of(found),
        metric=inputs.metric,
        sizes=record.sizes,
        snippet=_snippet(result, found, config, picked),
        next=_next(result, settings, kernels) if run.out is None or run_next is None else _from(run.out),
    )
    page = forecast_page(result, costs, found.work.stages.finished, seen, numbers)
    if run.out is not None:
        handed = _handed(run.out, run_next) or f"Nothing to run. {why_none(result, found)}"
        page = replace(page, facts=(*page.facts, Fact("Written", handed, 1)))
        write_page_json(run.out / FORECAST, page, foretune.__version__)
        keep_report(run.out, with_real_runs(page, real_runs(run.out)))
    return deliver(page, report, folder=run.out)


def _next_run(
    result: Forecast, found: Experiment, picked: AdapterConfig | None, *, trust_remote_code: bool
) -> NextRun | None:
    """The real run of what is recommended; none where `why_none` says why."""
    if result.recommended is None or why_none(result, found) is not None:
        return None
    placed = result.thresholded
    return next_run(found, result.recommended, picked, thresholded=placed, trust_remote_code=trust_remote_code)


def _handed(folder: Path, run: NextRun | None) -> str:
    """Write the files of a run to come; what was written, and where."""
    if run is None:
        return ""
    shown = dict.fromkeys(name.split("/")[0] for name in write_next_run(folder, run, foretune.__version__))
    return f"{', '.join(shown)} in {folder}"


def _warmed(found: Experiment, steps: int, errors: Console) -> Experiment:
    """The same with the outputs of the model after some steps of training."""
    with reported(found, WARM_UP, errors):
        return found.warmed(steps)


def _adapters(adapter: Candidate | None, found: Experiment, able: Adaptable) -> AdapterConfig | None:
    """The LoraConfig of a candidate; none where it has no adapters."""
    if adapter is None or adapter.rank is None:
        return None
    return lora_config(found.outputs, able.classes, adapter.blocks, adapter.rank, ALPHA)


def _picked(result: Forecast) -> Candidate | None:
    return None if result.recommended is None else result.recommended.candidate


def _snippet(
    result: Forecast, found: Experiment, config: AdapterConfig | None, picked: AdapterConfig | None
) -> Listing | None:
    """Python that makes the recommended adapters, or those that come first where no adapters are recommended."""
    chosen, rate, best = _picked(result), None, ""
    if picked is not None and result.recommended is not None:
        config, rate = picked, result.recommended.adamw
    elif config is not None and result.advice.beats_probing is not False:
        chosen, rate, best = result.advice.adapter, result.adapter_adamw, "the best candidate with adapters, "
    if config is None or rate is None or chosen is None:
        return None
    text = python_snippet(config, f"AdamW: {rate.words}.", head_note(found.outputs, config))
    return Listing(f"LoraConfig of {best}{chosen.title} ({chosen.parameters:,} parameters)", text, "python")


def _next(result: Forecast, settings: tuple[Any, ...], kernels: Mapping[str, BlockKernel]) -> tuple[str, ...]:
    """The real run of what is recommended, where options of `tune` say which weights it trains."""
    picked = result.recommended
    rate = None if picked is None else picked.adamw.learning_rate
    if picked is None or rate is None or picked.candidate.rank is None:
        return ()
    which = _lora_options(picked.candidate, kernels)
    if which is None:
        return ()
    model, data, outputs = settings[:3]
    method = {"method": "lora", "rank": picked.candidate.rank, "alpha": f"{ALPHA:g}", **which}
    training = {"learning_rate": f"{rate:.2e}", "batch_size": picked.adamw.batch, "steps": picked.adamw.steps}
    options = option_words({**method, **training, "best_by": "loss", "out": "runs/lora"})
    return (shlex.join(["foretune", "tune", *typed_again((model, data, outputs)), *options]),)


def _from(out: Path) -> tuple[str, ...]:
    """The real run of what is recommended, by the files beside the forecast."""
    words = ["foretune", "tune", "--from", str(out / FORECAST), "--out", f"{out}-run"]
    return (shlex.join(["python", str(out / SCRIPT)]), shlex.join(words))


def _tune(picked: Recommendation, settings: tuple[Any, ...]) -> dict[str, Any]:
    """The options of `foretune tune` that train what is recommended, on the same rows."""
    return {**repeatable(settings[:3]), **method_options(picked.candidate), **training_options(picked)}


def _lora_options(item: Candidate, kernels: Mapping[str, BlockKernel]) -> dict[str, str] | None:
    """The options of `tune --method lora` that adapt exactly these weights; None where none do so in few words."""
    able = kernels[kernel_label(item.rank)].names
    if set(able) == set(item.blocks):
        return {}
    paths = {path for name in item.blocks if (path := layer_path(name)) is not None}
    if len(paths) == 1:
        (path,) = paths
        if {name for name in able if layer_path(name) == path} == set(item.blocks):
            return {"layers": str(layer_number(path))}
    modules = [name.removesuffix(".weight") for name in item.blocks]
    return {"target_modules": ",".join(modules)} if len(modules) <= _NAMED else None
