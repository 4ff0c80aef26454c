"""The forecast beside a real run of `transformers.Trainer`, at every evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from foretune.errors import UsageError
from foretune.experiment.folder import FORECAST

LOGGER = "foretune"
"""The logger of what is said of a run."""
FLOOR, SHARE, TIMES = 0.05, 0.5, 2
"""The rule of `left_kernel_regime`: nats, share of the predicted change, evaluations in a row."""


@dataclass(frozen=True)
class ForecastBesideRun:
    """An evaluation.

    Attributes:
        step: step of the run.
        predicted: validation loss of the forecast, nats; after its last step, that of the last.
        real: validation loss of the run, nats.
        apart: whether the two differ by more than 0.05 nats and by more than half of the predicted change.
    """

    step: int
    predicted: float
    real: float
    apart: bool


def beside_run(curve: Mapping[int, float], step: int, real: float) -> ForecastBesideRun:
    """An evaluation beside the forecast of it.

    Args:
        curve: step -> predicted validation loss, `predicted_curve`.
        step: of the run.
        real: its validation loss, nats.
    """
    steps, losses = list(curve), list(curve.values())
    predicted = float(np.interp(step, steps, losses))
    bound = max(FLOOR, SHARE * abs(predicted - losses[0]))
    return ForecastBesideRun(step, predicted, real, apart=not abs(real - predicted) <= bound)


def left_kernel_regime(history: Sequence[ForecastBesideRun]) -> bool:
    """Whether a run has left the kernel regime: its loss was apart from the predicted one twice in a row.

    A run in the kernel regime follows the predicted curve. The reverse does not hold: equal losses prove nothing, see
    `foretune behaviour`.
    """
    return len(history) >= TIMES and all(each.apart for each in history[-TIMES:])


def left_at(history: Sequence[ForecastBesideRun]) -> int | None:
    """The step at which a run was first seen outside of the kernel regime; None where it was not."""
    places = range(1, len(history) + 1)
    return next((history[at - 1].step for at in places if left_kernel_regime(history[:at])), None)


class ForecastCallback(TrainerCallback):
    """Logs the predicted validation loss beside the real one, and says when the run leaves the kernel regime.

    Trackers draw `eval_forecast_loss` where this callback stands before theirs.

    Args:
        forecast: forecast.json or its folder, what is read from it, or a `Forecast`.

    Attributes:
        history: the evaluations so far.
        left_at: step at which the run was first seen outside of the kernel regime; None as long as it was not.

    Raises:
        UsageError: the forecast predicts no run.
    """

    def __init__(self, forecast: Any) -> None:
        self.curve = predicted_curve(forecast)
        self.history: list[ForecastBesideRun] = []
        self.left_at: int | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Add the forecast to the log of an evaluation."""
        if logs is None or "eval_loss" not in logs:
            return
        found = beside_run(self.curve, state.global_step, logs["eval_loss"])
        logs["eval_forecast_loss"] = found.predicted
        if state.log_history:
            state.log_history[-1]["eval_forecast_loss"] = found.predicted
        self.history.append(found)
        log = logging.getLogger(LOGGER)
        log.info("step %d: validation loss %.4f, forecast %.4f", found.step, found.real, found.predicted)
        if not found.step and found.apart:
            log.warning(
                "The run starts at a validation loss of %.4f, the forecast at %.4f: other rows, another prompt or another "
                "head.", found.real, found.predicted,
            )  # fmt: skip
        elif self.left_at is None and left_kernel_regime(self.history):
            self.left_at = found.step
            log.warning(
                "The run has left the kernel regime at step %d: its validation loss is %.4f, the forecast's %.4f.",
                found.step, found.real, found.predicted,
            )  # fmt: skip


def predicted_curve(forecast: Any) -> Mapping[int, float]:
    """Step -> validation loss of the recommended run, nats.

    Raises:
        UsageError: the forecast predicts no run, or is none.
    """
    if isinstance(forecast, str | Path):
        place = Path(forecast) / FORECAST if Path(forecast).is_dir() else Path(forecast)
        try:
            if not place.is_file():
                raise FileNotFoundError("it is not a file")
            forecast = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{place} is not a forecast ({error}). Name the forecast.json of a folder.") from error
    adamw = getattr(forecast, "record", forecast)
    for name in ("forecast", "recommended", "adamw"):
        adamw = _part(adamw, name, adamw if name == "forecast" else None)
    rate = _part(adamw, "learning_rate")
    run = next((run for run in _part(adamw, "runs") or () if _part(run, "learning_rate") == rate), None)
    if run is None:
        raise UsageError("This forecast predicts no run: it recommends nothing. Name a forecast that recommends one.")
    return dict(zip(_part(run, "steps"), _part(run, "validation_losses"), strict=True))


def _part(whole: Any, name: str, default: Any = None) -> Any:
    """A value of a result, be it an object or what JSON keeps of it."""
    return whole.get(name, default) if isinstance(whole, Mapping) else getattr(whole, name, default)
