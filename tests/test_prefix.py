"""The layers in front of the wanted ones are run once for each batch, and the kernel is the same bits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretune as ft
from foretune.errors import NonFiniteError, UsageError
from foretune.gradients.prefix import prefix_of
from foretune.kernels import law, memory_plan
from foretune.kernels.job import Job
from foretune.kernels.memory_plan import Footprint, TilePlan, tile_plan
from foretune.kernels.tile_work import TileMaker
from foretune.model.answer import AnswerLogits
from foretune.model.outputs import Outputs
from tests.cases import FALLBACKS, FAMILIES, ROWS, TASK, Family, language_model, outputs_of
from tests.conftest import family

LLAMA = family("llama-causal")
ROOM = 2**30
WHOLE = {"t5-encoder"}
"""Families that are run whole: a layer in front leaves something else to those behind it."""


class Runs:
    """How often each layer of a model ran."""

    def __init__(self, outputs: Outputs) -> None:
        self.of: dict[str, int] = {}
        for name, module in outputs.module.named_modules():
            if name.rpartition(".")[0].endswith("layers") and name.rpartition(".")[2].isdigit():
                self.of[name] = 0
                for part in module.modules():
                    if isinstance(part, (torch.nn.LayerNorm, torch.nn.Linear)):
                        part.register_forward_hook(lambda *_, name=name: self._count(name))
                        break

    def _count(self, name: str) -> None:
        self.of[name] += 1

    @property
    def counts(self) -> list[int]:
        """Layer by layer."""
        return list(self.of.values())


def last_layer(outputs: Outputs) -> list[str]:
    """The parameters of a tiny model's second layer."""
    places = {name: re.search(r"(?:block|layers?|h)\.(\d+)\.", name) for name in outputs.parameters()}
    found = [name for name, place in places.items() if place is not None and place[1] == "1"]
    assert found
    return found


def kernels(outputs: Outputs, front: int, monkeypatch: pytest.MonkeyPatch, names: list[str] | None = None):
    """The job, and its kernels in tiles of two examples."""
    job = ft.joint_job(outputs, *[[ft.Example.of(row) for row in part] for part in (ROWS[:4], ROWS[4:])], names)
    monkeypatch.setattr(Job, "plan", lambda *_, **__: TilePlan(2, 2, 2, 0, 0, front))
    return job, ft.kernels_of(job, [ft.SGD(), ft.LoRA(rank=2)])


@pytest.mark.parametrize("case", [*FAMILIES, *FALLBACKS], ids=str)
@pytest.mark.filterwarnings("ignore:No factor rule covers")
def test_the_kernel_of_the_last_layer_is_the_same_bits(case: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(case))
    _, whole = kernels(outputs, 0, monkeypatch, last_layer(outputs))
    job, short = kernels(outputs, ROOM, monkeypatch, last_layer(outputs))
    assert prefix_of(outputs.module, list(job.source.parameters.values())) is not None
    for label, kernel in whole.items():
        np.testing.assert_array_equal(short[label].array, kernel.array)
        assert np.abs(kernel.array).max() > 0
    assert (job.source.kept(0) == 0) == (str(case) in WHOLE)


def test_layers_in_front_run_once_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for front in (0, ROOM):
        outputs = outputs_of(language_model(LLAMA))
        runs = Runs(outputs)
        kernels(outputs, front, monkeypatch, last_layer(outputs))
        counts.append(runs.counts)
    (first, second), (kept, again) = counts
    assert first == second == again
    assert kept < first
    assert again - kept == 2  # two of five tiles come again: columns behind the rows, and rows as columns


def test_only_as_much_is_kept_as_there_is_room_for() -> None:
    outputs = outputs_of(language_model(LLAMA))
    names = last_layer(outputs)
    job = ft.separate_job(outputs, ROWS, None, names)
    each = job.source.kept(0)
    assert each == 16 * 8 * job.source.lengths[0]
    with job.source.keeping(each - 1):
        job.source.capture([0], 1)
        runs = Runs(outputs)
        job.source.capture([0], 1)
        assert runs.counts == [1, 1]
    with job.source.keeping(each):
        job.source.capture([0], 1)
        runs = Runs(outputs)
        job.source.capture([0], 1)
        job.source.capture([1], 1)
        assert runs.counts == [1, 2]
    runs = Runs(outputs)
    job.source.capture([0], 1)
    assert runs.counts == [1, 1]  # forgotten


def test_nothing_is_kept_where_the_graph_begins_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(LLAMA))
    names = [*last_layer(outputs), "model.embed_tokens.weight"]
    _, whole = kernels(outputs, 0, monkeypatch, names)
    assert ft.separate_job(outputs, ROWS, None, names).source.kept(0) == 0
    _, same = kernels(outputs, ROOM, monkeypatch, names)
    np.testing.assert_array_equal(same["sgd"].array, whole["sgd"].array)


