"""The models between a kernel and a real run are what they are said to be, and meet the real run where they must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.ladder import RUNGS, numbers, table
from benchmarks.linear_runs import AroundEnd, AroundWeights, Replayed, real_start
from benchmarks.tangent import KeptBert
from torch import Tensor

import foretune as ft
from foretune.finetune.data import EncodedSplit, encoded_split
from foretune.finetune.engine import TrainingResult, train
from foretune.finetune.followers import Followers
from foretune.finetune.losses import CrossEntropy
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import SGDOptimiser
from foretune.finetune.training import Training
from foretune.finetune.tuned import LinearTuned, Tuned
from foretune.model.encoding import Batch
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task
from tests.oracles import head_on_first_order_features

METHODS = {"every layer": LoRATuning(rank=2, alpha=4.0), "last layer": LoRATuning(rank=2, alpha=4.0, layers=(1,))}
WORDS = ("good", "bad", "fine", "film", "plot", "slow", "fast")


@dataclass(frozen=True)
class Asked:
    """A head on a tiny random model in float64, adapters, and rows to train them on."""

    outputs: ft.HeadLogits
    method: LoRATuning
    rows: list[Example]
    data: EncodedSplit

    @property
    def batch(self) -> Batch:
        """The test rows."""
        return self.outputs.collate(self.data.test.encoded)

    def real(self) -> Tuned:
        """A real run at its start."""
        return real_start(self.outputs, self.method)

    def replayed(self) -> Replayed:
        """The replay at its start."""
        return Replayed(self.outputs, self.method, KeptBert(self.outputs, self.rows))


@pytest.fixture(params=METHODS)
def asked(bert_folder: Path, request: pytest.FixtureRequest) -> Asked:
    labels = ("no", "yes") if request.param == "last layer" else ("no", "yes", "maybe")
    generator = np.random.default_rng(0)
    rows = [Example(" ".join(generator.choice(WORDS, 3 + i % 5)), None, labels[i % len(labels)]) for i in range(28)]
    outputs = ft.HeadLogits(ft.load_model(str(bert_folder), "float64"), len(labels), seed=3)
    split = Split(rows[:16], rows[16:22], rows[22:])
    return Asked(outputs, METHODS[request.param], rows, encoded_split(outputs, Task("made up", labels), split))


def values_of(tuned: Tuned) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tuned.state_dict().items()}


def moved(start: Mapping[str, Tensor], size: float, seed: int = 1) -> dict[str, Tensor]:
    """Parameters at some distance from where they start, in directions by chance."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in start.items()
    }


def gradients(logits: Tensor, tuned: Tuned) -> dict[str, Tensor]:
    """Of some loss."""
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    found = torch.autograd.grad((weights * logits).sum() + logits.square().sum(), list(tuned.trained.values()))
    return dict(zip(tuned.trained, found, strict=True))


def assert_alike(found: Tensor, tuned: Tuned, expected: Tensor, of: Tuned) -> None:
    """Values and gradients are the same up to rounding."""
    assert found.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-10)
    wanted = gradients(expected, of)
    for name, gradient in gradients(found, tuned).items():
        assert gradient.abs().max() > 1e-6, name
        assert torch.allclose(gradient, wanted[name], atol=1e-9), name


def test_a_replayed_model_is_the_head_on_first_order_features(asked: Asked) -> None:
    tuned = asked.replayed()
    tuned.load_state_dict(moved(values_of(tuned), 0.3))
    expected = head_on_first_order_features(asked.outputs, tuned.outputs, asked.batch)
    assert_alike(tuned.values(asked.batch), tuned, expected, tuned)


@torch.no_grad()
def test_a_replayed_model_is_off_by_the_square_of_a_step(asked: Asked) -> None:
    true, linear = asked.real(), asked.replayed()
    assert linear.values(asked.batch).numpy() == pytest.approx(true.values(asked.batch).numpy(), abs=1e-12)
    start, gaps = values_of(true), []
    for size in (1e-2, 1e-3):
        for tuned in (true, linear):
            tuned.load_state_dict(moved(start, size))
        gaps.append(float((true.values(asked.batch) - linear.values(asked.batch)).abs().max()))
    assert 50 < gaps[0] / gaps[1] < 2000  # without the head's part, the square of B A alone


