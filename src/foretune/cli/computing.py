"""`forecast` and `kernel`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import foretune
from foretune.candidates.candidate import ALPHA, formulas_for, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.candidates.scored import ScoredCandidate
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
from foretune.cli.prepare import Prepared, console, prepared, read_inputs, record_of
from foretune.cli.progress import busy, progress_bar
from foretune.cli.settings import as_yaml, repeatable
from foretune.cli.setup import chosen_blocks, made_formulas
from foretune.errors import UsageError
from foretune.forecast.cost import WARM_UP, cost
from foretune.forecast.forecast import forecast
from foretune.forecast.plan import estimate
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.report.advice import head_note, lora_config, python_snippet
from foretune.report.json import write_json
from foretune.report.run_folder import Record, present_record, write_record
from foretune.report.terminal import print_estimate, print_forecast, print_kernels
from foretune.store.atomic import write_text


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
        UsageError: a negative --warm-up, or one in half precision.
    """
    if wanted.warm_up < 0:
        raise UsageError(f"--warm-up is {wanted.warm_up}; expected a number of steps, or 0 for none.")
    out, errors = console(), Console(stderr=True)
    settings = (model, data, outputs, blocks, wanted, run, report)
    found = prepared(model, data, outputs, _written(run, report), errors)
    if wanted.warm_up and not run.plan:
        found = _warmed(found, wanted.warm_up, errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    formulas = formulas_for(job.kinds)
    if run.plan:
        return _planned(job, formulas, run, report, out)
    inputs = replace(read_inputs(found, errors), warm_up=wanted.warm_up)
    record = record_of(found, inputs, repeatable(settings))
    kernels, record = _computed(job, formulas, run, as_yaml("forecast", settings), record, found)
    with found.stages.stage("forecast"), busy(errors, "compare the candidates"):
        pool = Pool.sized(kernels, inputs, parameter_sizes(found.outputs))
        result = forecast(pool)
    costs = cost(
        found.stages.finished, len(inputs.y), inputs.n_train, pool.effort.steps, len(result.comparison.candidates)
    )
    config, note = _adapters(result.advice.adapter, found), head_note(found.outputs)
    whole = {
        "foretune": foretune.__version__,
        **asdict(record),
        "kernel": _described(kernels["sgd"]),
        "kernels_described": {label: _described(kernel) for label, kernel in kernels.items()},
        "forecast": result,
        "lora_config": config,
        "beside_lora_config": note,
        "cost": costs,
        "stages": found.stages.finished,
    }
    if run.out is not None:
        write_json(run.out / "forecast.json", whole)
    if report.json is not None:
        write_json(report.json, whole)
    rate = result.adapter_adamw
    snippet = None if config is None or rate is None else python_snippet(config, f"AdamW: {rate.words}.", note)
    print_forecast(out, result, found.stages.finished, inputs.metric, snippet, costs)
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
    out, errors = console(), Console(stderr=True)
    settings = (model, data, outputs, blocks, formula, run, report)
    formulas = made_formulas(formula)
    if run.out is None and not run.plan:
        raise UsageError("A kernel needs a folder to go to: --out DIR.")
    found = prepared(model, data, outputs, _written(run, report), errors)
    job = joint_job(found.outputs, *found.examples, chosen_blocks(blocks, found.outputs))
    if run.plan or run.out is None:
        return _planned(job, formulas, run, report, out)
    inputs = read_inputs(found, errors)
    record = record_of(found, inputs, repeatable(settings))
    kernels, record = _computed(job, formulas, run, as_yaml("kernel", settings), record, found)
    if report.json is not None:
        described = {label: _described(kernel) for label, kernel in kernels.items()}
        costs = {"kernel": described, "stages": found.stages.finished}
        write_json(report.json, {"foretune": foretune.__version__, **asdict(record), **costs})
    print_kernels(out, kernels, run.out, found.stages.finished, inputs.warnings)
    return None


def _warmed(found: Prepared, steps: int, errors: Console) -> Prepared:
    """The same with the outputs of the model after some steps of training."""
    from foretune.finetune.warm_up import warmed_outputs

    task, split = found.problem.task, found.problem.split
    with found.stages.stage(WARM_UP), progress_bar(errors) as report:
        return replace(found, outputs=warmed_outputs(found.outputs, task, split, steps, progress=report).outputs)


def _written(run: RunOptions, report: ReportOptions) -> list[Path]:
    """The folders that will be written to."""
    return [*([] if report.json is None else [report.json.parent]), *([] if run.out is None else [run.out])]


def _adapters(adapter: ScoredCandidate | None, found: Prepared) -> dict[str, Any] | None:
    """The LoraConfig of a candidate for this model, as `peft` reads it."""
    if adapter is None or adapter.rank is None:
        return None
    modules = {name: type(module).__name__ for name, module in found.outputs.lm.module.named_modules()}
    return lora_config(adapter.blocks, adapter.rank, ALPHA, modules)


def _described(kernel: BlockKernel) -> dict[str, Any]:
    return {**kernel.description, "shape": kernel.array.shape}


def _computed(
    job: Job, formulas: list[Formula], run: RunOptions, yaml: str, record: Record, found: Prepared
) -> tuple[dict[str, BlockKernel], Record]:
    """The kernels, and the record that names them; both are written where there is a folder, if it holds nothing else."""
    before = None if run.out is None else present_record(run.out, record)
    if run.out is not None:
        write_text(run.out / "run.yaml", yaml)
    with found.stages.stage("kernel"), progress_bar(Console(stderr=True)) as report:
        kernels = kernels_of(job, formulas, run.memory, run.out, report)
    record = record.with_kernels(kernels, before)
    if run.out is not None:
        write_record(run.out, record, foretune.__version__)
    return kernels, record


def _planned(job: Job, formulas: list[Formula], run: RunOptions, report: ReportOptions, out: Console) -> None:
    found = estimate(job, formulas, run.memory)
    print_estimate(out, found)
    if report.json is not None:
        write_json(report.json, found)