def test_a_model_that_reads_a_layer_in_front_elsewhere_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model(LLAMA)
    left: list[torch.Tensor] = []

    def skip(_module: torch.nn.Module, args: tuple) -> tuple:
        return (args[0] + left.pop(), *args[1:])

    outputs = AnswerLogits(lm, TASK)
    body = outputs.module.body
    body.layers[0].mlp.register_forward_hook(lambda _, _args, out: left.append(0.5 * out))
    body.norm.register_forward_pre_hook(skip)
    _, whole = kernels(outputs, 0, monkeypatch, last_layer(outputs))
    job, same = kernels(outputs, ROOM, monkeypatch, last_layer(outputs))
    np.testing.assert_array_equal(same["sgd"].array, whole["sgd"].array)
    assert job.source.kept(0) == 0


def test_a_batch_that_differs_late_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(LLAMA))
    body, left = outputs.module.body, []
    body.layers[0].mlp.register_forward_hook(lambda _, _args, out: left.append(out if out.shape[1] < 10 else 0 * out))
    body.norm.register_forward_pre_hook(lambda _, args: (args[0] + left[-1].mean(), *args[1:]))
    _, whole = kernels(outputs, 0, monkeypatch, last_layer(outputs))
    left.clear()
    _, same = kernels(outputs, ROOM, monkeypatch, last_layer(outputs))
    np.testing.assert_array_equal(same["sgd"].array, whole["sgd"].array)


def test_numbers_that_are_not_finite_are_named_as_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = []
    for front in (0, ROOM):
        lm = language_model(LLAMA)
        outputs = outputs_of(lm)
        lm.module.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
        monkeypatch.setattr(law, "CHECKED", False)
        with pytest.raises(NonFiniteError) as caught:
            kernels(outputs, front, monkeypatch, last_layer(outputs))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_layers_are_as_before_after_an_error() -> None:
    outputs = outputs_of(language_model(LLAMA))
    job = ft.separate_job(outputs, ROWS, None, last_layer(outputs))
    layers = outputs.module.body.layers
    with job.source.keeping(ROOM):
        job.source.capture([0], 1)
        broken = layers[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # by the whole model, too
            job.source.capture([0], 1)
        broken.remove()
    assert "forward" not in vars(layers[0])
    runs = Runs(outputs)
    job.source.capture([0], 1)
    assert runs.counts == [1, 1]


def test_a_worker_keeps_what_its_plan_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(LLAMA))
    names = last_layer(outputs)
    job, whole = kernels(outputs, 0, monkeypatch, names)
    monkeypatch.setattr(Job, "plan", lambda *_, **__: TilePlan(2, 2, 2, 0, 0, ROOM))
    folder = tmp_path / "sgd"
    asked = ft.joint_job(outputs, *[[ft.Example.of(row) for row in part] for part in (ROWS[:4], ROWS[4:])], names)

    class Begun:
        def tiles(self, formulas, tiles) -> None:
            runs = Runs(outputs)
            maker = TileMaker(asked, formulas, "1GiB", [folder])
            for tile in tiles:
                maker.make(*tile)
            assert runs.counts[0] < runs.counts[1]

        def projected(self, projections, parts) -> None:
            raise NotImplementedError

    found = ft.kernels_of(asked, [ft.SGD()], out=tmp_path, carry=Begun())
    np.testing.assert_array_equal(found["sgd"].array, whole["sgd"].array)
    assert job.source.kept(0) > 0


def test_a_plan_keeps_hidden_states_only_where_examples_come_again() -> None:
    lengths = [20 + 17 * k % 23 for k in range(400)]
    sides = (lengths[:200], lengths)
    for token in (2.0**14, 2.0**18):
        footprint = Footprint(2**12, token, token, front=2.0**11)
        plan = tile_plan(footprint, sides, 2**30, overlap=True, single=False)
        again = plan.passes > len(lengths)
        assert again == (plan.front > 0)
        assert plan.front <= 2**30 * memory_plan._FRONT
        assert plan.peak <= 2**30
    assert again


@given(
    token=st.sampled_from([2.0**12, 2.0**14, 2.0**16]), front=st.sampled_from([2.0**9, 2.0**11, 2.0**13]),
    examples=st.integers(2, 120), tokens=st.integers(4, 512), mib=st.integers(100, 2000), overlap=st.booleans(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_keeping_never_needs_a_larger_budget_nor_costs_more(token, front, examples, tokens, mib, overlap) -> None:
    sides = ([tokens] * examples, [tokens] * examples)

    def plan(kept: float) -> TilePlan | None:
        try:
            footprint = Footprint(0, token, token / 6, front=kept)
            return tile_plan(footprint, sides, mib * 2**20, overlap=overlap, single=False)
        except UsageError:
            return None

    without, with_it = plan(0.0), plan(front)
    assert (without is None) == (with_it is None)
    if without is not None and with_it is not None:
        assert with_it.passes <= without.passes * 1.5 or with_it.batch > without.batch
