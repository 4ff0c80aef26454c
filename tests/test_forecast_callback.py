"""The forecast beside the real run: logged at every evaluation; leaving the kernel regime is said once, by a rule."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

import foretune as ft
from foretune.errors import UsageError

CURVES = [
    {"learning_rate": 1e-4, "steps": [0, 4, 8], "validation_losses": [0.7, 0.69, 0.68]},
    {"learning_rate": 1e-3, "steps": [0, 4, 8], "validation_losses": [0.7, 0.5, 0.3]},
]
RECORD = {"forecast": {"recommended": {"adamw": {"learning_rate": 1e-3, "runs": CURVES}}}}


def told(losses: list[float]) -> ft.ForecastCallback:
    callback = ft.ForecastCallback(RECORD)
    for number, loss in enumerate(losses):
        logs = {"eval_loss": loss}
        state = SimpleNamespace(global_step=4 * number, log_history=[dict(logs)])
        callback.on_log(None, state, None, logs=logs)
        assert logs["eval_forecast_loss"] == state.log_history[0]["eval_forecast_loss"]
    return callback


@pytest.mark.parametrize(
    ("losses", "left"),
    [
        ([0.7, 0.5, 0.3], None),
        ([0.7, 0.59, 0.49], None),  # within half of the predicted change
        ([0.7, 0.61, 0.3], None),  # once
        ([0.7, 0.61, 0.51], 8),
        ([0.7, 0.2, float("nan")], 8),
        ([0.7, 0.7, 0.7, 0.7], 8),
    ],
)
def test_a_run_has_left_when_it_is_apart_twice_in_a_row(losses: list[float], left: int | None, caplog) -> None:
    with caplog.at_level(logging.WARNING, "foretune"):
        callback = told(losses)
    assert callback.left_at == left
    assert len([each for each in caplog.records if "left the kernel regime" in each.message]) == (left is not None)
    assert [each.predicted for each in callback.history[:3]] == [0.7, 0.5, 0.3]


def test_another_start_is_said_at_once(caplog) -> None:
    with caplog.at_level(logging.WARNING, "foretune"):
        told([0.9])
    assert "other rows, another prompt or another head" in caplog.text


@pytest.mark.parametrize("given", [{"forecast": {"recommended": None}}, "nowhere.json"])
def test_a_forecast_without_a_run_is_refused(given: object) -> None:
    with pytest.raises(UsageError, match="forecast"):
        ft.ForecastCallback(given)
