"""`kernel`: the kernels of every parameter block, into a folder; and what `forecast` shares with it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import foretune
from foretune.cli.deliver import deliver
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
from foretune.cli.prepare import facts_of, inputs_of, prepared, record_of, reported, said
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks, made_formulas
from foretune.errors import UsageError
from foretune.experiment.experiment import Experiment
from foretune.experiment.page import KernelData, kernel_page
from foretune.experiment.record import Record, add_kernels, claimed
from foretune.finetune.lora_config import bypassed_notes
from foretune.forecast.plan import PlanData, estimate, plan_page
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.kernels.lora import LoRA
from foretune.pages.console import Console, progress_console
from foretune.store.atomic import write_text


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
    errors = progress_console(quiet=report.quiet)
    settings = (model, data, outputs, blocks, formula, run, report)
    formulas = made_formulas(formula)
    if run.out is None and not run.plan:
        raise UsageError("A kernel needs a folder to go to: --out DIR.")
    places = kernel_places(run.out, report.json, [each.label for each in formulas])
    found = prepared(model, data, outputs, places, errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    if run.plan or run.out is None:
        return planned(job, formulas, run, report, found)
    job.refuse_too_large(formulas, run.memory)
    inputs = inputs_of(found, errors)
    if any(isinstance(each, LoRA) for each in formulas):
        inputs = replace(inputs, warnings=(*inputs.warnings, *bypassed_notes(job.kinds)))
    record = record_of(found, inputs, repeatable(settings))
    kernels, record = computed(job, formulas, run, as_yaml("kernel", settings), record, found, errors)
    about = {label: described(kernel) for label, kernel in kernels.items()}
    stages = found.work.stages.finished
    numbers = KernelData(**vars(record), kernel=about, stages=stages)
    return deliver(kernel_page(kernels, run.out, stages, facts_of(found), inputs.warnings, numbers), report)


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


def planned(job: Job, formulas: list[Formula], run: RunOptions, report: ReportOptions, found: Experiment) -> None:
    """Print what the kernels would need, and what the model is asked; on request, write it as JSON."""
    needed = estimate(job, formulas, run.memory)
    deliver(plan_page(needed, facts_of(found), PlanData(**vars(needed), about=said(found))), report)
