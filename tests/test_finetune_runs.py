"""Runs of fine-tuning: seeds, kills and resumption, processes, grids, defaults, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.errors import NonFiniteError
from foretune.finetune.losses import SquaredLoss
from foretune.finetune.methods import (
    METHODS,
    BitFit,
    FullTuning,
    Linearized,
    LinearProbing,
    LoRATuning,
    ProbedFirst,
    method_named,
)
from foretune.finetune.optimisers import AdamWOptimiser, SGDOptimiser, SignGDOptimiser
from foretune.finetune.run import Run, fine_tuned
from foretune.finetune.search import best_of, paper_grid
from foretune.finetune.training import Proximal, Training
from tests.cases import TASK, language_model, outputs_of
from tests.command_line import ENVIRONMENT, ROOT
from tests.conftest import run_code
from tests.test_finetune import BERT, GPT, LLAMA, SHORT, SPLIT, run_of


def test_the_same_seed_gives_the_same_losses() -> None:
    outputs = outputs_of(language_model(BERT, torch.float32))
    runs = [run_of(outputs, FullTuning(), replace(SHORT, seed=seed)).losses for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


SCRIPT = """
import os, signal, sys, transformers
sys.path.insert(0, sys.argv[3])
from tests.test_finetune_runs import *
kind, out = sys.argv[1], sys.argv[2]
if kind == "saving":
    saved = []
    original = transformers.Trainer._save_optimizer_and_scheduler
    def save(self, folder):
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, folder)
    transformers.Trainer._save_optimizer_and_scheduler = save
def progress(what, done, total):
    if kind == "step" and done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