def run(tuned: Tuned, asked: Asked, rate: float) -> TrainingResult:
    training = Training(SGDOptimiser(rate), batch_size=8, steps=6, evaluate_every=3, best_by="loss", dropout=False)
    return train(tuned, asked.data, "accuracy", training, None, Followers())


def test_small_steps_go_the_same_way_over_the_same_batches(asked: Asked) -> None:
    gaps = []
    for rate in (1e-2, 1e-3):
        true, linear = (run(tuned, asked, rate) for tuned in (asked.real(), asked.replayed()))
        losses = [np.concatenate([line.losses for line in found.history]) for found in (true, linear)]
        assert losses[1][0] == pytest.approx(losses[0][0], abs=1e-12)
        assert np.ptp(losses[0]) > 1e-3  # another batch would be seen
        gaps.append(np.abs(losses[1] - losses[0]).max())
    assert gaps[0] / gaps[1] > 50


def test_the_model_around_the_end_begins_at_the_start_and_meets_the_real_one_at_the_end(asked: Asked) -> None:
    true = asked.real()
    start = values_of(true)
    end = moved(start, 0.3)
    true.load_state_dict(end)
    tuned = AroundEnd(asked.outputs, asked.method, true, KeptBert(true.outputs, asked.rows))
    slow = LinearTuned(true.outputs, list(true.trained), CrossEntropy())
    assert all(torch.equal(tuned.trained[name], value) for name, value in start.items())
    for theta in (start, moved(start, 0.3, seed=2)):
        for each in (tuned, slow):
            each.load_state_dict(theta)
        assert_alike(tuned.values(asked.batch), tuned, slow.values(asked.batch), slow)
    for each in (tuned, true):
        each.load_state_dict(end)
    assert_alike(tuned.values(asked.batch), tuned, true.values(asked.batch), true)


@torch.no_grad()
def test_the_replay_around_the_end_meets_the_real_run_at_its_end_and_leaves_it_by_the_square_of_a_step(
    asked: Asked,
) -> None:
    true = asked.real()
    end = moved(values_of(true), 0.3)
    true.load_state_dict(end)
    tuned = AroundWeights(asked.outputs, asked.method, true, KeptBert(true.outputs, asked.rows))
    gaps = []
    for size in (0.0, 1e-2, 1e-3):
        theta = moved(end, size, seed=2)
        for each in (tuned, true):
            each.load_state_dict(theta)
        gaps.append(float((tuned.values(asked.batch) - true.values(asked.batch)).abs().max()))
    assert gaps[0] < 1e-12
    assert 50 < gaps[1] / gaps[2] < 200


def test_a_cell_is_told_by_its_distances_and_ranks() -> None:
    def runs(accuracies: list[float], losses: list[float]) -> list[dict[str, float]]:
        pairs = zip(accuracies, losses, strict=True)
        return [{"accuracy": a, "test_loss": x, "validation_loss": 1 - x, "step": 1, "seconds": 2.0} for a, x in pairs]

    real, off = runs([0.5, 0.6, 0.7], [0.3, 0.2, 0.1]), runs([0.6, 0.6, 0.6], [0.1, 0.2, 0.3])
    names = ("real", *RUNGS)
    made = {name: off if name == "third" else real for name in names}
    cell = {"cell": ["made up", 13, 3], "shallow": [0.0, 1.0, 2.0], "shared": {"third": 4.0}, "runs": made}
    found = numbers(cell)
    assert found["replay"] == pytest.approx(
        {"points": 0, "bias": 0, "nats": 0, "bias in nats": 0, "rank": 1, "cost": 3}
    )
    assert found["third"] == pytest.approx(
        {"points": 20 / 3, "bias": 0, "nats": 0.4 / 3, "bias in nats": 0, "rank": -1, "cost": 5}
    )
    assert (found["real"]["rank"], found["depth"]["rank"]) == pytest.approx((-1, 1))
    assert "| made up 13 | 0.0, 0.000, 1.00 |" in "\n".join(table([cell]))
