"""`kernel`: the kernels of every parameter block, into a folder; and what `forecast` shares with it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

import foretune
from foretune.cli.console import console, progress_console
from foretune.cli.kernel_places import SETTINGS, kernel_places
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    FormulaOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.prepare import inputs_of, prepared, question_of, record_of, reported, said
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks, made_formulas
from foretune.errors import UsageError
from foretune.experiment.experiment import Experiment
from foretune.experiment.record import Record, add_kernels, claimed
from foretune.finetune.lora_config import bypassed_notes
from foretune.forecast.plan import estimate
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.kernels.lora import LoRA
from foretune.pages.reading import print_reading
from foretune.pages.terminal import print_estimate, print_kernels
from foretune.store.atomic import write_text
from foretune.store.json import write_json


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
    found = prepared(model, data, outputs, places, errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    if run.plan or run.out is None:
        return planned(job, formulas, run, report, out, found)
    job.refuse_too_large(formulas, run.memory)
    inputs = inputs_of(found, errors)
    if any(isinstance(each, LoRA) for each in formulas):
        inputs = replace(inputs, warnings=(*inputs.warnings, *bypassed_notes(job.kinds)))
    record = record_of(found, inputs, repeatable(settings))
    kernels, record = computed(job, formulas, run, as_yaml("kernel", settings), record, found, errors)
    if report.json is not None:
        about = {label: described(kernel) for label, kernel in kernels.items()}
        costs = {"kernel": about, "stages": found.work.stages.finished}
        write_json(report.json, {"foretune": foretune.__version__, **asdict(record), **costs})
    print_reading(out, found.account, question_of(found))
    print_kernels(out, kernels, run.out, found.work.stages.finished, inputs.warnings)
    return None


def described(kernel: BlockKernel) -> dict[str, Any]:
    """What result files say of a kernel."""
    return {**kernel.description, "shape": kernel.array.shape}


def computed(
    job: Job, formulas: list[Formula], run: RunOptions, yaml: str, record: Record, found: Experiment, errors: Console
) -> tuple[dict[str, BlockKernel], Record]:
    """The kernels, and the record that names them; both are written where there is a folder, if it holds nothing else."""
    with reported(found, "kernel", errors), ExitStack() as claim:
        report = found.work.progress
        out = run.out
        if out is None:
            return kernels_of(job, formulas, run.memory, progress=report), record
        claim.enter_context(claimed(out, record, foretune.__version__))

        def started() -> None:  # the folder is ours, each kernel's too: now the settings of another run are not lost
            write_text(out / SETTINGS, yaml)
            claim.close()

        kernels = kernels_of(job, formulas, run.memory, out, report, started)
    return kernels, add_kernels(out, record, kernels, foretune.__version__)


def planned(
    job: Job, formulas: list[Formula], run: RunOptions, report: ReportOptions, out: Console, found: Experiment
) -> None:
    """Print what the kernels would need, and what the model is asked; on request, write it as JSON."""
    needed = estimate(job, formulas, run.memory)
    print_reading(out, found.account, question_of(found))
    print_estimate(out, needed)
    if report.json is not None:
        write_json(report.json, {"foretune": foretune.__version__, **asdict(needed), "about": said(found)})
