"""The options of `reproduce` and `validate`, in groups as in `foretune.cli.options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foretune.cli.fields import Panel, argument, option
from foretune.cli.options import DeviceOption, KernelFeatures, KernelMemory, TaskFolders
from foretune.cli.ranges import (
    AT_LEAST_1,
    MOST_RANK,
    SEED,
    Decimals,
    Items,
    LabelWords,
    NumberRange,
    Numbers,
    UsedWith,
    Whole,
)

PlanOnly = Annotated[
    bool,
    option(
        Panel.RUN,
        "Print experiments, kernels, runs, time and memory, and what is already in --out, then stop; one batch is timed.",
        "--plan",
    ),
]


@dataclass(frozen=True)
class ReproduceOptions:
    """Which table of a paper, on what; what is left out is as in the paper."""

    table: Annotated[str, argument("A table or figure of a paper, such as malladi-4; an unknown name lists all.")]
    model: Annotated[
        str | None,
        option(
            Panel.MODEL,
            "A built-in model (smollm2, minilm, bert-tiny), a hub id, a model folder, or a .gguf file.  "
            "[default: the table's]",
        ),
    ] = None
    device: DeviceOption = "cpu"
    tasks: Annotated[
        str | None, option(Panel.DATA, "Tasks, such as mr,sst2.  [default: the table's]"), Items("mr,sst2")
    ] = None
    k: Annotated[
        str | None,
        option(Panel.DATA, "Training examples per label, such as 16,64.  [default: the table's]", "--k"),
        Numbers("16,64", 1),
    ] = None
    seeds: Annotated[
        str | None,
        option(Panel.DATA, "Seeds of the samples, such as 13,21.  [default: the table's]"),
        Numbers("13,21", SEED.least, SEED.most),
    ] = None
    test: Annotated[
        int | None, option(Panel.DATA, "Largest number of test examples.  [default: the table's]"), AT_LEAST_1
    ] = None
    data: TaskFolders = None
    words: Annotated[
        str | None,
        option(
            Panel.OUTPUT,
            "Label words, such as negative=awful, for all tasks that have the label.  [default: the tasks' own]",
        ),
        LabelWords(),
    ] = None
    first_piece: Annotated[
        bool, option(Panel.OUTPUT, "If a label word has several tokens, use the first of them.", "--first-piece")
    ] = False
    memory: KernelMemory = "2GiB"
    out: Annotated[
        Path,
        option(Panel.RUN, "Folder for pages, kernels and runs; what is already there is not computed again.", "--out"),
    ] = Path("runs/reproduce")
    plan: PlanOnly = False


@dataclass(frozen=True)
class BudgetOptions:
    """Training budget of a table. What is left out is as in the paper; cuts are listed on the page."""

    steps: Annotated[int | None, option(Panel.TRAINING, "Steps per run.  [default: the paper's]"), AT_LEAST_1] = None
    evaluate_every: Annotated[
        int | None, option(Panel.TRAINING, "Steps between two evaluations.  [default: the paper's]"), AT_LEAST_1
    ] = None
    batch_sizes: Annotated[
        str | None,
        option(Panel.TRAINING, "Batch sizes of the grids, such as 4,8.  [default: the paper's]"),
        Numbers("4,8", 1),
    ] = None
    sgd_rates: Annotated[
        str | None,
        option(Panel.TRAINING, "SGD's learning rates, such as 1e-3,1e-2.  [default: the paper's]"),
        Decimals("1e-3,1e-2"),
    ] = None
    adam_rates: Annotated[
        str | None,
        option(Panel.TRAINING, "Adam's learning rates, such as 2e-5.  [default: the paper's]"),
        Decimals("1e-5,2e-5"),
    ] = None


@dataclass(frozen=True)
class ValidateOptions:
    """Which tasks, samples and runs a ranking is checked on."""

    tasks: Annotated[str, option(Panel.DATA, "Tasks, such as mr,sst2."), Items("mr,sst2")] = "mr,subj,trec"
    data: TaskFolders = None
    n: Annotated[
        int | None,
        option(Panel.DATA, "Number of training examples; validation gets as many again.  [default: 128]", "--n"),
        AT_LEAST_1,
    ] = None
    k: Annotated[int | None, option(Panel.DATA, "Training examples per label, instead of --n.", "--k"), AT_LEAST_1] = (
        None
    )
    full_data: Annotated[
        bool,
        option(
            Panel.DATA,
            "Train on all rows except test rows and validation rows: 32 or --k per label, at most a tenth.",
            "--full-data",
        ),
    ] = False
    seeds: Annotated[
        str,
        option(Panel.DATA, "Seeds of the samples; give two or more to measure noise."),
        Numbers("13,21", SEED.least, SEED.most),
    ] = "13,21"
    test: Annotated[int, option(Panel.DATA, "Largest number of test examples."), AT_LEAST_1] = 400
    output: Annotated[
        Literal["head", "prompt"],
        option(
            Panel.OUTPUT,
            "Let the model answer with a head that starts from linear probing, or with label words after a prompt.",
        ),
    ] = "head"
    method: Annotated[
        Literal["lora", "ft"],
        option(Panel.METHOD, "Train adapters with alpha 16 (lora), or the weights themselves (ft)."),
    ] = "lora"
    rank: Annotated[
        int,
        option(Panel.METHOD, "LoRA: rank of the adapters."),
        Whole(1, MOST_RANK, "; full tuning is --method ft without --rank"),
        UsedWith("method", ("lora",)),
    ] = 8
    candidates: Annotated[
        str | None,
        option(Panel.METHOD, "Use only candidates whose names match these globs, such as 'layer*,all linear'."),
        Items("layer*,all linear"),
    ] = None
    learning_rates: Annotated[
        str,
        option(Panel.TRAINING, "Learning rates of AdamW; the best run by validation counts."),
        Decimals("5e-4,2e-3"),
    ] = "5e-4,2e-3"
    batch_size: Annotated[int, option(Panel.TRAINING, "Examples per step."), AT_LEAST_1] = 16
    epochs: Annotated[
        float, option(Panel.TRAINING, "Passes over the training examples."), NumberRange("6", most=1e6)
    ] = 6
    evaluate_every: Annotated[int, option(Panel.TRAINING, "Steps between two evaluations."), AT_LEAST_1] = 8
    warm_up: Annotated[
        str | None,
        option(
            Panel.RUN, "Also score the kernels after this many real training steps (AdamW at 5e-5), such as 4 or 2,8."
        ),
        Numbers("2,8", 1),
    ] = None
    prodigy: Annotated[
        bool,
        option(
            Panel.RUN,
            "Also train every candidate with Prodigy, which finds its own learning rate (pip install 'foretune[prodigy]').",
            "--prodigy",
        ),
    ] = False
    prior: Annotated[
        str | None,
        option(
            Panel.RUN,
            "Also rank by a prior of placements from other results of foretune validate, of other models or tasks: "
            "folders or .json files.",
        ),
        Items("runs/other/validate"),
    ] = None
    features: KernelFeatures = "auto"
    memory: KernelMemory = "2GiB"
    out: Annotated[
        Path,
        option(
            Panel.RUN, "Folder for the page, kernels and runs; what is already there is not computed again.", "--out"
        ),
    ] = Path("runs/validate")
    plan: PlanOnly = False
