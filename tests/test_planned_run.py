"""The run that a user plans: what is simulated, printed and handed over is that very run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from foretune.analysis.dynamics import FunctionSpace, GradientDescent, LogLoss, curves
from foretune.analysis.schedule import Schedule, rate_factor
from foretune.candidates.adam import BATCH, STEPS, planned_run
from foretune.errors import UsageError
from tests.conftest import WORDS, assert_refused, many_rows, run_cli, write_jsonl

SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "cosine")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_rate_falls_as_transformers_lets_it_fall(schedule: Schedule) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(schedule, optimiser, num_warmup_steps=0, num_training_steps=7)
    for step in range(7):
        assert rate_factor(schedule, step, 7) == pytest.approx(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_simulated_steps_of_a_schedule_are_those_of_the_linear_model(schedule: Schedule) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((9, 5)), np.array([0, 1, 0, 1, 1, 0, 1, 0, 0])
    space = FunctionSpace((x @ x[:6].T)[:, None, :, None], np.zeros((9, 1)), y, LogLoss(), 3)
    (found,) = curves(space, GradientDescent(0.7), 5, 5, schedule=schedule)
    theta, target = torch.zeros(5, dtype=torch.float64, requires_grad=True), torch.tensor(y[:6], dtype=torch.float64)
    optimiser = torch.optim.SGD([theta], lr=0.7)
    scheduler = get_scheduler(schedule, optimiser, num_warmup_steps=0, num_training_steps=5)
    for _ in range(5):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(x[:6]) @ theta, target).backward()
        optimiser.step()
        scheduler.step()
    np.testing.assert_allclose(found.outputs[:, 0], x @ theta.detach().numpy(), rtol=1e-8)


def test_the_default_run_follows_from_the_number_of_rows() -> None:
    small, large = planned_run(32), planned_run(10_000)
    assert (small.steps, small.batch_size, small.evaluate_every) == (STEPS, BATCH, 4)
    assert large.steps == math.ceil(3 * 10_000 / BATCH) and large.evaluate_every == large.steps // 12
    assert planned_run(256).steps == 48 and planned_run(257).steps == 49
    asked = planned_run(100, epochs=2, batch_size=8, schedule="linear")
    assert (asked.steps, asked.batch_size, asked.schedule, asked.best_by) == (25, 8, "linear", "loss")
    assert planned_run(100, steps=5).evaluate_every == 1
    with pytest.raises(UsageError, match="Both steps"):
        planned_run(100, steps=5, epochs=1)


@pytest.fixture(scope="module")
def planned(model_folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A forecast of a run of one's own, and what it printed."""
    here = tmp_path_factory.mktemp("planned")
    write_jsonl(here / "reviews.jsonl", many_rows(60))
    words = ["forecast", model_folder("bert-masked"), "reviews.jsonl", "--k", 8, "--test", 16, WORDS,
             "--steps", 10, "--batch-size", 5, "--schedule", "linear", "--rank", "2",
             "--out", "out"]  # fmt: skip
    result = run_cli(*words, cwd=here)
    assert result.returncode == 0, result.stderr
    return here, result.stdout


def test_simulation_command_script_and_options_say_the_same_run(planned: tuple[Path, str]) -> None:
    here, printed = planned
    record = json.loads((here / "out" / "forecast.json").read_text())
    picked = record["forecast"]["recommended"]
    rate = picked["adamw"]
    assert (rate["steps"], rate["batch"], rate["schedule"]) == (10, 5, "linear")
    assert all(run["steps"] == list(range(11)) for run in rate["runs"])
    assert {item["rank"] for item in record["forecast"]["comparison"]["candidates"]} <= {None, 2}
    text = " ".join(printed.split())
    assert "(linear" in text and "batches of 5, 10 steps" in text
    options = record["tune_options"]
    assert (options["steps"], options["batch_size"], options["schedule"]) == (10, 5, "linear")
    script = (here / "out" / "train.py").read_text()
    assert 'lr_scheduler_type="linear"' in script and re.search(r"^STEPS = 10$", script, re.M)
    assert re.search(r"^BATCH = 5$", script, re.M) and re.search(r"^EVERY = 1$", script, re.M)


def test_the_run_that_is_made_from_it_is_compared_unless_its_length_makes_another_rate(
    planned: tuple[Path, str],
) -> None:
    here, _ = planned
    result = run_cli("tune", "--from", "out/forecast.json", "--out", "run", cwd=here)
    assert result.returncode == 0, result.stderr
    run = json.loads((here / "run" / "result.json").read_text())
    assert "not compared" not in result.stderr and run["about"]["forecast"]["steps"] == list(range(11))
    shorter = run_cli("tune", "--from", "out/forecast.json", "--steps", 4, "--out", "short", cwd=here)
    assert shorter.returncode == 0 and "--steps differs" in shorter.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps is 0; expected at least 1"),
        (["--steps", "5", "--epochs", "1"], "--epochs contradicts --steps"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--rank", "0"], "--rank is 0"),
        (["--schedule", "lineer"], "Did you mean 'linear'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_loaded(options: list[str], message: str) -> None:
    assert_refused(run_cli("forecast", "no-model", "movies", *options), 2, message)
