"""Many runs of the benchmarks at once are the runs that they would be alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.many_runs import Wanted, many_runs

import foretune as ft
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task

WORDS = ("good", "bad", "fine", "poor", "film", "plot", "long", "short")
STEPS, RATE = 4, 2e-3


@pytest.mark.parametrize("labels", [("no", "yes"), ("no", "yes", "maybe")])
def test_every_run_is_the_one_that_it_would_be_alone(bert_folder: Path, labels: tuple[str, ...]) -> None:
    generator = np.random.default_rng(0)
    rows = [Example(" ".join(generator.choice(WORDS, 3 + i % 5)), None, labels[i % len(labels)]) for i in range(40)]
    task, outputs = Task("made up", labels), ft.HeadLogits(ft.load_model(str(bert_folder)), len(labels), seed=3)
    y, asked = np.array(task.targets(rows)), (range(32, 40), range(33, 38))
    parts = (range(16), range(16, 32))
    encoded = [outputs.encode(row) for row in rows]
    before = {name: tensor.clone() for name, tensor in outputs.parameters().items()}
    wanted = [Wanted(part, y, few, seed) for seed, (part, few) in enumerate(zip(parts, asked, strict=True))]
    found = many_runs(outputs, encoded, wanted, RATE, STEPS)
    for name, tensor in outputs.parameters().items():
        assert (tensor == before[name]).all()
    training = Training(
        AdamWOptimiser(RATE), batch_size=16, steps=STEPS, evaluate_every=STEPS, best_by="loss", dropout=False
    )
    for part, few, logits in zip(parts, asked, found, strict=True):
        some = [rows[i] for i in part]
        run = fine_tuned(outputs, task, Split(some, some, [rows[i] for i in few]), LoRATuning(), training)
        assert run.best.step == STEPS
        assert logits == pytest.approx(run.test_logits, abs=1e-5)
    turned = [replace(run, y=(y + 1) % len(labels)) for run in wanted]
    assert np.abs(many_runs(outputs, encoded, turned, RATE, STEPS)[0] - found[0]).max() > 1e-3