long_run(out, progress)
"""


def long_run(out: Path | None, progress=None) -> Run:
    training = Training(AdamWOptimiser(1e-2), batch_size=3, steps=10, evaluate_every=2, schedule="linear",
                        proximal=Proximal(0.01))  # fmt: skip
    outputs = outputs_of(language_model(BERT, torch.float32))  # it has dropout
    return run_of(outputs, FullTuning(), training, out=out, progress=progress)


@cache
def undisturbed_run() -> Run:
    return long_run(None)


@pytest.mark.parametrize("kind", ["step", "saving"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_code(SCRIPT, kind, out, ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    begun = {folder.name: (folder / "complete").exists() for folder in (out / "checkpoints").iterdir()}
    assert begun["checkpoint-4"]
    assert begun["checkpoint-6"] is (kind == "step")
    steps: list[int] = []
    resumed = long_run(out, lambda what, step, total: steps.append(step))
    assert min(steps) == (7 if kind == "step" else 5)
    whole = undisturbed_run()
    assert resumed.losses == whole.losses
    assert [(a.validation_loss, a.distance, a.bound) for a in resumed.history] == [
        (b.validation_loss, b.distance, b.bound) for b in whole.history
    ]
    np.testing.assert_array_equal(resumed.test_logits, whole.test_logits)
    assert not (out / "checkpoints").exists()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8, 10]
    assert sum(len(line["losses"]) for line in lines) == 10
    again = long_run(out, lambda *_: pytest.fail("a finished run is read, not repeated"))
    assert again.losses == whole.losses
    assert again.test_score == whole.test_score
    assert all(torch.equal(a, whole.parameters_after[n]) for n, a in again.parameters_after.items())


TOGETHER = """
import os, sys
sys.path.insert(0, sys.argv[2])
from tests.test_finetune_runs import *
run = run_of(outputs_of(language_model(BERT, torch.float32)), FullTuning(), TOGETHER_TRAINING, out=sys.argv[1])
"""
TOGETHER_TRAINING = replace(SHORT, batch_size=None, dropout=False)


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    script, out = tmp_path / "together.py", tmp_path / "run"
    script.write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    command += [str(out), str(ROOT)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs = outputs_of(language_model(BERT, torch.float32))
    together = run_of(outputs, FullTuning(), TOGETHER_TRAINING, out=out)
    alone = run_of(outputs, FullTuning(), TOGETHER_TRAINING)
    np.testing.assert_allclose(together.losses, alone.losses, rtol=1e-5)
    np.testing.assert_allclose(together.test_logits, alone.test_logits, rtol=1e-4, atol=1e-5)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    outputs = outputs_of(language_model(BERT, torch.float32))
    run_of(outputs, METHODS["lp-ft"], out=tmp_path / "a")
    assert (tmp_path / "a" / "probing" / "result.json").exists()
    assert (tmp_path / "a" / "tuning" / "best" / "parameters.safetensors").exists()
    run_of(outputs, METHODS["lp-ft"], out=tmp_path / "a")
    with pytest.raises(ft.ForetuneError, match="another run: it differs in training"):
        run_of(outputs, METHODS["lp-ft"], replace(SHORT, seed=3), out=tmp_path / "a")
    other = ft.HeadLogits(outputs.lm, seed=1)
    with pytest.raises(ft.ForetuneError, match="outputs, weights"):
        run_of(other, METHODS["lp-ft"], out=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(ft.ForetuneError, match="is not a run folder"):
        run_of(outputs, FullTuning(), out=tmp_path / "b")


def test_a_diverging_run_stops_with_step_and_learning_rate() -> None:
    outputs = outputs_of(language_model(BERT, torch.float32))
    wild = Training(SGDOptimiser(1e20), SquaredLoss(), steps=8)
    with pytest.raises(NonFiniteError, match=r"loss is (nan|inf) at step \d with learning rate 1e\+20.*1e\+19"):
        run_of(outputs, FullTuning(), wild)
    search = best_of(outputs, TASK, SPLIT, FullTuning(), [wild, SHORT])
    assert search.best.training == SHORT
    assert search.points[0].failure is not None
    with pytest.raises(NonFiniteError, match="All 1 points"):
        best_of(outputs, TASK, SPLIT, FullTuning(), [wild])


def test_the_grid_is_that_of_the_paper_and_its_best_point_wins(tmp_path: Path) -> None:
    assert len(paper_grid(FullTuning(), SGDOptimiser())) == 15
    assert len(paper_grid(LoRATuning(), SGDOptimiser())) == 6
    assert len(paper_grid(METHODS["lp-lora"], AdamWOptimiser())) == 6
    assert {t.optimiser for t in paper_grid(BitFit(), SignGDOptimiser())} == {
        SignGDOptimiser(rate) for rate in (1e-5, 2e-5, 5e-5)
    }
    outputs = outputs_of(language_model(BERT, torch.float32))
    grid = [replace(SHORT, optimiser=SGDOptimiser(rate)) for rate in (1e-6, 0.3)]
    search = best_of(outputs, TASK, SPLIT, LinearProbing(), grid, out=tmp_path)
    ranks = [(point.validation_score, -(point.validation_loss or 0)) for point in search.points]
    assert search.best.training == grid[ranks.index(max(ranks))]
    assert (tmp_path / "point-1" / "result.json").exists()


def test_steps_are_those_of_the_paper_unless_given() -> None:
    paper = Training()
    assert (paper.steps_for(2 * 16), paper.interval(2 * 16)) == (1024, 128)
    assert (Training(epochs=3, batch_size=8).steps_for(100), Training(epochs=3, batch_size=8).interval(100)) == (38, 4)
    with pytest.raises(ft.ForetuneError, match="Both steps"):
        Training(steps=1, epochs=1)
    with pytest.raises(ft.ForetuneError, match="multiple of 3"):
        run_of(outputs_of(language_model(BERT)), LinearProbing(), replace(SHORT, micro_batches=3))


def test_autocast_trains_and_the_exact_linearization_refuses_it() -> None:
    outputs = outputs_of(language_model(BERT, torch.float32))
    half = replace(SHORT, precision="bf16", dropout=False)
    losses = run_of(outputs, FullTuning(), half).losses
    full = run_of(outputs, FullTuning(), replace(half, precision="full")).losses
    assert losses != full
    np.testing.assert_allclose(losses, full, rtol=0.05)
    with pytest.raises(ft.ForetuneError, match="full precision"):
        run_of(outputs, Linearized(), half)


def test_training_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for outputs in (
            outputs_of(language_model(GPT, torch.float32)),
            outputs_of(language_model(BERT, torch.float32)),
        ):
            run_of(outputs, LoRATuning())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: method_named("lp-fft"), "Did you mean 'lp-ft'"),
        (lambda: Linearized(Linearized()), "cannot be linearized"),
        (lambda: ProbedFirst(ProbedFirst()), "is the first stage"),
        (lambda: LoRATuning(rank=0), "rank of at least 1"),
        (lambda: SGDOptimiser(0.0), "expected a positive number"),
        (lambda: run_of(outputs_of(language_model(LLAMA)), LinearProbing()), "Use ft.HeadLogits"),
        (lambda: run_of(outputs_of(language_model(LLAMA)), BitFit()), "has no biases"),
        (lambda: run_of(outputs_of(language_model(LLAMA)), LoRATuning(layers=(7,))), "fit in the layers 0, 1"),
        (lambda: fine_tuned(outputs_of(language_model(LLAMA)), TASK, ft.Split([], [], []), FullTuning()), "no train"),
    ],
)
def test_errors_say_what_to_do(method, message: str) -> None:
    with pytest.raises(ft.ForetuneError, match=message):
        method()
