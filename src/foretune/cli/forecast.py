"""`forecast`: what fine-tuning would reach, what to train, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import typer

import foretune
from foretune.candidates.adam import planned_run
from foretune.candidates.candidate import formulas_for, kernel_label, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.candidates.sketched import NOT_MEASURED, chosen_sketch, measured_error, sketch_reason
from foretune.candidates.verdict import DECISIONS, EXIT_CODES, Decision
from foretune.cli.beside import real_runs
from foretune.cli.deliver import deliver, keep_report
from foretune.cli.forecast_options import ForecastOptions
from foretune.cli.kernel import Settings, deliver_plan, shown_kernels
from foretune.cli.kernel_places import kernel_places
from foretune.cli.onward import handed_over, onward
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.prepare import ExperimentOptions, about, facts_of, inputs_of, loaded_experiment, reported
from foretune.cli.ranges import listed
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks
from foretune.cli.worker_options import WorkerOptions
from foretune.cli.workers import crew_for, source_of
from foretune.experiment.experiment import EVALUATION, Experiment
from foretune.experiment.folder import FORECAST
from foretune.experiment.inputs import Inputs
from foretune.experiment.page import kernel_descriptions
from foretune.experiment.record import Record, named, record_of
from foretune.finetune.lora_config import Adaptable, adaptable
from foretune.finetune.snippet import head_note
from foretune.finetune.training import Training
from foretune.forecasting.cost import SKETCH_ERROR, WARM_UP, forecast_cost
from foretune.forecasting.figures import with_real_runs
from foretune.forecasting.forecast import pool_forecast
from foretune.forecasting.page import ForecastData, Seen, forecast_page
from foretune.handover.files import refuse_foreign
from foretune.handover.next_run import NextRun
from foretune.handover.track import tracked_interval
from foretune.kernels.features import Blocked
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job
from foretune.kernels.sketch import Sketch
from foretune.labelling.section import sample_labels
from foretune.page import Fact, Page
from foretune.pages.console import Console, progress_console
from foretune.pages.json import write_page_json
from foretune.pages.progress import busy


@dataclass(frozen=True)
class ForecastRecipe:
    """The options of a forecast."""

    model: ModelOptions
    data: DataOptions
    outputs: OutputOptions
    blocks: BlockOptions
    wanted: ForecastOptions
    run: RunOptions
    report: ReportOptions

    @property
    def groups(self) -> tuple[Any, ...]:
        """Its groups of options."""
        return tuple(vars(self).values())

    @property
    def console(self) -> Console:
        """Where progress is shown."""
        return progress_console(quiet=self.report.quiet, verbose=self.report.verbose)


@dataclass(frozen=True)
class MadeForecast:
    """A forecast, before anybody is told.

    Attributes:
        page: page of the forecast.
        decision: whether to train at all.
        next_run: the real run of what is recommended; None where there is none.
    """

    page: Page
    decision: Decision
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
    """The forecast, to the terminal and, on request, to JSON and a folder. Raises as `made_forecast` does.

    Raises:
        Exit: with `EXIT_CODES` of the decision, where that was asked for.
    """
    recipe = ForecastRecipe(model, data, outputs, blocks, wanted, run, report)
    if run.plan:
        asked = _asked_kernels(recipe, recipe.console)
        return deliver_plan(asked.job, asked.formulas, run, report, asked.found, asked.sketch)
    made = made_forecast(recipe, workers)
    deliver(made.page, report, folder=run.out)
    if wanted.exit_code:
        raise typer.Exit(EXIT_CODES[made.decision])
    return None


@dataclass(frozen=True)
class _AskedKernels:
    """An experiment, and the kernels that a forecast of it needs.

    Attributes:
        found: the experiment that is asked.
        job: examples and blocks of the kernels.
        able: what peft adapts.
        formulas: formulas of the kernels.
        sketch: how they are sketched; None where they are exact.
        planned: the run that the user will make.
    """

    found: Experiment
    job: Job
    able: Adaptable
    formulas: list[Formula]
    sketch: Sketch | None
    planned: Training


def _asked_kernels(recipe: ForecastRecipe, errors: Console) -> _AskedKernels:
    """The experiment, in its folder unless it is only planned, and its kernels before any is computed.

    Raises:
        UsageError: --warm-up in half precision.
        ForetuneError: see `loaded_experiment`.
    """
    run, wanted = recipe.run, recipe.wanted
    places = kernel_places(run.out, recipe.report.json, map(kernel_label, (None, *listed(wanted, "rank"))))
    if run.out is not None:
        refuse_foreign(run.out)
    experiment = ExperimentOptions(recipe.model, recipe.data, recipe.outputs)
    found = loaded_experiment(experiment, places, None if run.plan else run.out, errors)
    found.work.memory = run.memory
    if wanted.warm_up and not run.plan:
        found = _warmed(found, wanted.warm_up, errors)
    job = found.kernel_job(EVALUATION, chosen_blocks(recipe.blocks, found.outputs))
    with busy(errors, "ask peft what it adapts"):
        able = adaptable(found.outputs, job.kinds)
    formulas = formulas_for(job.kinds, listed(wanted, "rank"), able.targets)
    sketch = chosen_sketch(job, formulas, run.memory, wanted.features, on_disk=run.out is not None)
    planned = planned_run(len(found.split.train), wanted.steps, wanted.epochs, wanted.batch_size, wanted.schedule)
    return _AskedKernels(found, job, able, formulas, sketch, planned)


@dataclass(frozen=True)
class _Computed:
    """What a forecast is made from.

    Attributes:
        inputs: labels, pretrained outputs and features, with what must be known of them.
        record: what the folder says of the examples.
        kernels: kernels by label.
    """

    inputs: Inputs
    record: Record
    kernels: Mapping[str, Blocked]


def _computed(asked: _AskedKernels, recipe: ForecastRecipe, workers: WorkerOptions, errors: Console) -> _Computed:
    """Kernels and outputs, computed or read from the folder."""
    found, job, formulas, sketch = asked.found, asked.job, asked.formulas, asked.sketch
    run, settings = recipe.run, Settings(recipe.run.out, as_yaml("forecast", recipe.groups))
    if sketch is None:
        job.refuse_too_large(formulas, run.memory)
    with crew_for(workers, source_of(recipe.model), found.outputs.lm) as found.work.crew:
        kernels = shown_kernels(found, job, formulas, settings, errors, sketch)
    inputs = inputs_of(found, job, errors)
    inputs = replace(inputs, warm_up=recipe.wanted.warm_up, warnings=(*inputs.warnings, *asked.able.notes))
    record = record_of(found, about(found, repeatable(recipe.groups)))
    if sketch is not None:
        off = _measured(found, kernels, formulas, recipe.blocks, errors)
        said = (sketch_reason(job, formulas, run.memory, sketch), off)
        inputs = replace(inputs, warnings=(*inputs.warnings, *said))
    return _Computed(inputs, named(found, record, kernels), kernels)


def made_forecast(recipe: ForecastRecipe, workers: WorkerOptions) -> MadeForecast:
    """The forecast; it is written to `--out`, where there is such a folder, and nothing is printed but progress.

    Args:
        recipe: its options.
        workers: who computes the kernels, which no number depends on but for rounding.

    Raises:
        UsageError: --warm-up in half precision.
        ForetuneError: see `loaded_experiment` and `pool_forecast`.
    """
    errors, out = recipe.console, recipe.run.out
    asked = _asked_kernels(recipe, errors)
    planned, made = asked.planned, _computed(asked, recipe, workers, errors)
    found, inputs, kernels = asked.found, made.inputs, made.kernels
    with found.work.stages.stage("forecast"), busy(errors, "compare the candidates"):
        result = pool_forecast(Pool.sized(kernels, inputs, parameter_sizes(found.outputs), run=planned))
    with found.work.stages.stage("labels"), busy(errors, "compare each row with the others"):
        labels = sample_labels(found)
    batch, steps = planned.batch_of(inputs.n_train), planned.steps_for(inputs.n_train)
    compared = len(result.comparison.candidates)
    costs = forecast_cost(found.work.stages.finished, inputs.forward_seconds, batch, steps, compared)
    with busy(errors, "ask peft for the adapters"):
        then = onward(result, found, asked.able, recipe.model)
    descriptions = kernel_descriptions(kernels)
    tracked = tracked_interval(result.predicted.score, inputs.metric)
    numbers = ForecastData(
        **vars(made.record),
        kernel=descriptions["sgd"],
        kernels_described=descriptions,
        verdict=result.word,
        decision=DECISIONS[result.word],
        tracked=tracked,
        forecast=result,
        labels=labels,
        lora_config=None if then.best is None else then.best.arguments,
        lora_config_classes=None if then.best is None else then.best.classes,
        beside_lora_config=head_note(found.outputs, then.best),
        recommended_lora_config=None if then.picked is None else then.picked.arguments,
        tune_options=None if then.tuning is None else {**repeatable(recipe.groups[:3]), **then.tuning},
        cost=costs,
        stages=found.work.stages.finished,
    )
    seen = Seen(
        title=f"{recipe.model.model} on {recipe.data.data}",
        about=facts_of(found),
        metric=inputs.metric,
        sizes=made.record.sizes,
        spare=found.split.spare,
        labels=labels,
        tracked=tracked,
        snippet=then.snippet,
        next=then.commands(recipe.groups, out),
    )
    page = forecast_page(result, costs, found.work.stages.finished, seen, numbers)
    if out is not None:
        handed = handed_over(out, then.run) or f"{out}: report.html. {then.why_none}"
        page = replace(page, facts=(*page.facts, Fact("Written", handed, 1 if then.run else 2)))
        write_page_json(out / FORECAST, page, foretune.__version__)
        keep_report(out, with_real_runs(page, real_runs(out)))
    return MadeForecast(page, numbers.decision, then.run)


def _measured(
    found: Experiment, kernels: Mapping[str, Blocked], formulas: list[Formula], blocks: BlockOptions, errors: Console
) -> str:
    """The error of the sketch on a few examples, in words."""
    names = chosen_blocks(blocks, found.outputs)
    with reported(found, SKETCH_ERROR, errors):
        off = measured_error(found, kernels, formulas, found.inputs, names)
    return NOT_MEASURED if off is None else off.words


def _warmed(found: Experiment, steps: int, errors: Console) -> Experiment:
    """The same with the outputs of the model after some steps of training."""
    with reported(found, WARM_UP, errors):
        return found.warmed(steps)
