"""Many small runs of LoRA at once: one forward and backward pass for a batch of every run, as many adapters as runs.

The frozen weights are the same for all runs; each has matrices A and B of its own on every linear layer, and a head of its
own where a head answers. The loss is the sum over runs, and AdamW acts on each number alone, so that every run is what it
would be without the others. A GPU that one run of a small model leaves idle makes dozens in the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foretune.finetune.losses import CrossEntropy
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.model.encoding import Encoded
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs

BATCH = 16


@dataclass(frozen=True)
class Wanted:
    """A run: the rows to train on, class numbers of all rows, and the rows that it is asked of at the end."""

    train: Sequence[int] | np.ndarray
    y: np.ndarray
    asked: Sequence[int] | np.ndarray
    seed: int = 0

    def batches(self, steps: int) -> np.ndarray:
        """Rows of every step, (steps, b): passes over the training rows, each in an order by chance."""
        generator, size = np.random.default_rng(self.seed), min(BATCH, len(self.train))
        passes = [generator.permutation(self.train) for _ in range(-(-steps * size // len(self.train)))]
        return np.concatenate(passes)[: steps * size].reshape(steps, size)


class _Linears(nn.Module):
    """A linear layer beside adapters of several runs, whose examples follow one another in a batch."""

    def __init__(self, base: nn.Module, a: Tensor, rank_scale: float, runs: int, outputs: int) -> None:
        super().__init__()
        self.base, self.scale = base, rank_scale
        self.a = nn.Parameter(a.detach().repeat(runs, 1, 1))
        self.b = nn.Parameter(a.new_zeros(runs, outputs, a.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        by_run = x.reshape(len(self.a), -1, x.shape[-1])  # (runs, examples * places, i)
        added = self.scale * by_run @ self.a.mT @ self.b.mT
        return self.base(x) + added.reshape(*x.shape[:-1], -1)


class _Heads(nn.Module):
    """The heads of several runs."""

    def __init__(self, head: Any, runs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().repeat(runs, 1, 1))
        self.bias = nn.Parameter(head.bias.detach().repeat(runs, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        by_run = features.reshape(len(self.weight), -1, features.shape[-1])
        return (by_run @ self.weight.mT + self.bias).reshape(*features.shape[:-1], -1)


def many_runs(
    outputs: Outputs,
    encoded: Sequence[Encoded],
    wanted: Sequence[Wanted],
    rate: float,
    steps: int,
) -> list[np.ndarray]:
    """The logits of each run, of LoRA with its default rank and layers, for the rows that it is asked of: (m, c).

    Args:
        outputs: of a model without adapters; it keeps its weights.
        encoded: all rows.
        wanted: the runs, as many training rows in each.
        rate: of AdamW.
        steps: as many in each run.
    """
    started = LoRATuning().start(outputs)
    learnt = _adapters(started, len(wanted))
    optimiser = AdamWOptimiser(rate).on(learnt)
    order = np.stack([run.batches(steps) for run in wanted], axis=1)  # (steps, runs, b)
    for rows in order:
        logits = started.module(started.collate([encoded[i] for i in rows.ravel()]))
        y = np.concatenate([run.y[part] for run, part in zip(wanted, rows, strict=True)])
        loss = len(wanted) * CrossEntropy().mean(logits, torch.from_numpy(y).to(logits.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _asked(started, encoded, wanted)


def _adapters(started: Outputs, runs: int) -> list[nn.Parameter]:
    """Adapters for every run in the place of those of peft, and heads in that of the head: what is trained."""
    made: list[nn.Module] = []
    places = {
        id(child): (parent, name) for parent in started.module.modules() for name, child in parent.named_children()
    }
    for layer in [each for each in started.module.modules() if hasattr(each, "lora_A")]:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        made.append(_Linears(layer.base_layer, a, layer.scaling["default"], runs, len(b)))
        setattr(*places[id(layer)], made[-1])
    for parameter in started.module.parameters():
        parameter.requires_grad_(False)
    if isinstance(started, HeadLogits):
        made.append(_Heads(started.module.head, runs))
        started.module.head = made[-1]
    learnt = [parameter for each in made for parameter in each.parameters(recurse=False)]
    for parameter in learnt:
        parameter.requires_grad_()
    return learnt


@torch.no_grad()
def _asked(started: Outputs, encoded: Sequence[Encoded], wanted: Sequence[Wanted]) -> list[np.ndarray]:
    """Every run's logits, a chunk of the rows of each at a time; the longest rows first, so that pads are few."""
    most = max(len(run.asked) for run in wanted)
    filled = [list(run.asked) + [run.asked[0]] * (most - len(run.asked)) for run in wanted]
    orders = [sorted(range(most), key=lambda i, rows=rows: -len(encoded[rows[i]].ids)) for rows in filled]
    found = []
    for start in range(0, most, 2 * BATCH):
        chunk = [
            encoded[rows[i]]
            for rows, order in zip(filled, orders, strict=True)
            for i in order[start : start + 2 * BATCH]
        ]
        logits = started.module(started.collate(chunk))
        found.append(logits.double().cpu().numpy().reshape(len(wanted), -1, logits.shape[1]))
    every = np.concatenate(found, axis=1)  # (runs, most, c), each run in its own order
    return [each[np.argsort(order)][: len(run.asked)] for each, order, run in zip(every, orders, wanted, strict=True)]
