"""The options of `forecast`, `kernel`, `solve` and `tasks`, and those that commands share, in groups.

A command takes some groups; every field of a group is one option, with its type, default, help, panel and range. A closed
choice is a `Literal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foretune.cli.fields import Field, Panel, argument, option, options_of
from foretune.cli.ranges import (
    AT_LEAST_1,
    MOST_RANK,
    SEED,
    Device,
    Items,
    LabelWords,
    Memory,
    NeededUnless,
    NotWith,
    NumberRange,
    Numbers,
    UsedWith,
    Whole,
    Words,
)
from foretune.kernels.adapter import Adapter
from foretune.model.parameters import ParameterFilter

FORMULAS = ("sgd", "signgd", "asymmetric", "lora", "projection")
_SIGNS, _LORA = UsedWith("formula", ("signgd", "asymmetric")), UsedWith("formula", ("lora",))
_PROJECTION = UsedWith("formula", ("projection",))
DeviceOption = Annotated[str, option(Panel.MODEL, "Where to compute: cpu, cuda, or cuda:1 (the second GPU)."), Device()]
KernelMemory = Annotated[
    str, option(Panel.RUN, "Memory budget for kernels, in addition to the model's own memory."), Memory()
]
KernelFeatures = Annotated[
    Literal["auto", "exact", "sketched"],
    option(
        Panel.RUN,
        "Exact kernels, or sketched ones, whose cost grows only in proportion to the examples; auto sketches where exact "
        "ones do not fit into memory.",
    ),
]
TaskFolders = Annotated[
    Path | None,
    option(
        Panel.DATA,
        "Folder with one subfolder per task, each with train.* and optionally test.*.  [default: the tasks' own sources]",
    ),
]


def adapter_fields(used: UsedWith) -> dict[str, Field]:
    """The fields of `Adapter` that every command with adapters has, and with what they are used."""
    endings = "all-linear, or endings of module names, such as q_proj,v_proj."
    return {
        "alpha": Field(NumberRange("16"), used),
        "targets": Field(Items("q_proj,v_proj"), used, name="target_modules", text=endings),
        "init": Field(used),
        "rslora": Field(used),
    }


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[
        str, argument("A built-in model (smollm2, minilm, bert-tiny), a hub id, a model folder, or a .gguf file.")
    ]
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"], option(Panel.MODEL, "Data type of the model's weights.")
    ] = "float32"
    device: DeviceOption = "cpu"
    revision: Annotated[str | None, option(Panel.MODEL, "Revision of a hub model.")] = None
    kind: Annotated[
        Literal["causal", "masked", "encoder"] | None,
        option(
            Panel.MODEL,
            "Load the model as causal, masked or encoder (no language-model head).  [default: as it was trained]",
        ),
    ] = None
    trust_remote_code: Annotated[
        bool, option(Panel.MODEL, "Run Python code that comes with the model.", "--trust-remote-code")
    ] = False


@dataclass(frozen=True)
class RowOptions:
    """Which rows, and how they are read."""

    data: Annotated[
        str,
        argument(
            "A built-in task, a .csv/.jsonl/.parquet file, a folder with train.* and test.*, or a hub dataset id."
        ),
    ]
    text: Annotated[str | None, option(Panel.DATA, "Column with the text.  [default: text]")] = None
    text2: Annotated[str | None, option(Panel.DATA, "Column with the second text of a pair.")] = None
    label: Annotated[str | None, option(Panel.DATA, "Column with the label.  [default: label]")] = None
    labels: Annotated[
        str | None,
        option(
            Panel.DATA,
            "Label names in order, separated by commas; rows with other labels are left out.  [default: all labels]",
        ),
        Items("negative,positive"),
    ] = None
    data_split: Annotated[str | None, option(Panel.DATA, "Split of a hub dataset.  [default: train]")] = None
    data_revision: Annotated[str | None, option(Panel.DATA, "Revision of a hub dataset.")] = None
    max_labels: Annotated[
        int | None, option(Panel.DATA, "Largest number of different labels to accept.  [default: 100]"), Whole(2)
    ] = None
    delimiter: Annotated[
        str | None,
        option(Panel.DATA, "Character that separates the fields of a .csv or .tsv file, such as ';' or a tab."),
    ] = None
    encoding: Annotated[str | None, option(Panel.DATA, "Encoding of text files, such as cp1252.  [default: utf-8]")] = (
        None
    )
    validation_data: Annotated[
        str | None, option(Panel.DATA, "File with the validation rows.  [default: a part of DATA]")
    ] = None
    test_data: Annotated[str | None, option(Panel.DATA, "File with the test rows.  [default: the rest of DATA]")] = None


@dataclass(frozen=True)
class DataOptions(RowOptions):
    """Which rows, and how they are split."""

    k: Annotated[
        int | None,
        option(Panel.DATA, "Training examples per label; validation gets as many again.  [default: 16]", "--k"),
        AT_LEAST_1,
    ] = None
    n: Annotated[
        int | None,
        option(Panel.DATA, "Training examples in all, instead of --k; validation gets as many again.", "--n"),
        AT_LEAST_1,
    ] = None
    full_data: Annotated[
        bool,
        option(
            Panel.DATA,
            "Train on all rows except test rows and validation rows: k per label, at most a tenth.",
            "--full-data",
        ),
    ] = False
    test: Annotated[int, option(Panel.DATA, "Largest number of test examples."), AT_LEAST_1] = 64
    seed: Annotated[int, option(Panel.DATA, "Seed for choosing the examples, and for a random head."), SEED] = 13


@dataclass(frozen=True)
class AnswerOptions:
    """What the model is asked, and where its outputs are read."""

    output: Annotated[
        Literal["auto", "prompt", "head"],
        option(
            Panel.OUTPUT,
            "Let the model answer with label words after a prompt, or with a classification head; auto is a prompt "
            "if the model has a language-model head.",
        ),
    ] = "auto"
    task: Annotated[
        str | None, option(Panel.OUTPUT, "Take prompt, columns and metric from this built-in task or .yaml file.")
    ] = None
    prompt: Annotated[
        str | None, option(Panel.OUTPUT, "Use this prompt of the task: manual, null or search.  [default: manual]")
    ] = None
    template: Annotated[str | None, option(Panel.OUTPUT, "Prompt, such as '{text} It was {mask} .'")] = None
    words: Annotated[
        str | None, option(Panel.OUTPUT, "Label words, such as bad=terrible,good=great."), LabelWords()
    ] = None
    first_piece: Annotated[
        bool,
        option(Panel.OUTPUT, "If a label word has several tokens, use the first of them.", "--first-piece"),
    ] = False
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None,
        option(
            Panel.OUTPUT,
            "What a head reads: mean (over all tokens), cls (the first token) or last (the last token).  "
            "[default: mean; last for causal models]",
        ),
    ] = None
    max_length: Annotated[
        int | None, option(Panel.OUTPUT, "Longest input in tokens; longer texts are cut, prompts are not."), AT_LEAST_1
    ] = None


@dataclass(frozen=True)
class OutputOptions(AnswerOptions):
    """The same with the score, and the start of a head."""

    metric: Annotated[
        Literal["accuracy", "f1", "matthews"] | None,
        option(Panel.OUTPUT, "Score to report.  [default: the task's, or accuracy]"),
    ] = None
    head: Annotated[
        Literal["probe", "random"],
        option(Panel.OUTPUT, "Start of a head: probe (the solution of linear probing) or random."),
    ] = "probe"
    difference: Annotated[bool, option(Panel.OUTPUT, "With two classes, use the single logit difference f1 - f0.")] = (
        True
    )


@dataclass(frozen=True)
class BlockOptions(
    options_of(
        ParameterFilter,
        Panel.BLOCKS,
        layers=Field(Numbers("0,4-7"), text="Use only these layers, such as 0,4-7."),
        biases_only=Field(),
        lora_only=Field(),
    )
):
    """Which parameters take part."""

    blocks: Annotated[
        str | None,
        option(Panel.BLOCKS, "Use only parameters whose names match these globs, separated by commas."),
        Items("*.query.*,*.value.*"),
    ] = None
    exclude_embeddings: Annotated[
        bool, option(Panel.BLOCKS, "Leave out the embedding tables.", "--exclude-embeddings")
    ] = False
    exclude_head: Annotated[
        bool, option(Panel.BLOCKS, "Leave out the head of a classifier or language model.", "--exclude-head")
    ] = False


@dataclass(frozen=True)
class _Formula:
    """Which kernels, which comes first in the help, and the settings that no dataclass has in this form."""

    formula: Annotated[
        str,
        option(Panel.FORMULA, f"Kernels to compute, separated by commas: {', '.join(FORMULAS)}."),
        Words("sgd,signgd", FORMULAS),
    ] = "sgd"
    eps: Annotated[
        float,
        option(Panel.FORMULA, "Sign kernels: smooth the sign to x / (|x| + eps); 0 is the exact sign."),
        NumberRange("1e-8", zero=True),
        _SIGNS,
    ] = 0.0
    threshold: Annotated[
        float,
        option(
            Panel.FORMULA,
            "Sign kernels: count entries below this share of their uncancelled size as zero, since rounding noise has "
            "random signs. The default changes a kernel by about 0.1% to 1%; 0 is the exact definition.",
        ),
        NumberRange("1e-4", zero=True),
        _SIGNS,
    ] = 1e-4
    rank: Annotated[
        str,
        option(Panel.FORMULA, "LoRA: one or more ranks, such as 1,8,64."),
        Numbers("1,8,64", 1, MOST_RANK),
        _LORA,
    ] = "8"


@dataclass(frozen=True)
class FormulaOptions(
    options_of(
        Adapter,
        Panel.FORMULA,
        "LoRA: ",
        **adapter_fields(_LORA),
    ),
    _Formula,
):
    """Which kernels."""

    projection: Annotated[
        Literal["intrinsic", "rademacher", "kronecker"],
        option(Panel.FORMULA, "Projection: entries of the random matrix, intrinsic (normal), rademacher or kronecker."),
        _PROJECTION,
    ] = "intrinsic"
    dimension: Annotated[
        int,
        option(Panel.FORMULA, "Projection: number of dimensions."),
        Whole(1, 1_000_000),
        _PROJECTION,
    ] = 512
    draw_seed: Annotated[
        int,
        option(Panel.FORMULA, "LoRA, projection: seed for drawing random matrices."),
        SEED,
        UsedWith("formula", ("lora", "projection")),
    ] = 0


@dataclass(frozen=True)
class ShowOptions:
    """Which result is printed again, how much of it, and where to."""

    result: Annotated[Path, argument("A folder that a command made with --out, or a file written by --json.")]
    html: Annotated[
        Path | None, option(Panel.RUN, "Write the result to this .html file too: one page, which needs no network.")
    ] = None
    details: Annotated[bool, option(Panel.RUN, "Print every table and note, not only the answer.", "--details")] = False
    debug: Annotated[bool, option(Panel.RUN, "Show the traceback of an error.", "--debug")] = False


@dataclass(frozen=True)
class CardOptions:
    """Of which result a card is made, and where it goes."""

    result: Annotated[Path, argument("A folder made by `foretune forecast`, `tune` or `kernel`, or a file of --json.")]
    out: Annotated[
        Path | None,
        option(
            Panel.RUN,
            "Write the card to this .md file instead of the screen; a file that you changed is never replaced.",
        ),
    ] = None
    debug: Annotated[bool, option(Panel.RUN, "Show the traceback of an error.", "--debug")] = False


@dataclass(frozen=True)
class SchemaName:
    """Which schema is printed."""

    kind: Annotated[str | None, argument("A kind such as forecast or tune; without it, all kinds are listed.")] = None


@dataclass(frozen=True)
class TaskName:
    """Which task is shown."""

    name: Annotated[str | None, argument("A built-in task or a .yaml file; without it, all tasks are listed.")] = None


PageFolder = Annotated[
    Path | None,
    option(Panel.RUN, "Folder for the page: report.html, page.json, tables as .csv, figures as .svg.", "--out"),
]
"""Where a command that keeps nothing else puts its page."""


@dataclass(frozen=True)
class RunOptions:
    """Budget and results."""

    memory: Annotated[
        str,
        option(
            Panel.RUN, "Memory budget, in addition to the model's own memory; auto is 2GiB on a CPU, most of a GPU's."
        ),
        Memory(),
    ] = "auto"
    plan: Annotated[bool, option(Panel.RUN, "Print the time, memory and disk space needed, then stop.", "--plan")] = (
        False
    )
    out: Annotated[
        Path | None,
        option(
            Panel.RUN,
            "Folder for report.html, train.py, forecast.json and kernels; a stopped forecast in it is resumed.",
        ),
    ] = None


@dataclass(frozen=True)
class KernelRunOptions(RunOptions):
    """The same where the folder is the result."""

    out: Annotated[
        Path | None,
        option(Panel.RUN, "Folder for kernels and run.yaml, needed unless --plan; a stopped run in it is resumed."),
        NeededUnless("plan", "A kernel needs a folder to go to"),
    ] = None


@dataclass(frozen=True)
class ReportOptions:
    """Where results go besides the terminal."""

    json: Annotated[Path | None, option(Panel.RUN, "Also write all results, unrounded, to this file.", "--json")] = None
    debug: Annotated[bool, option(Panel.RUN, "Show the traceback of an error.", "--debug")] = False
    quiet: Annotated[bool, option(Panel.RUN, "Show no progress, only results and errors.", "--quiet")] = False
    verbose: Annotated[
        bool,
        option(Panel.RUN, "Show more progress: every ten seconds, and the end of each stage.", "--verbose", "-v"),
        NotWith("quiet"),
    ] = False
    details: Annotated[bool, option(Panel.RUN, "Print every table and note, not only the answer.", "--details")] = False
