"""`kernel`: the kernels of every parameter block, into a folder; and what `forecast` shares with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from foretune.cli.deliver import deliver, keep_report
from foretune.cli.kernel_places import kernel_places
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    FormulaOptions,
    KernelRunOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.prepare import ExperimentOptions, about, facts_of, inputs_of, loaded_experiment, reported, said
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks, made_formulas
from foretune.cli.worker_options import WorkerOptions
from foretune.cli.workers import crew_for, source_of
from foretune.experiment.experiment import EVALUATION, Experiment
from foretune.experiment.folder import FORECAST, SETTINGS
from foretune.experiment.page import KernelData, kernel_descriptions, kernel_page
from foretune.experiment.record import kernels_with, named, record_of
from foretune.finetune.lora_config import bypassed_notes
from foretune.forecasting.plan import KernelCostData, kernel_cost_page
from foretune.kernels.cost import kernel_cost, sketch_cost
from foretune.kernels.features import Blocked
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job
from foretune.kernels.lora import LoRA
from foretune.kernels.sketch import Sketch
from foretune.pages.console import Console, progress_console
from foretune.store.atomic import write_text


@dataclass(frozen=True)
class Settings:
    """The options that repeat a command, and the folder that keeps them, if there is one."""

    folder: Path | None
    yaml: str

    def write(self) -> None:
        """Write run.yaml."""
        if self.folder is not None:
            write_text(self.folder / SETTINGS, self.yaml)


def run_kernel(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    formula: FormulaOptions,
    run: KernelRunOptions,
    workers: WorkerOptions,
    report: ReportOptions,
) -> None:
    """Kernel folders, with labels and pretrained outputs beside them."""
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    settings = (model, data, outputs, blocks, formula, run, report)
    formulas = made_formulas(formula)
    places = kernel_places(run.out, report.json, [each.label for each in formulas])
    found = loaded_experiment(ExperimentOptions(model, data, outputs), places, None if run.plan else run.out, errors)
    found.work.memory = run.memory
    job = found.kernel_job(EVALUATION, chosen_blocks(blocks, found.outputs))
    if run.plan or run.out is None:
        return deliver_plan(job, formulas, run, report, found)
    job.refuse_too_large(formulas, run.memory)
    repeated = Settings(run.out, as_yaml("kernel", settings))
    with crew_for(workers, source_of(model), found.outputs.lm) as found.work.crew:
        kernels = shown_kernels(found, job, formulas, repeated, errors)
    inputs = inputs_of(found, job, errors)
    if any(isinstance(each, LoRA) for each in formulas):
        inputs = replace(inputs, warnings=(*inputs.warnings, *bypassed_notes(job.kinds)))
    record = named(found, record_of(found, about(found, repeatable(settings))), kernels)
    numbers = KernelData(**vars(record), kernel=kernel_descriptions(kernels), stages=found.work.stages.finished)
    page = kernel_page(kernels, run.out, facts_of(found), inputs.warnings, numbers)
    if not (run.out / FORECAST).exists():  # whose report it is
        keep_report(run.out, page)
    return deliver(page, report, folder=run.out)


def shown_kernels(
    found: Experiment,
    job: Job,
    formulas: list[Formula],
    settings: Settings,
    errors: Console,
    sketch: Sketch | None = None,
) -> Mapping[str, Blocked]:
    """The kernels; where there is a folder they are written there, and the settings when it is known to be theirs."""
    with reported(found, "kernel", errors):
        return kernels_with(found, job, formulas, settings.write, sketch)


def deliver_plan(
    job: Job,
    formulas: list[Formula],
    run: RunOptions,
    report: ReportOptions,
    found: Experiment,
    sketch: Sketch | None = None,
) -> None:
    """Print what the kernels would need, and what the model is asked; on request, write it as JSON."""
    if sketch is None:
        needed = kernel_cost(job, formulas, run.memory)
    else:
        needed = sketch_cost(job, formulas, sketch, run.memory, on_disk=run.out is not None)
    deliver(kernel_cost_page(needed, facts_of(found), KernelCostData(**vars(needed), about=said(found))), report)
