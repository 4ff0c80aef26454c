"""The options of `tune` and `behaviour`, in groups as in `foretune.cli.options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from foretune.cli.options import Panel, argument, option
from foretune.cli.ranges import AT_LEAST_1, MOST_RANK, SEED, Choice, Items, Memory, Number, Numbers, UsedWith, Whole

LORA = ("lora", "lp-lora")
"""The methods that train adapters."""


@dataclass(frozen=True)
class MethodOptions:
    """What is trained."""

    method: Annotated[
        str,
        option(Panel.METHOD, "ft, lora, lp (a head alone), lp-ft, lp-lora, bitfit, or linearized (the Taylor model)."),
    ] = "ft"
    layers: Annotated[
        str | None, option(Panel.METHOD, "ft, lora: only these layers, such as 0,4-7."), Numbers("0,4-7")
    ] = None
    rank: Annotated[int, option(Panel.METHOD, "LoRA: rank."), Whole(1, MOST_RANK), UsedWith(8, "method", LORA)] = 8
    alpha: Annotated[
        float,
        option(Panel.METHOD, "LoRA: numerator of the scaling alpha / rank."),
        Number("16"),
        UsedWith(16.0, "method", LORA),
    ] = 16.0
    target_modules: Annotated[
        str,
        option(Panel.METHOD, "LoRA: all-linear, or suffixes of module names such as q_proj,v_proj."),
        Items("q_proj,v_proj"),
        UsedWith("all-linear", "method", LORA),
    ] = "all-linear"
    init: Annotated[
        str,
        option(Panel.METHOD, "LoRA: how A is drawn, kaiming or gaussian."),
        Choice("kaiming", "gaussian"),
        UsedWith("kaiming", "method", LORA),
    ] = "kaiming"
    rslora: Annotated[
        bool, option(Panel.METHOD, "LoRA: scale by alpha / sqrt(rank).", "--rslora"), UsedWith(False, "method", LORA)
    ] = False
    draw_seed: Annotated[int, option(Panel.METHOD, "LoRA: seed of A."), SEED, UsedWith(0, "method", LORA)] = 0
    head_learning_rate: Annotated[
        float,
        option(Panel.METHOD, "lp-ft, lp-lora: Adam's rate in the first stage."),
        Number("1e-3"),
        UsedWith(1e-3, "method", ("lp-ft", "lp-lora")),
    ] = 1e-3


@dataclass(frozen=True)
class TrainingOptions:
    """How it is trained; what is left out is as in Malladi et al. 2023."""

    optimiser: Annotated[str, option(Panel.TRAINING, "adamw, sgd or signgd.", "--optimiser", "--optimizer")] = "adamw"
    learning_rate: Annotated[
        float | None,
        option(Panel.TRAINING, "Learning rate.  [default: the middle of the paper's grid]"),
        Number("2e-5"),
    ] = None
    loss: Annotated[str, option(Panel.TRAINING, "cross-entropy or squared.")] = "cross-entropy"
    batch_size: Annotated[
        int | None, option(Panel.TRAINING, "Examples a step; 0 for all of them.  [default: 4]"), Whole(0)
    ] = None
    micro_batches: Annotated[int, option(Panel.TRAINING, "Parts that a batch is cut into, for memory."), AT_LEAST_1] = 1
    steps: Annotated[
        int | None, option(Panel.TRAINING, "Steps.  [default: 32 for each training example]"), AT_LEAST_1
    ] = None
    epochs: Annotated[
        float | None, option(Panel.TRAINING, "Passes over the data in the place of --steps."), Number("3", most=1e6)
    ] = None
    evaluate_every: Annotated[
        int | None, option(Panel.TRAINING, "Steps between evaluations.  [default: an eighth of the steps]"), AT_LEAST_1
    ] = None
    best_by: Annotated[
        str,
        option(Panel.TRAINING, "What the best checkpoint has on validation: score or loss."),
        Choice("score", "loss"),
    ] = "score"
    proximal: Annotated[
        float | None,
        option(Panel.TRAINING, "Strength of a pull to the start, applied selectively.  [default: none]"),
        Number("0.1"),
    ] = None
    schedule: Annotated[
        str,
        option(Panel.TRAINING, "Of the learning rate: constant, linear or cosine."),
        Choice("constant", "linear", "cosine"),
    ] = "constant"
    clip: Annotated[
        float | None, option(Panel.TRAINING, "Largest norm of a gradient.  [default: no limit]"), Number("1")
    ] = None
    dropout: Annotated[bool, option(Panel.TRAINING, "Dropout as the model is configured.")] = True
    precision: Annotated[
        str, option(Panel.TRAINING, "Of the passes: full, or bf16 by autocast."), Choice("full", "bf16")
    ] = "full"
    training_seed: Annotated[int, option(Panel.TRAINING, "Seed of batches and dropout."), SEED] = 0


@dataclass(frozen=True)
class TuneOptions:
    """Where a run goes, and what it is a run of."""

    out: Annotated[
        Path, option(Panel.RUN, "Folder of the run; a stopped run there is resumed, a finished one shown.", "--out")
    ]
    grid: Annotated[
        str | None,
        option(Panel.RUN, "paper: the grid of Malladi et al. 2023, Table 3; the best run by validation."),
        Choice("paper"),
    ] = None


@dataclass(frozen=True)
class BehaviourOptions:
    """Which run is measured, and on how much."""

    folder: Annotated[Path, argument("A folder made by `foretune tune`.")]
    test_examples: Annotated[
        int, option(Panel.BEHAVIOUR, "Measure on at most this many test examples."), AT_LEAST_1
    ] = 64
    train_examples: Annotated[
        int | None,
        option(
            Panel.BEHAVIOUR,
            "At most this many training examples, for kernel and chi.  [default: all that fit in --memory]",
        ),
        AT_LEAST_1,
    ] = None
    formula: Annotated[
        str,
        option(Panel.BEHAVIOUR, "Kernel of the fixed-features test: sgd, signgd or asymmetric."),
        Choice("sgd", "signgd", "asymmetric"),
    ] = "sgd"
    segment_examples: Annotated[
        int, option(Panel.BEHAVIOUR, "Test examples for the local Lipschitz constants."), AT_LEAST_1
    ] = 4
    segment_points: Annotated[
        int, option(Panel.BEHAVIOUR, "Points on the way of training, for the same."), AT_LEAST_1
    ] = 4
    memory: Annotated[str, option(Panel.RUN, "Budget of kernels above the model's own memory."), Memory()] = "2GiB"
