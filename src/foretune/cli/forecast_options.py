"""The options of `forecast` alone, in a group as in `foretune.cli.options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from foretune.cli.fields import Panel, option
from foretune.cli.options import KernelFeatures
from foretune.cli.ranges import AT_LEAST_1, MOST_RANK, NotWith, NumberRange, Numbers, Whole


@dataclass(frozen=True)
class ForecastOptions:
    """The run that is planned, and what it is forecast from."""

    steps: Annotated[
        int | None,
        option(
            Panel.TRAINING,
            "Steps of the run that you plan.  [default: 3 passes over the training examples, 48 at least]",
        ),
        AT_LEAST_1,
    ] = None
    epochs: Annotated[
        float | None,
        option(Panel.TRAINING, "Passes over the training examples of the run that you plan, instead of --steps."),
        NumberRange("3", most=1e6),
        NotWith("steps"),
    ] = None
    batch_size: Annotated[int, option(Panel.TRAINING, "Examples per step of the run that you plan."), AT_LEAST_1] = 16
    schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        option(
            Panel.TRAINING,
            "Schedule of the learning rate in that run: constant, or falling to zero at the last step (linear, cosine).",
        ),
    ] = "constant"
    rank: Annotated[
        str,
        option(Panel.METHOD, "LoRA: ranks to compare, such as 8 or 4,16."),
        Numbers("1,8,64", 1, MOST_RANK),
    ] = "1,4,16,64"
    warm_up: Annotated[
        int,
        option(Panel.RUN, "Compute the kernel after this many real training steps (AdamW at 5e-5, batches of 16)."),
        Whole(0),
    ] = 0
    features: KernelFeatures = "auto"
    exit_code: Annotated[
        bool,
        option(
            Panel.RUN, "End with exit code 0 if tuning is worth it, 3 if not, 4 if it cannot be told.", "--exit-code"
        ),
        NotWith("plan"),
    ] = False
