"""The commands: one table of names, groups of options and help texts.

The command NAME calls `run_NAME` of the module `foretune.cli.NAME`, which is imported only then: help, completion and
mistakes in what was typed need no library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

import foretune
from foretune.cli.command import Command, Program
from foretune.cli.forecast_options import ForecastOptions
from foretune.cli.labels_options import ExplainOptions, LabelsOptions
from foretune.cli.options import (
    AnswerOptions,
    BlockOptions,
    CardOptions,
    DataOptions,
    FormulaOptions,
    KernelRunOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RowOptions,
    RunOptions,
    SchemaName,
    ShowOptions,
    TaskName,
)
from foretune.cli.settings import command
from foretune.cli.solve_options import SolverOptions
from foretune.cli.study_options import BudgetOptions, ReproduceOptions, ValidateOptions
from foretune.cli.track_options import TrackOptions
from foretune.cli.tuning_options import BehaviourOptions, MethodOptions, TrainingOptions, TuneOptions
from foretune.cli.worker_options import WorkerOptions


@dataclass(frozen=True)
class Entry:
    """A command.

    Attributes:
        help: what it does, with an example.
        groups: argument of its function -> group of options.
        early: what is looked at, given the groups, before the function is imported with torch.
    """

    help: str
    groups: Mapping[str, Any]
    early: Callable[[Mapping[str, Any]], None] | None = None


def _read(groups: Mapping[str, Any]) -> None:
    """Read the data."""
    from foretune.cli.early import read_early

    read_early(groups["model"], groups["data"], groups["outputs"], groups["report"], groups["run"].out)


def _read_to_train(groups: Mapping[str, Any]) -> None:
    """Look at the type of the weights, and read the data."""
    from foretune.cli.early import refuse_half_weights

    refuse_half_weights(groups["model"])
    _read(groups)


def _check_tasks(groups: Mapping[str, Any]) -> None:
    """Look at the data folder of a study."""
    from foretune.cli.early import check_tasks_early

    check_tasks_early(groups["options"].data, groups["options"].tasks)


def _read_rows(groups: Mapping[str, Any]) -> None:
    """Read all rows."""
    from foretune.cli.early import read_rows_early

    read_rows_early(**groups)


_ASKED = {"model": ModelOptions, "data": DataOptions, "outputs": OutputOptions}
"""Which model is asked what, of which examples."""
COMMANDS: Mapping[str, Entry] = {
    "forecast": Entry(
        """Forecast what fine-tuning MODEL on DATA would reach, which parts to train, and at which learning rate.

        Example: foretune forecast smollm2 movies --k 16 --test 64
        """,
        {
            **_ASKED,
            "blocks": BlockOptions,
            "wanted": ForecastOptions,
            "run": RunOptions,
            "workers": WorkerOptions,
            "report": ReportOptions,
        },
        _read,
    ),
    "labels": Entry(
        """Find the labels of DATA that look wrong to MODEL, and estimate how many are wrong. Nothing is trained.

        Example: foretune labels minilm reviews.csv --write corrected.csv
        """,
        {
            "model": ModelOptions,
            "data": RowOptions,
            "answer": AnswerOptions,
            "wanted": LabelsOptions,
            "report": ReportOptions,
        },
        _read_rows,
    ),
    "explain": Entry(
        """Show which rows of DATA a prediction of MODEL rests on: those that helped it and those that hurt it.

        Example: foretune explain minilm reviews.csv --row 17
        """,
        {
            "model": ModelOptions,
            "data": RowOptions,
            "answer": AnswerOptions,
            "wanted": ExplainOptions,
            "report": ReportOptions,
        },
    ),
    "kernel": Entry(
        """Compute the kernels of all parameter blocks of MODEL on a few examples of DATA, into the folder --out.

        Example: foretune kernel minilm movies --k 16 --formula sgd,signgd,asymmetric,lora --rank 1,8,64 --out runs/movies
        """,
        {
            **_ASKED,
            "blocks": BlockOptions,
            "formula": FormulaOptions,
            "run": KernelRunOptions,
            "workers": WorkerOptions,
            "report": ReportOptions,
        },
        _read,
    ),
    "solve": Entry(
        """Solve the kernels in a folder made by `foretune kernel`, and score the predictions on its test examples.

        Example: foretune solve runs/movies --solver auto,logistic
        """,
        {"solver": SolverOptions, "report": ReportOptions},
    ),
    "tune": Entry(
        """Fine-tune MODEL on DATA into the folder --out, keep the best checkpoint by validation, and test it.

        Example: foretune tune smollm2 movies --method lora --rank 8 --out runs/lora
        """,
        {
            **_ASKED,
            "method": MethodOptions,
            "training": TrainingOptions,
            "run": TuneOptions,
            "workers": WorkerOptions,
            "report": ReportOptions,
        },
        _read_to_train,
    ),
    "behaviour": Entry(
        """Measure whether a run made by `foretune tune` behaved as its kernel predicts.

        Example: foretune behaviour runs/lora --json behaviour.json
        """,
        {"measures": BehaviourOptions, "report": ReportOptions},
    ),
    "reproduce": Entry(
        """Measure a table or figure of a paper, and write it to the folder --out as Markdown, CSV and SVG.

        A stopped command goes on where it stopped when it is repeated.

        Example: foretune reproduce lpft-features --model minilm --tasks mr --k 16 --seeds 13,21 --steps 200
        """,
        {"options": ReproduceOptions, "cut": BudgetOptions, "workers": WorkerOptions, "report": ReportOptions},
        _check_tasks,
    ),
    "validate": Entry(
        """Fine-tune MODEL for many candidates, tasks and seeds, and measure how well the forecast ranks the results.

        A stopped command goes on where it stopped when it is repeated.

        Example: foretune validate minilm --tasks mr,subj,trec --n 128 --seeds 13,21
        """,
        {"model": ModelOptions, "options": ValidateOptions, "workers": WorkerOptions, "report": ReportOptions},
        _check_tasks,
    ),
    "track": Entry(
        """Show how good forecasts were: each one beside its run by `foretune tune --from`.

        Example: foretune track --on
        """,
        {"options": TrackOptions, "report": ReportOptions},
    ),
    "show": Entry(
        """Print a result again: that of a folder made with --out, or of a file written by --json.

        Example: foretune show runs/movies --details
        """,
        {"options": ShowOptions},
    ),
    "card": Entry(
        """Write a section of a model card in Markdown: data, settings, predicted and measured figures, limits, versions.

        Example: foretune card runs/movies --out CARD.md
        """,
        {"options": CardOptions},
    ),
    "schema": Entry(
        """Print the JSON schema of the results that --json writes, with the meaning and the unit of each field.

        Example: foretune schema forecast
        """,
        {"name": SchemaName},
    ),
    "tasks": Entry(
        """List the built-in tasks and models, or show one task with its prompts, label words, limits and sources.

        Example: foretune tasks rte
        """,
        {"task": TaskName, "report": ReportOptions},
    ),
    "env": Entry("Show versions, devices and the cache folder.", {}),
}
SPELLINGS = {"behavior": "behaviour"}
"""Other spellings of commands, which the help does not list."""

app = typer.Typer(
    name="foretune",
    cls=Program,
    help="Forecast the fine-tuning of a pretrained language model from a few dozen labelled examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for name, entry in COMMANDS.items():
    app.command(name, cls=Command)(command(name, entry.groups, entry.help, entry.early))
for spelling, name in SPELLINGS.items():
    entry = COMMANDS[name]
    app.command(spelling, cls=Command, hidden=True)(command(name, entry.groups, entry.help, entry.early))


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
