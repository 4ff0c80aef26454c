"""The options of all commands, in groups.

A command is a function of some groups; every field of a group is one option, with its help and its panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


def _option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text.replace("[", "\\["), rich_help_panel=panel)


def _argument(text: str) -> Any:
    return typer.Argument(help=text, show_default=False)


_MODEL, _DATA, _OUTPUT, _BLOCKS = "Model", "Data", "Outputs", "Parameters"
_FORMULA, _SOLVER, _RUN = "Kernel", "Solvers", "Run"
_METHOD, _TRAINING, _BEHAVIOUR = "Method", "Training", "Measures"


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[str, _argument("smollm2, minilm, bert-tiny, a hub id, a model folder, or a .gguf file.")]
    dtype: Annotated[str, _option(_MODEL, "float32, float64, bfloat16 or float16.")] = "float32"
    device: Annotated[str, _option(_MODEL, "cpu, cuda, cuda:1, mps.")] = "cpu"
    revision: Annotated[str | None, _option(_MODEL, "Revision of a hub model.")] = None
    trust_remote_code: Annotated[bool, _option(_MODEL, "Run Python code that comes with the model.")] = False


@dataclass(frozen=True)
class DataOptions:
    """Which rows, and how they are split."""

    data: Annotated[
        str, _argument("A task, a .jsonl/.csv/.parquet file, a folder with train.* and test.*, or a hub dataset id.")
    ]
    text: Annotated[str | None, _option(_DATA, "Column with the text.  [default: text]")] = None
    text2: Annotated[str | None, _option(_DATA, "Column with the second text of a pair.")] = None
    label: Annotated[str | None, _option(_DATA, "Column with the label.  [default: label]")] = None
    labels: Annotated[str | None, _option(_DATA, "Label names in order, comma-separated.  [default: as found]")] = None
    data_split: Annotated[str | None, _option(_DATA, "Split of a hub dataset.  [default: train]")] = None
    data_revision: Annotated[str | None, _option(_DATA, "Revision of a hub dataset.")] = None
    test_data: Annotated[str | None, _option(_DATA, "File with the test rows.  [default: the rest of DATA]")] = None
    k: Annotated[int, _option(_DATA, "Training examples per label, and as many for validation.", "--k")] = 16
    test: Annotated[int, _option(_DATA, "At most this many test examples.")] = 64
    seed: Annotated[int, _option(_DATA, "Seed of the few-shot split and of a random head.")] = 13


@dataclass(frozen=True)
class OutputOptions:
    """What the model is asked, and where its outputs are read."""

    output: Annotated[
        str, _option(_OUTPUT, "prompt (label words), head, or auto (a prompt where the model has words).")
    ] = "auto"
    task: Annotated[str | None, _option(_OUTPUT, "Take prompt, columns and metric from this task or .yaml file.")] = (
        None
    )
    prompt: Annotated[
        str | None, _option(_OUTPUT, "One of the task's prompts: manual, null, search.  [default: manual]")
    ] = None
    template: Annotated[str | None, _option(_OUTPUT, "Prompt, such as '{text} It was {mask} .'")] = None
    words: Annotated[str | None, _option(_OUTPUT, "Label words, such as negative=terrible,positive=great.")] = None
    first_piece: Annotated[
        bool, _option(_OUTPUT, "Let the first piece of a word of several tokens answer for it.", "--first-piece")
    ] = False
    metric: Annotated[str | None, _option(_OUTPUT, "accuracy, f1 or matthews.")] = None
    head: Annotated[str, _option(_OUTPUT, "Start of a head: probe (the linear-probing solution) or random.")] = "probe"
    pooling: Annotated[
        str | None, _option(_OUTPUT, "Features of a head: mean, cls or last.  [default: mean; last for causal models]")
    ] = None
    difference: Annotated[bool, _option(_OUTPUT, "Two classes: one output f1 - f0 instead of two.")] = True
    max_length: Annotated[
        int | None, _option(_OUTPUT, "Longest input in tokens; the text is cut, the prompt never.")
    ] = None


@dataclass(frozen=True)
class BlockOptions:
    """Which parameters take part."""

    blocks: Annotated[str | None, _option(_BLOCKS, "Only parameters that match these globs, comma-separated.")] = None
    layers: Annotated[str | None, _option(_BLOCKS, "Only these layers, such as 0,4-7.")] = None
    exclude_embeddings: Annotated[bool, _option(_BLOCKS, "Leave embedding tables out.", "--exclude-embeddings")] = False
    exclude_head: Annotated[
        bool, _option(_BLOCKS, "Leave the head of a classifier or language model out.", "--exclude-head")
    ] = False
    biases_only: Annotated[bool, _option(_BLOCKS, "Only biases.", "--biases-only")] = False
    lora_only: Annotated[bool, _option(_BLOCKS, "Only adapters of a peft model.", "--lora-only")] = False


@dataclass(frozen=True)
class ForecastOptions:
    """What is forecast from."""

    warm_up: Annotated[
        int, _option(_RUN, "Take the kernel after this many real steps (AdamW 5e-5, batches of 16).")
    ] = 0


@dataclass(frozen=True)
class FormulaOptions:
    """Which kernels."""

    formula: Annotated[
        str, _option(_FORMULA, "sgd, signgd, asymmetric, lora, projection; several comma-separated, in one pass.")
    ] = "sgd"
    eps: Annotated[float, _option(_FORMULA, "Sign kernels: x / (|x| + eps) in the place of the sign.")] = 0.0
    rank: Annotated[str, _option(_FORMULA, "LoRA: one or more ranks, such as 1,8,64.")] = "8"
    alpha: Annotated[float, _option(_FORMULA, "LoRA: numerator of the scaling alpha / rank.")] = 16.0
    target_modules: Annotated[
        str, _option(_FORMULA, "LoRA: all-linear, or suffixes of module names such as q_proj,v_proj.")
    ] = "all-linear"
    init: Annotated[str, _option(_FORMULA, "LoRA: how A is drawn, kaiming or gaussian.")] = "kaiming"
    rslora: Annotated[bool, _option(_FORMULA, "LoRA: scale by alpha / sqrt(rank).", "--rslora")] = False
    projection: Annotated[
        str, _option(_FORMULA, "Projection: intrinsic (normal entries), rademacher, or kronecker.")
    ] = "intrinsic"
    dimension: Annotated[int, _option(_FORMULA, "Projection: number of dimensions.")] = 512
    draw_seed: Annotated[int, _option(_FORMULA, "Seed of LoRA's A and of projections.")] = 0


@dataclass(frozen=True)
class SolveFolder:
    """Where the kernels are."""

    folder: Annotated[Path, _argument("A folder made by `foretune kernel` or `foretune forecast --out`.")]


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
        str, _option(_SOLVER, "auto, ridge, logistic, asymmetric, svc, svr, published; several comma-separated.")
    ] = "auto"
    kernels: Annotated[str | None, _option(_SOLVER, "Only these kernels of the folder.  [default: all]")] = None
    select: Annotated[
        str | None, _option(_SOLVER, "Only blocks that match these globs, comma-separated.  [default: all]")
    ] = None
    choose: Annotated[
        str, _option(_SOLVER, "What chooses hyperparameters: validation, or cv (5 folds of the training examples).")
    ] = "validation"


@dataclass(frozen=True)
class MethodOptions:
    """What is trained."""

    method: Annotated[
        str, _option(_METHOD, "ft, lora, lp (a head alone), lp-ft, lp-lora, bitfit, or linearized (the Taylor model).")
    ] = "ft"
    layers: Annotated[str | None, _option(_METHOD, "ft, lora: only these layers, such as 0,4-7.")] = None
    rank: Annotated[int, _option(_METHOD, "LoRA: rank.")] = 8
    alpha: Annotated[float, _option(_METHOD, "LoRA: numerator of the scaling alpha / rank.")] = 16.0
    target_modules: Annotated[
        str, _option(_METHOD, "LoRA: all-linear, or suffixes of module names such as q_proj,v_proj.")
    ] = "all-linear"
    init: Annotated[str, _option(_METHOD, "LoRA: how A is drawn, kaiming or gaussian.")] = "kaiming"
    rslora: Annotated[bool, _option(_METHOD, "LoRA: scale by alpha / sqrt(rank).", "--rslora")] = False
    draw_seed: Annotated[int, _option(_METHOD, "LoRA: seed of A.")] = 0
    head_learning_rate: Annotated[float, _option(_METHOD, "lp-ft, lp-lora: Adam's rate in the first stage.")] = 1e-3


@dataclass(frozen=True)
class TrainingOptions:
    """How it is trained; what is left out is as in Malladi et al. 2023."""

    optimiser: Annotated[str, _option(_TRAINING, "adamw, sgd or signgd.")] = "adamw"
    learning_rate: Annotated[
        float | None, _option(_TRAINING, "Learning rate.  [default: the middle of the paper's grid]")
    ] = None
    loss: Annotated[str, _option(_TRAINING, "cross-entropy or squared.")] = "cross-entropy"
    batch_size: Annotated[int | None, _option(_TRAINING, "Examples a step; 0 for all of them.  [default: 4]")] = None
    micro_batches: Annotated[int, _option(_TRAINING, "Parts that a batch is cut into, for memory.")] = 1
    steps: Annotated[int | None, _option(_TRAINING, "Steps.  [default: 32 for each training example]")] = None
    epochs: Annotated[float | None, _option(_TRAINING, "Passes over the data in the place of --steps.")] = None
    evaluate_every: Annotated[
        int | None, _option(_TRAINING, "Steps between evaluations.  [default: an eighth of the steps]")
    ] = None
    best_by: Annotated[str, _option(_TRAINING, "What the best checkpoint has on validation: score or loss.")] = "score"
    proximal: Annotated[
        float | None, _option(_TRAINING, "Strength of a pull to the start, applied selectively.  [default: none]")
    ] = None
    schedule: Annotated[str, _option(_TRAINING, "Of the learning rate: constant, linear or cosine.")] = "constant"
    clip: Annotated[float | None, _option(_TRAINING, "Largest norm of a gradient.  [default: no limit]")] = None
    dropout: Annotated[bool, _option(_TRAINING, "Dropout as the model is configured.")] = True
    precision: Annotated[str, _option(_TRAINING, "Of the passes: full, or bf16 by autocast.")] = "full"
    training_seed: Annotated[int, _option(_TRAINING, "Seed of batches and dropout.")] = 0


@dataclass(frozen=True)
class TuneOptions:
    """Where a run goes, and what it is a run of."""

    out: Annotated[
        Path, _option(_RUN, "Folder of the run; a stopped run there is resumed, a finished one shown.", "--out")
    ]
    grid: Annotated[
        str | None, _option(_RUN, "paper: the grid of Malladi et al. 2023, Table 3; the best run by validation.")
    ] = None
    full_data: Annotated[
        bool, _option(_RUN, "Train on all rows but those for validation (k per label, a tenth at most).", "--full-data")
    ] = False


@dataclass(frozen=True)
class BehaviourOptions:
    """Which run is measured, and on how much."""

    folder: Annotated[Path, _argument("A folder made by `foretune tune`.")]
    test_examples: Annotated[int, _option(_BEHAVIOUR, "Measure on at most this many test examples.")] = 64
    train_examples: Annotated[
        int | None,
        _option(
            _BEHAVIOUR, "At most this many training examples, for kernel and chi.  [default: all that fit in --memory]"
        ),
    ] = None
    formula: Annotated[str, _option(_BEHAVIOUR, "Kernel of the fixed-features test: sgd, signgd or asymmetric.")] = (
        "sgd"
    )
    segment_examples: Annotated[int, _option(_BEHAVIOUR, "Test examples for the local Lipschitz constants.")] = 4
    segment_points: Annotated[int, _option(_BEHAVIOUR, "Points on the way of training, for the same.")] = 4
    memory: Annotated[str, _option(_RUN, "Budget of kernels above the model's own memory.")] = "2GiB"


@dataclass(frozen=True)
class ReproduceOptions:
    """Which table of a paper, on what; what is left out is as in the paper."""

    table: Annotated[str, _argument("A table or figure of a paper, such as malladi-4; an unknown name lists all.")]
    model: Annotated[
        str | None,
        _option(
            _MODEL, "smollm2, minilm, bert-tiny, a hub id, a model folder, or a .gguf file.  [default: the table's]"
        ),
    ] = None
    device: Annotated[str, _option(_MODEL, "cpu, cuda, cuda:1, mps.")] = "cpu"
    tasks: Annotated[str | None, _option(_DATA, "Tasks, such as mr,sst2.  [default: the table's]")] = None
    k: Annotated[
        str | None, _option(_DATA, "Training examples per label, such as 16,64.  [default: the table's]", "--k")
    ] = None
    seeds: Annotated[str | None, _option(_DATA, "Seeds of the samples, such as 13,21.  [default: the table's]")] = None
    test: Annotated[int | None, _option(_DATA, "At most this many test examples.  [default: the table's]")] = None
    data: Annotated[
        Path | None,
        _option(_DATA, "Folder with a folder a task (train.*, perhaps test.*).  [default: the tasks' own sources]"),
    ] = None
    words: Annotated[
        str | None,
        _option(
            _OUTPUT,
            "Words for labels, such as negative=awful, in all tasks that have the label.  [default: the tasks']",
        ),
    ] = None
    first_piece: Annotated[
        bool, _option(_OUTPUT, "Let the first piece of a word of several tokens answer for it.", "--first-piece")
    ] = False
    memory: Annotated[str, _option(_RUN, "Budget of kernels above the model's own memory.")] = "2GiB"
    out: Annotated[
        Path, _option(_RUN, "Folder of pages, kernels and runs; what stands there is not computed again.", "--out")
    ] = Path("runs/reproduce")


@dataclass(frozen=True)
class BudgetOptions:
    """How much training a table pays for; what is left out is as in the paper, what is cut stands on the page."""

    steps: Annotated[int | None, _option(_TRAINING, "Steps of a run.  [default: the paper's]")] = None
    evaluate_every: Annotated[int | None, _option(_TRAINING, "Steps between evaluations.  [default: the paper's]")] = (
        None
    )
    batch_sizes: Annotated[
        str | None, _option(_TRAINING, "Batch sizes of the grids, such as 4,8.  [default: the paper's]")
    ] = None
    sgd_rates: Annotated[
        str | None, _option(_TRAINING, "SGD's learning rates, such as 1e-3,1e-2.  [default: the paper's]")
    ] = None
    adam_rates: Annotated[
        str | None, _option(_TRAINING, "Adam's learning rates, such as 2e-5.  [default: the paper's]")
    ] = None


@dataclass(frozen=True)
class ValidateOptions:
    """Which tasks, samples and runs a ranking is checked on."""

    tasks: Annotated[str, _option(_DATA, "Tasks, such as mr,sst2.")] = "mr,subj,trec"
    data: Annotated[
        Path | None,
        _option(_DATA, "Folder with a folder a task (train.*, perhaps test.*).  [default: the tasks' own sources]"),
    ] = None
    n: Annotated[
        int | None, _option(_DATA, "Training examples, and as many for validation.  [default: 128]", "--n")
    ] = None
    k: Annotated[int | None, _option(_DATA, "Training examples per label in the place of --n.", "--k")] = None
    full_data: Annotated[
        bool, _option(_DATA, "Train on all rows but some for validation, in the place of --n.", "--full-data")
    ] = False
    seeds: Annotated[str, _option(_DATA, "Seeds of the samples; one alone says nothing of the noise.")] = "13,21"
    test: Annotated[int, _option(_DATA, "At most this many test examples.")] = 400
    output: Annotated[
        str, _option(_OUTPUT, "head (starts from linear probing) or prompt (label words of a language model).")
    ] = "head"
    rank: Annotated[int, _option(_METHOD, "Rank of LoRA, alpha 16; 0 for full tuning.")] = 8
    candidates: Annotated[
        str | None, _option(_METHOD, "Only candidates that match these globs, such as 'layer*,all linear'.")
    ] = None
    learning_rates: Annotated[str, _option(_TRAINING, "AdamW's rates; the best by validation counts.")] = "5e-4,2e-3"
    batch_size: Annotated[int, _option(_TRAINING, "Examples a step.")] = 16
    epochs: Annotated[float, _option(_TRAINING, "Passes over the training examples.")] = 6
    evaluate_every: Annotated[int, _option(_TRAINING, "Steps between evaluations.")] = 8
    warm_up: Annotated[
        str | None, _option(_RUN, "Also score the kernel after this many real steps (AdamW 5e-5), such as 4 or 2,8.")
    ] = None
    memory: Annotated[str, _option(_RUN, "Budget of kernels above the model's own memory.")] = "2GiB"
    out: Annotated[
        Path, _option(_RUN, "Folder of the page, kernels and runs; what stands there is not made again.", "--out")
    ] = Path("runs/validate")


@dataclass(frozen=True)
class RunOptions:
    """Budget and results."""

    memory: Annotated[str, _option(_RUN, "Budget above the model's own memory.")] = "2GiB"
    plan: Annotated[bool, _option(_RUN, "Print time, memory and disk needed, and stop.", "--plan")] = False
    out: Annotated[Path | None, _option(_RUN, "Folder for kernels and run.yaml; a stopped run there is resumed.")] = (
        None
    )


@dataclass(frozen=True)
class ReportOptions:
    """Where results go besides the terminal."""

    json: Annotated[Path | None, _option(_RUN, "Write everything, unrounded, to this file.", "--json")] = None
    debug: Annotated[bool, _option(_RUN, "Show tracebacks.", "--debug")] = False
