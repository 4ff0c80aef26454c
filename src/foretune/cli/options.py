"""The options of `forecast`, `kernel`, `solve` and `tasks`, and those that commands share, in groups.

A command is a function of some groups; every field of a group is one option, with its help, its panel and its range.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from foretune.cli.ranges import (
    AT_LEAST_1,
    MOST_RANK,
    SEED,
    Choice,
    Choices,
    Device,
    Items,
    Memory,
    Number,
    Numbers,
    UsedWith,
    Whole,
)


class Panel:
    """Under which title of `--help` an option stands."""

    MODEL, DATA, OUTPUT, BLOCKS = "Model", "Data", "Outputs", "Parameters"
    FORMULA, SOLVER, RUN = "Kernel", "Solvers", "Run"
    METHOD, TRAINING, BEHAVIOUR = "Method", "Training", "Measures"


FORMULAS = ("sgd", "signgd", "asymmetric", "lora", "projection")


def option(panel: str, text: str, *names: str) -> Any:
    """An option with its help, and its names where these do not follow from the field's."""
    return typer.Option(*names, help=text.replace("[", "\\["), rich_help_panel=panel)


def argument(text: str) -> Any:
    """An argument with its help."""
    return typer.Argument(help=text, show_default=False)


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[str, argument("smollm2, minilm, bert-tiny, a hub id, a model folder, or a .gguf file.")]
    dtype: Annotated[
        str,
        option(Panel.MODEL, "float32, float64, bfloat16 or float16."),
        Choice("float32", "float64", "bfloat16", "float16"),
    ] = "float32"
    device: Annotated[str, option(Panel.MODEL, "cpu, cuda, cuda:1, mps."), Device()] = "cpu"
    revision: Annotated[str | None, option(Panel.MODEL, "Revision of a hub model.")] = None
    kind: Annotated[
        str | None,
        option(Panel.MODEL, "Read it as causal, masked or encoder (its body alone).  [default: as it was trained]"),
        Choice("causal", "masked", "encoder"),
    ] = None
    trust_remote_code: Annotated[bool, option(Panel.MODEL, "Run Python code that comes with the model.")] = False


@dataclass(frozen=True)
class DataOptions:
    """Which rows, and how they are split."""

    data: Annotated[
        str, argument("A task, a .csv/.jsonl/.parquet file, a folder with train.* and test.*, or a hub dataset id.")
    ]
    text: Annotated[str | None, option(Panel.DATA, "Column with the text.  [default: text]")] = None
    text2: Annotated[str | None, option(Panel.DATA, "Column with the second text of a pair.")] = None
    label: Annotated[str | None, option(Panel.DATA, "Column with the label.  [default: label]")] = None
    labels: Annotated[
        str | None,
        option(Panel.DATA, "Label names in order, comma-separated; rows with others are left out.  [default: all]"),
        Items("negative,positive"),
    ] = None
    data_split: Annotated[str | None, option(Panel.DATA, "Split of a hub dataset.  [default: train]")] = None
    data_revision: Annotated[str | None, option(Panel.DATA, "Revision of a hub dataset.")] = None
    max_labels: Annotated[
        int | None, option(Panel.DATA, "Most labels that a column may have.  [default: 100]"), Whole(2)
    ] = None
    delimiter: Annotated[
        str | None, option(Panel.DATA, "What separates the fields of .csv and .tsv files, such as ';' or tab.")
    ] = None
    encoding: Annotated[
        str | None, option(Panel.DATA, "Encoding of files of text, such as cp1252.  [default: utf-8]")
    ] = None
    validation_data: Annotated[
        str | None, option(Panel.DATA, "File with the validation rows.  [default: a part of DATA]")
    ] = None
    test_data: Annotated[str | None, option(Panel.DATA, "File with the test rows.  [default: the rest of DATA]")] = None
    k: Annotated[
        int | None,
        option(Panel.DATA, "Training examples per label, and as many for validation.  [default: 16]", "--k"),
        AT_LEAST_1,
    ] = None
    n: Annotated[
        int | None,
        option(Panel.DATA, "Instead of --k: training examples in all, and as many for validation.", "--n"),
        AT_LEAST_1,
    ] = None
    full_data: Annotated[
        bool,
        option(
            Panel.DATA,
            "Train on all rows except those for validation: k per label, at most a tenth of them.",
            "--full-data",
        ),
    ] = False
    test: Annotated[int, option(Panel.DATA, "At most this many test examples."), AT_LEAST_1] = 64
    seed: Annotated[int, option(Panel.DATA, "Seed of the few-shot split and of a random head."), SEED] = 13


