"""Ranks by marginal gain keep their budget and follow the kernels; a pattern of ranks is trained as peft trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from benchmarks.rank_pattern import PatternTuning, ranks_by_gain, ranks_in_order

import foretune as ft
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task

N, SCALING = 24, 4.0
COSTS = {"wide": 5, "useful": 3, "noise": 3, "silent": 2}


@pytest.fixture(scope="module")
def planted() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Kernels of modules, of which two know something of the labels; that of a head; the labels."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 2 * N)
    signal = (2 * y - 1)[:, None] + 0.5 * generator.normal(size=(2 * N, 4))
    features = {
        "wide": signal[:, :3],
        "useful": signal[:, 3:],
        "noise": generator.normal(size=(2 * N, 30)),
        "silent": np.zeros((2 * N, 1)),
        "head": generator.normal(size=(2 * N, 3)),
    }
    kernels = {name: (x[:N] @ x.T)[:, None, :, None] for name, x in features.items()}
    return kernels, kernels.pop("head"), y


@pytest.mark.parametrize("budget", [1, 7, 60, 10_000])
def test_patterns_keep_the_budget_and_spend_what_a_step_needs(planted: Any, budget: int) -> None:
    kernels, head, y = planted
    ranks = ranks_by_gain(kernels, head, y, COSTS, budget)
    spent = sum(rank * COSTS[name] for name, rank in ranks.items())
    assert spent <= budget
    assert all(rank == 32 or budget - spent < max(rank, 2) * COSTS[name] for name, rank in ranks.items())
    assert set(ranks.values()) <= {0, 2, 4, 8, 16, 32}
    in_order = ranks_in_order([(name, 8) for name in COSTS], COSTS, budget)
    assert budget - min(COSTS.values()) < sum(in_order[name] * COSTS[name] for name in COSTS) <= budget or (
        set(in_order.values()) == {8}
    )


def test_modules_without_gain_get_no_rank_while_others_gain(planted: Any) -> None:
    kernels, head, y = planted
    assert ranks_by_gain(kernels, head, y, COSTS, 12) == {"wide": 0, "useful": 4, "noise": 0, "silent": 0}


def test_ranks_depend_on_no_order_no_unit_and_no_name_of_a_class(planted: Any) -> None:
    kernels, head, y = planted
    ranks = ranks_by_gain(kernels, head, y, COSTS, 60)
    turned = dict(reversed(kernels.items()))
    assert ranks_by_gain(turned, head, y, COSTS, 60) == ranks
    assert ranks_by_gain(kernels, head, 1 - y, COSTS, 60) == ranks
    scaled = {name: 8 * kernel for name, kernel in kernels.items()}
    assert ranks_by_gain(scaled, 8 * head, y, COSTS, 60) == ranks


def test_a_pattern_is_trained_as_peft_trains_it(bert_folder: Path) -> None:
    generator = np.random.default_rng(0)
    words, labels = ("good", "bad", "fine", "dull", "film", "plot"), ("no", "yes")
    rows = [Example(" ".join(generator.choice(words, 3 + i % 4)), None, labels[i % 2]) for i in range(24)]
    task, outputs = Task("made up", labels), ft.HeadLogits(ft.load_model(str(bert_folder)), 2, seed=3)
    split = Split(rows[:16], rows[:16], rows[16:])
    linear = [name for name, kind in outputs.kinds().items() if kind == "linear" and "head" not in name]
    training = Training(AdamWOptimiser(2e-3), batch_size=8, steps=4, evaluate_every=4, best_by="loss", dropout=False)

    def logits(method: LoRATuning) -> np.ndarray:
        return fine_tuned(outputs, task, split, method, training).test_logits

    same = PatternTuning.of(dict.fromkeys(linear, 4), SCALING, seed=0)
    assert logits(same) == pytest.approx(logits(LoRATuning(4, 4 * SCALING)), abs=1e-6)

    ranks = {name: (0, 2, 4, 8)[place % 4] for place, name in enumerate(linear)}
    method = PatternTuning.of(ranks, SCALING, seed=0)
    run = fine_tuned(outputs, task, split, method, training)
    chosen = {name.removesuffix(".weight"): rank for name, rank in ranks.items() if rank}
    config = peft.LoraConfig(
        target_modules=list(chosen),
        rank_pattern=chosen,
        alpha_pattern={name: SCALING * rank for name, rank in chosen.items()},
    )
    theirs: Any = peft.get_peft_model(ft.load_model(str(bert_folder)).module, config)
    ours: Any = method.start(outputs).lm.module
    for name in linear:
        layers = [each.get_base_model().get_submodule(name.removesuffix(".weight")) for each in (ours, theirs)]
        assert hasattr(layers[0], "lora_A") == hasattr(layers[1], "lora_A") == bool(ranks[name])
        if ranks[name]:
            shapes = [[each.lora_A["default"].weight.shape, each.lora_B["default"].weight.shape] for each in layers]
            assert shapes[0] == shapes[1]
            assert layers[0].scaling["default"] == layers[1].scaling["default"] == SCALING
    adapters = sum(tensor.numel() for name, tensor in run.parameters_after.items() if "lora_" in name)
    sizes = {name: sum(tensor.shape) for name, tensor in outputs.parameters().items()}
    assert adapters == sum(rank * sizes[name] for name, rank in ranks.items())
