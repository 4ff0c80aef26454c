"""The forecast beside the real run: logged at every evaluation; leaving the kernel regime is said once, by a rule."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import foretune as ft
from foretune.errors import UsageError

RUNS = [
    {"learning_rate": rate, "steps": [0, 4, 8], "validation_losses": losses}
    for rate, losses in ((1e-4, [0.7, 0.6, 0.55]), (1e-3, [0.7, 0.5, 0.3]), (1e-2, [0.7, 2.0, 9.0]))
]
RECORD = {"forecast": {"recommended": {"adamw": {"learning_rate": 1e-3, "runs": RUNS}}}}


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


@pytest.mark.parametrize("batch", [2, 4, 8, 9])
@pytest.mark.parametrize("trained", [False, True], ids=["evaluate", "train"])
def test_the_loss_of_a_trainer_of_ones_own_is_read_as_the_mean_over_rows(
    batch: int, trained: bool, tmp_path: Path
) -> None:
    """8 rows of loss 0 and one of loss 9: in batches of 4 and 8 the last batch is that row alone."""
    from transformers import Trainer, TrainingArguments

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": labels.mean() + 0 * self.weight.sum(), "logits": labels}

    rows: Any = [{"labels": 9.0 * (number == 8)} for number in range(9)]
    callback = ft.ForecastCallback(RECORD)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_eval_batch_size=batch, eval_strategy="steps", eval_steps=1,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(Own(), arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback])
    (trainer.train if trained else trainer.evaluate)()
    assert [each.real for each in callback.history] == pytest.approx([1.0])


@pytest.mark.parametrize("given", [{"forecast": {"recommended": None}}, "nowhere.json"])
def test_a_forecast_without_a_run_is_refused(given: object) -> None:
    with pytest.raises(UsageError, match="forecast"):
        ft.ForecastCallback(given)