@dataclass(frozen=True)
class OutputOptions:
    """What the model is asked, and where its outputs are read."""

    output: Annotated[
        str,
        option(Panel.OUTPUT, "prompt (label words), head, or auto (a prompt where the model has words)."),
        Choice("auto", "prompt", "head"),
    ] = "auto"
    task: Annotated[
        str | None, option(Panel.OUTPUT, "Take prompt, columns and metric from this task or .yaml file.")
    ] = None
    prompt: Annotated[
        str | None, option(Panel.OUTPUT, "One of the task's prompts: manual, null, search.  [default: manual]")
    ] = None
    template: Annotated[str | None, option(Panel.OUTPUT, "Prompt, such as '{text} It was {mask} .'")] = None
    words: Annotated[str | None, option(Panel.OUTPUT, "Label words, such as negative=terrible,positive=great.")] = None
    first_piece: Annotated[
        bool, option(Panel.OUTPUT, "Let the first piece of a word of several tokens answer for it.", "--first-piece")
    ] = False
    metric: Annotated[
        str | None, option(Panel.OUTPUT, "accuracy, f1 or matthews."), Choice("accuracy", "f1", "matthews")
    ] = None
    head: Annotated[
        str,
        option(Panel.OUTPUT, "Start of a head: probe (the linear-probing solution) or random."),
        Choice("probe", "random"),
    ] = "probe"
    pooling: Annotated[
        str | None,
        option(Panel.OUTPUT, "Features of a head: mean, cls or last.  [default: mean; last for causal models]"),
        Choice("mean", "cls", "last"),
    ] = None
    difference: Annotated[bool, option(Panel.OUTPUT, "Two classes: one output f1 - f0 instead of two.")] = True
    max_length: Annotated[
        int | None, option(Panel.OUTPUT, "Longest input in tokens; the text is cut, the prompt never.")
    ] = None


@dataclass(frozen=True)
class BlockOptions:
    """Which parameters take part."""

    blocks: Annotated[
        str | None,
        option(Panel.BLOCKS, "Only parameters that match these globs, comma-separated."),
        Items("*.query.*,*.value.*"),
    ] = None
    layers: Annotated[str | None, option(Panel.BLOCKS, "Only these layers, such as 0,4-7."), Numbers("0,4-7")] = None
    exclude_embeddings: Annotated[bool, option(Panel.BLOCKS, "Leave embedding tables out.", "--exclude-embeddings")] = (
        False
    )
    exclude_head: Annotated[
        bool, option(Panel.BLOCKS, "Leave the head of a classifier or language model out.", "--exclude-head")
    ] = False
    biases_only: Annotated[bool, option(Panel.BLOCKS, "Only biases.", "--biases-only")] = False
    lora_only: Annotated[bool, option(Panel.BLOCKS, "Only adapters of a peft model.", "--lora-only")] = False


@dataclass(frozen=True)
class ForecastOptions:
    """What is forecast from."""

    warm_up: Annotated[
        int, option(Panel.RUN, "Take the kernel after this many real steps (AdamW 5e-5, batches of 16)."), Whole(0)
    ] = 0


