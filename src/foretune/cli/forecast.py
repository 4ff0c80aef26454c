"""`forecast`: what fine-tuning would reach, what to train, and how."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import foretune
from foretune.candidates.adam import BATCH, STEPS
from foretune.candidates.candidate import ALPHA, RANKS, Candidate, formulas_for, kernel_label, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.cli.beside import real_runs
from foretune.cli.deliver import deliver, keep_report
from foretune.cli.held import Held
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
from foretune.cli.worker_options import WorkerOptions
from foretune.cli.workers import crew_for, source_of
from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import FORECAST
from foretune.experiment.page import kernel_descriptions
from foretune.experiment.record import named, record_of
from foretune.finetune.adapters import adapted_blocks
from foretune.finetune.lora_config import Adaptable, AdapterConfig, adaptable, lora_config
from foretune.finetune.methods import LoRATuning
from foretune.finetune.snippet import head_note, python_snippet
from foretune.forecasting.cost import SKETCH_ERROR, WARM_UP, forecast_cost
from foretune.forecasting.figures import with_real_runs
from foretune.forecasting.forecast import PoolForecast, pool_forecast
from foretune.forecasting.page import ForecastData, Seen, forecast_page
from foretune.forecasting.sketched import needs_sketch, sample_sizes, sketch_error, sketch_reason
from foretune.handover.files import SCRIPT, refuse_foreign, write_next_run
from foretune.handover.next_run import NextRun, next_run, tune_options, why_none
from foretune.kernels.compute import kernels_of
from foretune.kernels.features import Blocked, TangentFeatures
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.kernels.sketch import Sketch
from foretune.model.outputs import Outputs
from foretune.naming import layer_number, layer_path
from foretune.page import Fact, Listing, Page
from foretune.pages.console import Console, progress_console
from foretune.pages.json import write_page_json
from foretune.pages.progress import busy

_NAMED = 3
"""Modules that the command which goes on may name."""


@dataclass(frozen=True)
class MadeForecast:
    """A forecast, before anybody is told.

    Attributes:
        page: the forecast.
        next_run: the real run of what is recommended; None where there is none.
    """

    page: Page
    next_run: NextRun | None


def run_forecast(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    wanted: ForecastOptions,
    run: RunOptions,
    workers: WorkerOptions,
    report: ReportOptions,
) -> None:
    """The forecast, to the terminal and, on request, to JSON and a folder. Raises as `made_forecast` does."""
    if run.plan:
        errors = progress_console(quiet=report.quiet, verbose=report.verbose)
        asked = _asked_kernels(ExperimentOptions(model, data, outputs), blocks, wanted, run, report, errors)
        return deliver_plan(asked.job, asked.formulas, run, report, asked.found, asked.sketch)
    made = made_forecast(model, data, outputs, blocks, wanted, run, workers, report)
    return deliver(made.page, report, folder=run.out)


@dataclass(frozen=True)
class _AskedKernels:
    """An experiment, and the kernels that a forecast of it needs.

    Attributes:
        found: the experiment.
        job: examples and blocks of the kernels.
        able: what peft adapts.
        formulas: of the kernels.
        sketch: how they are sketched; None where they are exact.
    """

    found: Experiment
    job: Job
    able: Adaptable
    formulas: list[Formula]
    sketch: Sketch | None


def _asked_kernels(
    experiment: ExperimentOptions,
    blocks: BlockOptions,
    wanted: ForecastOptions,
    run: RunOptions,
    report: ReportOptions,
    errors: Console,
) -> _AskedKernels:
    """The experiment, in its folder unless it is only planned, and its kernels before any is computed.

    Raises:
        UsageError: --warm-up in half precision.
        ForetuneError: see `loaded_experiment`.
    """
    places = kernel_places(run.out, report.json, map(kernel_label, (None, *RANKS)))
    if run.out is not None:
        refuse_foreign(run.out)
    found = loaded_experiment(experiment, places, None if run.plan else run.out, errors)
    found.work.memory = run.memory
    if wanted.warm_up and not run.plan:
        found = _warmed(found, wanted.warm_up, errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    with busy(errors, "ask peft what it adapts"):
        able = adaptable(found.outputs, job.kinds)
    formulas = formulas_for(job.kinds, targets=able.targets)
    sketched = wanted.features == "sketched" or (wanted.features == "auto" and needs_sketch(job, formulas, run.memory))
    return _AskedKernels(found, job, able, formulas, Sketch() if sketched else None)


def made_forecast(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    wanted: ForecastOptions,
    run: RunOptions,
    workers: WorkerOptions,
    report: ReportOptions,
) -> MadeForecast:
    """The forecast; it is written to `--out`, where there is such a folder, and nothing is printed but progress.

    Raises:
        UsageError: --warm-up in half precision.
        ForetuneError: see `loaded_experiment` and `pool_forecast`.
    """
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    settings = (model, data, outputs, blocks, wanted, run, report)
    asked = _asked_kernels(ExperimentOptions(model, data, outputs), blocks, wanted, run, report, errors)
    found, job, able, formulas, sketch = asked.found, asked.job, asked.able, asked.formulas, asked.sketch
    if sketch is None:
        job.refuse_too_large(formulas, run.memory)
    inputs = inputs_of(found, errors)
    inputs = replace(inputs, warm_up=wanted.warm_up, warnings=(*inputs.warnings, *able.notes))
    record = record_of(found, about(found, repeatable(settings)))
    repeated = Settings(run.out, as_yaml("forecast", settings))
    with crew_for(workers, source_of(model), found.outputs.lm) as crew:
        kernels = shown_kernels(found, job, formulas, repeated, errors, sketch, crew)
    if sketch is not None:
        said = (sketch_reason(job, formulas, run.memory, sketch), *_measured(found, kernels, formulas, blocks, errors))
        inputs = replace(inputs, warnings=(*inputs.warnings, *said))
    record = named(found, record, kernels)
    with found.work.stages.stage("forecast"), busy(errors, "compare the candidates"):
        result = pool_forecast(Pool.sized(kernels, inputs, parameter_sizes(found.outputs)))
    costs = forecast_cost(
        found.work.stages.finished, len(inputs.y), min(BATCH, inputs.n_train), STEPS, len(result.comparison.candidates)
    )
    with busy(errors, "ask peft for the adapters"):
        config, picked = (_adapters(item, found, able) for item in (result.advice.adapter, _picked(result)))
        run_next = None if _why_none(result, found, model) else _next_run(result, found, picked, model)
        config = None if result.verdict == "no" else config
    tuning = None if run_next is None or result.recommended is None else tune_options(result.recommended, found.outputs)
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
        tune_options=None if tuning is None else {**repeatable(settings[:3]), **tuning},
        cost=costs,
        stages=found.work.stages.finished,
    )
    seen = Seen(
        title=f"{model.model} on {data.data}",
        about=facts_of(found),
        metric=inputs.metric,
        sizes=record.sizes,
        snippet=_snippet(result, found, config, picked),
        next=()
        if tuning is None
        else _next(result, tuning, settings, found.outputs)
        if run.out is None
        else _from(run.out, settings),
    )
    page = forecast_page(result, costs, found.work.stages.finished, seen, numbers)
    if run.out is not None:
        handed = handed_over(run.out, run_next) or f"Nothing to run. {_why_none(result, found, model)}"
        page = replace(page, facts=(*page.facts, Fact("Written", handed, 1)))
        write_page_json(run.out / FORECAST, page, foretune.__version__)
        keep_report(run.out, with_real_runs(page, real_runs(run.out)))
    return MadeForecast(page, run_next)


def _why_none(result: PoolForecast, found: Experiment, model: ModelOptions) -> str | None:
    """Why there is no run to write down; None where there is one."""
    if isinstance(model.model, Held):
        return "The model is in memory, so no train.py is written. Give its folder or name instead."
    return why_none(result, found)


def _measured(
    found: Experiment, kernels: Mapping[str, Blocked], formulas: list[Formula], blocks: BlockOptions, errors: Console
) -> tuple[str, ...]:
    """The error of the sketch on a few examples, in words."""
    features = {label: each for label, each in kernels.items() if isinstance(each, TangentFeatures)}
    n, v = sample_sizes(found.inputs)
    if not v:
        return ("How far the sketch is off was not measured: there are too many outputs, or no validation examples.",)
    names = chosen_blocks(blocks, found.outputs)
    with reported(found, SKETCH_ERROR, errors):
        few = joint_job(found.outputs, found.split.train[:n], found.split.validation[:v], names)
        exact = kernels_of(few, formulas, found.work.memory, progress=found.work.progress)
        return (sketch_error(features, exact, found.inputs, parameter_sizes(found.outputs)).words,)


def _next_run(
    result: PoolForecast, found: Experiment, picked: AdapterConfig | None, model: ModelOptions
) -> NextRun | None:
    """The real run of what is recommended, if anything is."""
    if result.recommended is None:
        return None
    return next_run(
        found,
        result.recommended,
        picked,
        thresholded=result.thresholded,
        trust_remote_code=model.trust_remote_code,
    )


def handed_over(folder: Path, run: NextRun | None) -> str:
    """Write the files of a run to come; what was written, and where."""
    if run is None:
        return ""
    shown = dict.fromkeys(name.split("/")[0] for name in write_next_run(folder, run, foretune.__version__))
    return f"{folder}: {', '.join(shown)}"


def _warmed(found: Experiment, steps: int, errors: Console) -> Experiment:
    """The same with the outputs of the model after some steps of training."""
    with reported(found, WARM_UP, errors):
        return found.warmed(steps)


def _adapters(adapter: Candidate | None, found: Experiment, able: Adaptable) -> AdapterConfig | None:
    """The LoraConfig of a candidate; none where it has no adapters."""
    if adapter is None or adapter.rank is None:
        return None
    return lora_config(found.outputs, able.classes, adapter.blocks, adapter.rank, ALPHA)


def _picked(result: PoolForecast) -> Candidate | None:
    return None if result.recommended is None else result.recommended.candidate


def _snippet(
    result: PoolForecast, found: Experiment, config: AdapterConfig | None, picked: AdapterConfig | None
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


def _next(
    result: PoolForecast, tuning: Mapping[str, Any], settings: tuple[Any, ...], outputs: Outputs
) -> tuple[str, ...]:
    """The real run of what is recommended, where few words say which weights it trains."""
    chosen = _picked(result)
    if chosen is None or _in_memory(settings):
        return ()
    options = dict(tuning)
    if chosen.rank is not None:
        which = _lora_options(chosen, outputs)
        if which is None:
            return ()
        del options["target_modules"]
        options |= which
    elif len(chosen.blocks) > _NAMED:
        return ()
    words = [*typed_again(settings[:3]), *option_words(options), "--out", f"runs/{options['method']}"]
    return (shlex.join(["foretune", "tune", *words]),)


def _in_memory(settings: tuple[Any, ...]) -> bool:
    """Whether model or rows have no name that a command could take."""
    values = [value for group in settings for value in vars(group).values()]
    return any(isinstance(value, Held) for value in values)


def _from(out: Path, settings: tuple[Any, ...]) -> tuple[str, ...]:
    """The real run of what is recommended, by the files beside the forecast."""
    words = ["foretune", "tune", "--from", str(out / FORECAST), "--out", f"{out}-run"]
    script = shlex.join(["python", str(out / SCRIPT)])
    return (script,) if _in_memory(settings) else (script, shlex.join(words))


def _lora_options(item: Candidate, outputs: Outputs) -> dict[str, str] | None:
    """The options of `tune --method lora` that adapt exactly these weights; None where none do so in few words."""
    formula, wanted = LoRATuning(item.rank or 1).formula, set(item.blocks)
    if set(adapted_blocks(outputs, formula)) == wanted:
        return {}
    layers = {layer_number(path) for name in item.blocks if (path := layer_path(name)) is not None}
    if len(layers) == 1 and set(adapted_blocks(outputs, formula, tuple(layers))) == wanted:
        return {"layers": str(*layers)}
    modules = [name.removesuffix(".weight") for name in item.blocks]
    return {"target_modules": ",".join(modules)} if len(modules) <= _NAMED else None
