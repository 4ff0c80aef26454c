"""The options of `tune` and `behaviour`, in groups as in `foretune.cli.options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foretune.cli.fields import Field, Panel, argument, option, options_of
from foretune.cli.from_forecast import from_forecast
from foretune.cli.options import KernelMemory, PageFolder, adapter_fields
from foretune.cli.ranges import (
    AT_LEAST_1,
    MOST_RANK,
    SEED,
    Items,
    NeededUnless,
    NumberRange,
    Numbers,
    UsedWith,
    Whole,
    Words,
)
from foretune.finetune.trackers import NONE, TRACKERS
from foretune.finetune.training import Training
from foretune.kernels.adapter import Adapter
from foretune.model.parameters import ParameterFilter

_LORA = UsedWith("method", ("lora", "lp-lora"))
_LAYERS = UsedWith("method", ("ft", "lora", "lp-ft", "lp-lora", "linearized"))


@dataclass(frozen=True)
class _Method:
    """The name of the method, which comes first in the help."""

    method: Annotated[
        Literal["ft", "lora", "lp", "lp-ft", "lp-lora", "bitfit", "linearized"],
        option(
            Panel.METHOD,
            "Train all weights (ft), adapters (lora), the head (lp), first the head and then the rest (lp-ft, lp-lora), "
            "biases (bitfit), or all weights of the first-order Taylor model (linearized).",
        ),
    ] = "ft"


@dataclass(frozen=True)
class MethodOptions(
    options_of(
        Adapter,
        Panel.METHOD,
        "LoRA: ",
        rank=Field(Whole(1, MOST_RANK), _LORA),
        **adapter_fields(_LORA),
        seed=Field(SEED, _LORA, name="draw_seed"),
    ),
    options_of(
        ParameterFilter,
        Panel.METHOD,
        layers=Field(Numbers("0,4-7"), _LAYERS, text="Train only these layers, such as 0,4-7."),
    ),
    _Method,
):
    """What is trained."""

    parameters: Annotated[
        str | None,
        option(Panel.METHOD, "ft: train only these parameters, by their full names, besides a head.  [default: all]"),
        Items("encoder.layer.0.output.dense.weight"),
        UsedWith("method", ("ft",)),
    ] = None
    exclude_head: Annotated[
        bool,
        option(
            Panel.METHOD,
            "Do not train the head of the classifier or language model.  [default: it is trained too]",
            "--exclude-head",
        ),
        UsedWith("method", ("ft", "lora", "bitfit", "linearized")),
    ] = False
    head_learning_rate: Annotated[
        float,
        option(Panel.METHOD, "lp-ft, lp-lora: Adam's learning rate in the first stage, for the head."),
        NumberRange("1e-3"),
        UsedWith("method", ("lp-ft", "lp-lora")),
    ] = 1e-3


@dataclass(frozen=True)
class _Optimiser:
    """What `Training` has inside of objects, or has another default for; this comes first in the help."""

    optimiser: Annotated[
        Literal["adamw", "sgd", "signgd"], option(Panel.TRAINING, "Optimiser.", "--optimiser", "--optimizer")
    ] = "adamw"
    learning_rate: Annotated[
        float | None,
        option(Panel.TRAINING, "Learning rate.  [default: the middle of the paper's grid]"),
        NumberRange("2e-5"),
    ] = None
    loss: Annotated[Literal["cross-entropy", "squared"], option(Panel.TRAINING, "Loss to minimise.")] = "cross-entropy"
    batch_size: Annotated[
        int | None, option(Panel.TRAINING, "Examples per step; 0 for all of them.  [default: 4]"), Whole(0)
    ] = None
    proximal: Annotated[
        float | None,
        option(Panel.TRAINING, "Strength of the proximal penalty towards the pretrained weights.  [default: none]"),
        NumberRange("0.1"),
    ] = None


@dataclass(frozen=True)
class TrainingOptions(
    options_of(
        Training,
        Panel.TRAINING,
        micro_batches=Field(AT_LEAST_1),
        steps=Field(AT_LEAST_1),
        epochs=Field(NumberRange("3", most=1e6)),
        evaluate_every=Field(AT_LEAST_1),
        best_by=Field(),
        schedule=Field(),
        clip=Field(NumberRange("1")),
        dropout=Field(),
        precision=Field(),
        seed=Field(SEED, name="training_seed"),
    ),
    _Optimiser,
):
    """How it is trained; what is left out is as in Malladi et al. 2023."""

    report_to: Annotated[
        str | None,
        option(
            Panel.TRAINING,
            "Send the losses of every evaluation to these trackers, separated by commas: "
            f"{', '.join(TRACKERS)}.  [default: none]",
        ),
        Words("tensorboard,wandb", (*TRACKERS, NONE)),
    ] = None


@dataclass(frozen=True)
class TuneOptions:
    """Where a run goes, and what it is a run of."""

    out: Annotated[
        Path | None,
        option(
            Panel.RUN,
            "Folder of the run, needed unless --plan; a stopped run in it is resumed, a finished one is shown.",
            "--out",
        ),
        NeededUnless("plan", "A run needs a folder to go to"),
    ] = None
    forecast: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="forecast.json of `foretune forecast --out DIR`: train what it recommends, with the same rows and "
            "settings. An option given beside it overrides it.",
            rich_help_panel=Panel.RUN,
            callback=from_forecast,
            is_eager=True,
        ),
    ] = None
    grid: Annotated[
        Literal["paper"] | None,
        option(
            Panel.RUN,
            "paper: train all points of the grid of Malladi et al. 2023, Table 3, and keep the best by validation.",
        ),
    ] = None
    plan: Annotated[
        bool,
        option(
            Panel.RUN,
            "Print runs, steps, time and what is already finished in --out, then stop; one batch is timed.",
            "--plan",
        ),
    ] = False


@dataclass(frozen=True)
class BehaviourOptions:
    """Which run is measured, and on how much."""

    folder: Annotated[Path, argument("A folder made by `foretune tune`.")]
    out: PageFolder = None
    test_examples: Annotated[
        int, option(Panel.BEHAVIOUR, "Largest number of test examples to measure on."), AT_LEAST_1
    ] = 64
    train_examples: Annotated[
        int | None,
        option(
            Panel.BEHAVIOUR,
            "Largest number of training examples to measure on, for the kernel and the output derivative chi.  "
            "[default: all that fit in --memory]",
        ),
        AT_LEAST_1,
    ] = None
    formula: Annotated[
        Literal["sgd", "signgd", "asymmetric"], option(Panel.BEHAVIOUR, "Kernel of the fixed-features test.")
    ] = "sgd"
    segment_examples: Annotated[
        int, option(Panel.BEHAVIOUR, "Test examples for the local Lipschitz constants."), AT_LEAST_1
    ] = 4
    segment_points: Annotated[
        int,
        option(Panel.BEHAVIOUR, "Points between start and end of training for the local Lipschitz constants."),
        AT_LEAST_1,
    ] = 4
    memory: KernelMemory = "2GiB"