@dataclass(frozen=True)
class FormulaOptions:
    """Which kernels."""

    formula: Annotated[
        str,
        option(Panel.FORMULA, "sgd, signgd, asymmetric, lora, projection; several comma-separated, in one pass."),
        Choices(*FORMULAS),
    ] = "sgd"
    eps: Annotated[
        float,
        option(Panel.FORMULA, "Sign kernels: x / (|x| + eps) in the place of the sign."),
        Number("1e-8", zero=True),
        UsedWith(0.0, "formula", ("signgd", "asymmetric")),
    ] = 0.0
    threshold: Annotated[
        float,
        option(
            Panel.FORMULA,
            "Sign kernels: entries below this share of their uncancelled size count as zero; 0 is the definition, with the "
            "signs of rounding noise. The default moves a kernel by about 0.1% to 1%.",
        ),
        Number("1e-4", zero=True),
        UsedWith(1e-4, "formula", ("signgd", "asymmetric")),
    ] = 1e-4
    rank: Annotated[
        str,
        option(Panel.FORMULA, "LoRA: one or more ranks, such as 1,8,64."),
        Numbers("1,8,64", 1, MOST_RANK),
        UsedWith("8", "formula", ("lora",)),
    ] = "8"
    alpha: Annotated[
        float,
        option(Panel.FORMULA, "LoRA: numerator of the scaling alpha / rank."),
        Number("16"),
        UsedWith(16.0, "formula", ("lora",)),
    ] = 16.0
    target_modules: Annotated[
        str,
        option(Panel.FORMULA, "LoRA: all-linear, or suffixes of module names such as q_proj,v_proj."),
        Items("q_proj,v_proj"),
        UsedWith("all-linear", "formula", ("lora",)),
    ] = "all-linear"
    init: Annotated[
        str,
        option(Panel.FORMULA, "LoRA: how A is drawn, kaiming or gaussian."),
        Choice("kaiming", "gaussian"),
        UsedWith("kaiming", "formula", ("lora",)),
    ] = "kaiming"
    rslora: Annotated[
        bool,
        option(Panel.FORMULA, "LoRA: scale by alpha / sqrt(rank).", "--rslora"),
        UsedWith(False, "formula", ("lora",)),
    ] = False
    projection: Annotated[
        str,
        option(Panel.FORMULA, "Projection: intrinsic (normal entries), rademacher, or kronecker."),
        Choice("intrinsic", "rademacher", "kronecker"),
        UsedWith("intrinsic", "formula", ("projection",)),
    ] = "intrinsic"
    dimension: Annotated[
        int,
        option(Panel.FORMULA, "Projection: number of dimensions."),
        Whole(1, 1_000_000),
        UsedWith(512, "formula", ("projection",)),
    ] = 512
    draw_seed: Annotated[
        int,
        option(Panel.FORMULA, "Seed of LoRA's A and of projections."),
        SEED,
        UsedWith(0, "formula", ("lora", "projection")),
    ] = 0


@dataclass(frozen=True)
class SolveFolder:
    """Where the kernels are."""

    folder: Annotated[Path, argument("A folder made by `foretune kernel` or `foretune forecast --out`.")]


@dataclass(frozen=True)
class ShowOptions:
    """Which result is printed again, and how much of it."""

    result: Annotated[Path, argument("A folder that a command made with --out, or a file of --json.")]
    details: Annotated[
        bool, option(Panel.RUN, "Print every table and note, not only the answer.", "--details", "-v", "--verbose")
    ] = False
    debug: Annotated[bool, option(Panel.RUN, "Show tracebacks.", "--debug")] = False


@dataclass(frozen=True)
class SchemaName:
    """Which schema is printed."""

    kind: Annotated[
        str | None,
        typer.Argument(help="forecast, kernel, tune and so on; all kinds without one.", show_default=False),
    ] = None


@dataclass(frozen=True)
class TaskName:
    """Which task is shown."""

    name: Annotated[
        str | None, typer.Argument(help="A built-in task or a .yaml file; all tasks without one.", show_default=False)
    ] = None


@dataclass(frozen=True)
class SolverOptions:
    """How a kernel is solved."""

    solver: Annotated[
        str,
        option(Panel.SOLVER, "auto, ridge, logistic, asymmetric, svc, svr, published; several comma-separated."),
        Items("auto,logistic"),
    ] = "auto"
    kernels: Annotated[
        str | None, option(Panel.SOLVER, "Only these kernels of the folder.  [default: all]"), Items("sgd,signgd")
    ] = None
    select: Annotated[
        str | None,
        option(Panel.SOLVER, "Only blocks that match these globs, comma-separated.  [default: all]"),
        Items("*.query.*,*.value.*"),
    ] = None
    choose: Annotated[
        str,
        option(Panel.SOLVER, "What chooses hyperparameters: validation, or cv (5 folds of the training examples)."),
        Choice("validation", "cv"),
    ] = "validation"


@dataclass(frozen=True)
class RunOptions:
    """Budget and results."""

    memory: Annotated[str, option(Panel.RUN, "Budget above the model's own memory."), Memory()] = "2GiB"
    plan: Annotated[bool, option(Panel.RUN, "Print time, memory and disk needed, and stop.", "--plan")] = False
    out: Annotated[
        Path | None, option(Panel.RUN, "Folder for kernels and run.yaml; a stopped run there is resumed.")
    ] = None


@dataclass(frozen=True)
class ReportOptions:
    """Where results go besides the terminal."""

    json: Annotated[Path | None, option(Panel.RUN, "Write everything, unrounded, to this file.", "--json")] = None
    debug: Annotated[bool, option(Panel.RUN, "Show tracebacks.", "--debug")] = False
    quiet: Annotated[bool, option(Panel.RUN, "No progress; results and errors only.", "--quiet")] = False
    details: Annotated[
        bool, option(Panel.RUN, "Print every table and note, not only the answer.", "--details", "-v", "--verbose")
    ] = False
