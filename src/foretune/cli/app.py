"""`foretune`: forecast, kernel, solve, tune, behaviour, reproduce, validate, tasks, show, schema, env."""

from __future__ import annotations

from typing import Annotated

import typer

import foretune
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    ForecastOptions,
    FormulaOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
    SchemaName,
    ShowOptions,
    SolveFolder,
    SolverOptions,
    TaskName,
)
from foretune.cli.settings import Command, command
from foretune.cli.study_options import BudgetOptions, ReproduceOptions, ValidateOptions
from foretune.cli.tuning_options import BehaviourOptions, MethodOptions, TrainingOptions, TuneOptions

app = typer.Typer(
    name="foretune",
    help="Forecast the fine-tuning of a pretrained language model from a few dozen labelled examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def forecast(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    wanted: ForecastOptions,
    run: RunOptions,
    report: ReportOptions,
) -> None:
    """Say what fine-tuning MODEL on DATA would reach, which parts matter, and which learning rate is stable.

    Example: foretune forecast smollm2 movies --k 16 --test 64
    """
    from foretune.cli.early import read_early

    read_early(model, data, outputs, report, run.out)
    from foretune.cli.forecast import run_forecast

    run_forecast(model, data, outputs, blocks, wanted, run, report)


def kernel(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    formula: FormulaOptions,
    run: RunOptions,
    report: ReportOptions,
) -> None:
    """Compute the kernels of every parameter block on a few-shot split of DATA, into the folder --out.

    Example: foretune kernel minilm movies --k 16 --formula sgd,signgd,asymmetric,lora --rank 1,8,64 --out runs/movies
    """
    from foretune.cli.early import read_early

    read_early(model, data, outputs, report, run.out)
    from foretune.cli.forecast import run_kernel

    run_kernel(model, data, outputs, blocks, formula, run, report)


def solve(folder: SolveFolder, solver: SolverOptions, report: ReportOptions) -> None:
    """Solve the kernels of a folder made by `foretune kernel`: predictions on its test examples, with all grid scores.

    Example: foretune solve runs/movies --solver auto,logistic
    """
    from foretune.cli.solve import run_solve

    run_solve(folder.folder, solver, report)


def tune(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    method: MethodOptions,
    training: TrainingOptions,
    run: TuneOptions,
    report: ReportOptions,
) -> None:
    """Fine-tune MODEL on DATA, into the folder --out: curves, the best checkpoint by validation, its test score.

    Example: foretune tune smollm2 movies --method lora --rank 8 --out runs/lora
    """
    from foretune.cli.early import read_early

    read_early(model, data, outputs, report, run.out)
    from foretune.cli.tune import run_tune

    run_tune(model, data, outputs, method, training, run, report)


def behaviour(measures: BehaviourOptions, report: ReportOptions) -> None:
    """Say whether a run made by `foretune tune` behaved as its kernel says, with every number behind the verdict.

    Example: foretune behaviour runs/lora --json behaviour.json
    """
    from foretune.cli.behaviour import run_behaviour

    run_behaviour(measures, report)


def reproduce(study: ReproduceOptions, budget: BudgetOptions, report: ReportOptions) -> None:
    """Measure a table or figure of a paper, into the folder --out: Markdown, CSV and SVG; it resumes where it stopped.

    Example: foretune reproduce lpft-features --model minilm --tasks mr --k 16 --seeds 13,21 --steps 200
    """
    from foretune.cli.early import check_tasks_early

    check_tasks_early(study.data, study.tasks)
    from foretune.cli.reproduce import run_reproduce

    run_reproduce(study, budget, report)


def validate(model: ModelOptions, study: ValidateOptions, report: ReportOptions) -> None:
    """Fine-tune MODEL for many candidates, tasks and seeds, and say how well the forecast and other scores rank them.

    Example: foretune validate minilm --tasks mr,subj,trec --n 128 --seeds 13,21
    """
    from foretune.cli.early import check_tasks_early

    check_tasks_early(study.data, study.tasks)
    from foretune.cli.validate import run_validate

    run_validate(model, study, report)


def tasks(name: TaskName, report: ReportOptions) -> None:
    """List the built-in tasks and models, or show one task: prompts, words, columns, limits, data, sources.

    Example: foretune tasks rte
    """
    from foretune.cli.tasks import run_tasks

    run_tasks(name.name, report)


def show(options: ShowOptions) -> None:
    """Print the result in a folder made with --out, or in a file of --json, again; with --details all of it.

    Example: foretune show runs/movies --details
    """
    from foretune.cli.show import run_show

    run_show(options)


def schema(name: SchemaName) -> None:
    """Print the JSON schema of what --json writes: the meaning and unit of each field.

    Example: foretune schema forecast
    """
    from foretune.cli.show import run_schema

    run_schema(name)


for run in (forecast, kernel, solve, tune, behaviour, reproduce, validate, tasks, show, schema):
    app.command(cls=Command)(command(run))
app.command("behavior", cls=Command, hidden=True)(command(behaviour))


@app.command()
def env() -> None:
    """Show versions, devices and the cache folder."""
    from foretune.cli.tasks import run_env

    run_env()


def _version(wanted: bool) -> None:
    """Print the version, and end."""
    if wanted:
        typer.echo(f"foretune {foretune.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Forecast the fine-tuning of a pretrained language model from a few dozen labelled examples."""
