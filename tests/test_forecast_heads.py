"""Models with a classification head: every candidate trains it, and linear probing is what candidates have to beat."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.analysis.selection import CorrectedLoss
from foretune.candidates.candidate import (
    PROBING,
    ParameterSizes,
    candidate,
    formulas_for,
    named_candidates,
    parameter_sizes,
)
from foretune.candidates.comparison import Comparison, comparison
from foretune.candidates.effort import Effort
from foretune.candidates.evidence import Pool
from foretune.candidates.greedy import greedy_path
from foretune.candidates.scored import RATES_ARE_FOR
from foretune.candidates.scores import LABEL_ERROR, VALIDATION_LOSS
from foretune.cli.forecast import run_forecast
from foretune.cli.forecast_options import ForecastOptions
from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
)
from foretune.cli.worker_options import WorkerOptions
from foretune.errors import UsageError
from foretune.experiment.function import probed
from foretune.experiment.inputs import Inputs, forecast_inputs
from foretune.finetune.methods import FullTuning, LoRATuning
from foretune.finetune.warm_up import warmed_outputs
from foretune.forecasting.advice import advice
from foretune.forecasting.cost import forecast_cost
from foretune.forecasting.forecast import PoolForecast, pool_forecast
from foretune.forecasting.page import Seen, forecast_page
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.lora import LoRA
from foretune.model.readings import Readings
from foretune.pages.console import PlainConsole
from foretune.pages.terminal import print_page
from foretune.progress import Stage
from tests.cases import ROWS, TASK, language_model, outputs_of
from tests.conftest import family, many_rows

HEAD = ("head.weight", "head.bias")
QUICK = Effort(steps=40, greedy_sizes=(1, 2), compared=3, resamples=24)
SIZE = 24
NAMES = [f"model.layers.{layer}.{inner}.weight" for layer in range(3) for inner in ("attn.q_proj", "mlp.up_proj")]
SIGNAL = "model.layers.1.mlp.up_proj.weight"
WEIGHTS = ParameterSizes(
    {**dict.fromkeys(NAMES, (6, 6)), "head.weight": (2, 6), "head.bias": (2,)},
    dict.fromkeys((*NAMES, *HEAD), 10.0),
    dict.fromkeys(NAMES, 6),
)


def pool_of(kernels: dict[str, BlockKernel], inputs: Inputs, effort: Effort = QUICK) -> Pool:
    return Pool(kernels, inputs, WEIGHTS, effort)


def synthetic(
    seed: int = 0, *, signal: str | None = SIGNAL, probed: float = 0.5
) -> tuple[dict[str, BlockKernel], Inputs]:
    """Linear features by block; one block beside the head tells the labels, or the head does alone."""
    generator = np.random.default_rng(seed)
    y = np.arange(4 * SIZE) % 2
    sign = 2.0 * y - 1
    body, head = [], []
    for name in (*NAMES, *HEAD):
        phi = generator.normal(size=(len(y), 6)) if name != "head.bias" else np.ones((len(y), 1))
        if name in (signal, "head.weight"):
            phi[:, 0] += (2.5 if name == signal else probed) * sign
        (head if name in HEAD else body).append((phi[:SIZE] @ phi.T)[:, None, :, None])
    kernels = {
        "sgd": BlockKernel((*NAMES, *HEAD), np.stack([*body, *head])),
        "lora-r4": BlockKernel(tuple(NAMES), np.stack(body) / 7),
    }
    f0, features = generator.normal(size=(len(y), 1)) * 0.1, generator.normal(size=(len(y), 3))
    sizes = {name: math.prod(shape) for name, shape in WEIGHTS.shapes.items()}
    return kernels, Inputs(y, f0, features, SIZE, SIZE, 2, sizes, "accuracy")


def test_every_candidate_trains_the_head_and_one_trains_nothing_else() -> None:
    kernels, inputs = synthetic()
    pool = pool_of(kernels, inputs)
    found = named_candidates(kernels, WEIGHTS)
    of_head = kernels["sgd"].array[-2:].sum(0)
    for item in found:
        assert item.head == HEAD
        assert not set(item.blocks) & set(HEAD)
        own = (
            kernels["sgd" if item.rank is None else "lora-r4"].select(lambda name, item=item: name in item.blocks)
            if item.blocks
            else None
        )
        np.testing.assert_allclose(pool.evidence(item).kernel, of_head + (0 if own is None else own.total()))
        np.testing.assert_allclose(pool.evidence(item).head_alone.kernel, of_head)
    (alone,) = [item for item in found if item.kind == PROBING]
    assert (alone.blocks, alone.rank, alone.parameters) == ((), None, 2 * 6 + 2)
    assert alone.title == "head alone, linear probing"
    layer = next(item for item in found if item.kind == "layer" and item.rank == 4)
    assert (layer.method, layer.parameters) == ("LoRA rank 4 + head", 2 * 4 * 12 + 14)


def test_without_a_head_nothing_is_added() -> None:
    kernels, inputs = synthetic()
    bare = {"sgd": kernels["sgd"].select("model.*"), "lora-r4": kernels["lora-r4"]}
    for given in (WEIGHTS, ParameterSizes(dict.fromkeys(NAMES, (6, 6)), dict.fromkeys(NAMES, 1.0), WEIGHTS.widths)):
        found = named_candidates(bare, given)
        assert not any(item.head or item.kind == PROBING for item in found)
    language_head = ParameterSizes(
        {"head.weight": (9, 6)}, {"head.weight": 1.0}, {}
    )  # an output layer of this name has no bias
    assert language_head.head == ()
    with pytest.raises(UsageError, match=r"blocks without a kernel 'sgd': head\.weight"):
        _ = pool_of(bare, inputs).evidence(candidate("head alone", PROBING, (), None, WEIGHTS, HEAD)).kernel


@pytest.mark.parametrize(("name", "rank"), [("bert-encoder", 2), ("llama-causal", 2), ("bert-encoder", None)])
def test_the_numbers_of_a_candidate_are_those_that_fine_tuning_trains(name: str, rank: int | None) -> None:
    outputs = outputs_of(language_model(family(name)), head=True)
    rows = [ft.Example.of(row) for row in ROWS]
    job = ft.joint_job(outputs, rows[:4], rows[4:])
    found = named_candidates(ft.kernels_of(job, formulas_for(job.kinds, ranks=(2,))), parameter_sizes(outputs))
    if rank is None:
        method, kind = FullTuning(), "whole model"
    else:
        method, kind = LoRATuning(rank=rank, targets="all-linear"), "all linear"
    (item,) = [item for item in found if item.kind == kind and item.rank == rank]
    started = method.start(outputs)
    sizes = {name: tensor.numel() for name, tensor in started.parameters().items()}
    assert item.parameters == sum(sizes[name] for name in method.names(started))


def test_the_change_of_weights_is_that_of_training_adapters_and_head_in_features() -> None:
    generator = np.random.default_rng(0)
    phi, psi, y = generator.normal(size=(24, 6)), generator.normal(size=(24, 7)), np.arange(24) % 2
    inputs = Inputs(y, np.zeros((24, 1)), phi, 8, 8, 2, {}, "accuracy")
    item = candidate("one", "layer", [SIGNAL], 4, WEIGHTS, HEAD)
    of_blocks, of_head = ((part[:8] @ part.T)[None, :, None, :, None] for part in (phi, psi))
    in_full = BlockKernel((SIGNAL, *HEAD), np.concatenate([of_blocks, of_head, np.zeros_like(of_head)]))
    kernels = {"sgd": in_full, "lora-r4": BlockKernel((SIGNAL,), of_blocks)}
    score = pool_of(kernels, inputs).evidence(item).scored(item).score
    b, head, sign = np.zeros(6), np.zeros(7), 2 * y[:8] - 1
    for _ in range(score.steps):
        chi = sign / (1 + np.exp(sign * (phi[:8] @ b + psi[:8] @ head)))
        b, head = b + score.learning_rate / 8 * phi[:8].T @ chi, head + score.learning_rate / 8 * psi[:8].T @ chi
    of_weight = np.linalg.norm(b) * LoRA(4).scaling / math.sqrt(3)
    assert score.steps > 0
    assert score.change == pytest.approx(math.hypot(float(of_weight), float(np.linalg.norm(head))) / math.sqrt(300))


def test_the_greedy_search_starts_from_the_head() -> None:
    y = np.array([1.0, -1.0, 1.0, -1.0])
    fit = np.outer(y, y)
    assert greedy_path({"fit": fit, "other": np.eye(4)}, y, {"fit": 1, "other": 1}, QUICK)[0] == "fit"
    assert greedy_path({"fit": fit, "other": np.eye(4)}, y, {"fit": 1, "other": 1}, QUICK, start=fit) == []


def test_adapting_is_recommended_where_a_block_beats_linear_probing() -> None:
    kernels, inputs = synthetic()
    found = pool_forecast(pool_of(kernels, inputs))
    chosen = found.advice.candidate
    assert found.advice.beats_probing
    assert SIGNAL in chosen.blocks
    assert chosen.spread is not None and chosen.spread.beats_probing
    assert "beats that of linear probing by" in found.advice.reason
    assert found.answer.startswith("Fine-tuning should help")
    assert found.advice.probing is not None and found.advice.probing.spread is not None  # though not among the first
    assert found.advice.probing.spread.over_probing == (0.0, 0.0)


def test_linear_probing_is_recommended_where_no_block_beats_it() -> None:
    for seed in range(2):
        kernels, inputs = synthetic(seed, signal=None, probed=2.0)
        found = pool_forecast(pool_of(kernels, inputs))
        assert found.advice.beats_probing is False, seed
        assert found.advice.candidate.kind == PROBING
        assert found.answer.startswith("Adapting is not expected to beat linear probing, which should help")
        assert "no gain to rank blocks by" in found.answer
        assert found.advice.adapter is not None  # still there for who wants adapters
        said = " ".join(found.advice.regime)
        assert "may gain more than this forecast sees" in said
        assert "rule of thumb" not in said  # a head alone is linear in its parameters


def test_a_head_with_nothing_else_to_train_is_not_compared() -> None:
    kernels, inputs = synthetic()
    found = pool_forecast(pool_of({"sgd": kernels["sgd"].select("head.*")}, inputs))
    assert found.advice.beats_probing is None
    assert found.answer.startswith("Fine-tuning")
    assert found.answer.endswith("It comes first because there is nothing else to train.")


def test_linear_probing_is_simulated_however_few_candidates_are() -> None:
    kernels, inputs = synthetic()
    found = comparison(pool_of(kernels, inputs, replace(QUICK, simulated=2, compared=1)))
    assert len(found.candidates) == 2 < found.considered
    assert [item.kind for item in found.candidates if item.spread is not None][-1] == PROBING


def test_a_cheaper_adapter_that_does_not_beat_linear_probing_is_not_preferred() -> None:
    kernels, inputs = synthetic()
    found = comparison(pool_of(kernels, inputs)).candidates
    best = next(item for item in found if item.spread is not None and item.spread.beats_probing)
    probing = next(item for item in found if item.kind == PROBING)
    assert best.spread is not None
    best = replace(best, rank=None)
    assert best.spread is not None
    tied = replace(best, rank=4, parameters=1, spread=replace(best.spread, over_probing=(-0.1, 0.2)))
    compared = Comparison((best, tied, probing), 3, (), VALIDATION_LOSS, CorrectedLoss(0.1, 0.2, 9))
    said = advice(compared, pool_of(kernels, inputs))
    assert said.candidate is best
    assert said.adapter is tied


def few_shot(rows: list[dict[str, str]]) -> Any:
    return TASK.few_shot(rows, 4, 13, 12)


def forecast_of(outputs: Any, split: Any, warm_up: int = 0) -> PoolForecast:
    inputs = replace(forecast_inputs(Readings(outputs), TASK, split), warm_up=warm_up)
    job = ft.joint_job(outputs, split.train, [*split.validation, *split.test])
    kernels = ft.kernels_of(job, formulas_for(job.kinds, ranks=(2,)))
    return pool_forecast(Pool(kernels, inputs, parameter_sizes(outputs), QUICK))


def test_a_forecast_after_a_warm_up_is_one_of_the_warmed_model_and_says_so() -> None:
    lm, split = language_model(family("bert-encoder"), torch.float32), few_shot(many_rows())
    outputs = probed(ft.HeadLogits(lm), TASK, split)
    before = {name: tensor.clone() for name, tensor in outputs.parameters().items()}
    warmed = warmed_outputs(outputs, TASK, split, steps=3, batch_size=4)
    after = warmed.outputs.parameters()
    assert type(warmed.outputs) is type(outputs)
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in outputs.parameters().items())
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert warmed.seconds > 0
    found = forecast_of(warmed.outputs, split, warm_up=3)
    assert found.warm_up == 3
    assert "after the 3 warm-up steps alone" in found.answer
    assert any("of the model after 3 real training steps" in warning for warning in found.warnings)
    again = warmed_outputs(outputs, TASK, split, steps=3, batch_size=4).outputs.parameters()
    assert all(torch.equal(tensor, again[name]) for name, tensor in after.items())
    with pytest.raises(UsageError, match="A warm-up of 0 steps"):
        warmed_outputs(outputs, TASK, split, steps=0)
    with pytest.raises(UsageError, match=r"in bfloat16.*--dtype float32"):
        half = outputs_of(language_model(family("bert-encoder"), torch.bfloat16), difference=True)
        warmed_outputs(half, TASK, split, steps=1)


def test_a_warm_up_is_counted_in_the_cost() -> None:
    stages = [Stage(name, 1.0, 0, 0) for name in ("pretrained outputs", "kernel", "forecast")]
    plain = forecast_cost(stages, 0.1, 4, 10, 3)
    warmed = forecast_cost([*stages, Stage("warm-up", 5.0, 0, 0)], 0.1, 4, 10, 3)
    assert (plain.warm_up, warmed.warm_up) == (0, 5)
    assert warmed.forecast == plain.forecast + 5


def test_the_command_warms_up_names_what_rates_are_for_and_what_goes_beside_the_adapters(
    bert_folder: Path,
    data_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    target = tmp_path / "forecast.json"

    def run(warm_up: int) -> None:
        run_forecast(
            ModelOptions(str(bert_folder)),
            DataOptions(str(data_file), k=4, test=10),
            OutputOptions(),
            BlockOptions(blocks="encoder.layer.0.attention.self.query.*,head.*"),
            ForecastOptions(warm_up=warm_up),
            RunOptions(),
            WorkerOptions(),
            ReportOptions(json=target, details=True),
        )

    run(2)
    record = json.loads(target.read_text())
    assert record["forecast"]["warm_up"] == 2
    assert record["forecast"]["rates_are_for"] == RATES_ARE_FOR
    assert record["cost"]["warm_up"] > 0
    assert record["about"]["settings"]["warm_up"] == 2
    assert "warm-up" in {stage["name"] for stage in record["stages"]}
    assert "starts at random and pools in its own way" in record["beside_lora_config"]
    assert record["lora_config"]["task_type"] == "SEQ_CLS"
    assert record["verdict"] == record["forecast"]["verdict"] != "no"
    every = record["forecast"]["comparison"]["candidates"]
    assert all(item["head"] == list(HEAD) for item in every)
    (probing,) = [item for item in every if item["kind"] == PROBING]
    assert probing == record["forecast"]["advice"]["probing"]
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "after 2 warm-up steps",
        "GD rate",
        "AdamW, head alone, linear probing: ",
        "for 2 warm-up steps",
        "head alone",
    ):
        assert part in shown
    with pytest.raises(UsageError, match="A warm-up of -1 steps; expected at least one"):
        run(-1)


def test_the_table_has_the_recommended_candidate_and_linear_probing() -> None:
    kernels, inputs = synthetic()
    found = pool_forecast(pool_of(kernels, inputs))
    stages = [Stage(name, 1.0, 0, 0) for name in ("pretrained outputs", "kernel", "forecast")]
    console = PlainConsole(width=160, record=True, file=io.StringIO())
    seen = Seen("model on data", (), "accuracy", {"train": 24, "validation": 24, "test": 24})
    print_page(console, forecast_page(found, forecast_cost(stages, 0.1, 4, 10, 3), stages, seen, {}), details=True)
    shown = " ".join(console.export_text().split())
    assert "head alone" in shown
    assert "+ beats linear probing beyond the spread" in shown
    assert RATES_ARE_FOR in shown


def test_where_a_head_is_trained_the_label_error_ranks_and_ranks_of_one_set_share_it() -> None:
    kernels, inputs = synthetic()
    found = comparison(pool_of(kernels, inputs))
    assert found.criterion is LABEL_ERROR
    errors = [item.score.label_error for item in found.candidates]
    assert errors == sorted(errors)
    by_set: dict[frozenset[str], set[float]] = {}
    for item in found.candidates:
        by_set.setdefault(frozenset(item.blocks), set()).add(item.score.label_error)
    assert all(max(values) == pytest.approx(min(values)) for values in by_set.values())
    compared = [item for item in found.candidates if item.spread is not None]
    assert len({(frozenset(item.blocks), item.rank is None) for item in compared}) == len(compared)
    for item in compared:
        assert item.spread is not None
        assert item.spread.low <= item.spread.high
    bodies = {label: kernel.select("model.*") for label, kernel in kernels.items()}
    headless = ParameterSizes({name: WEIGHTS.shapes[name] for name in NAMES}, WEIGHTS.norms, WEIGHTS.widths)
    assert comparison(pool_of(bodies, inputs)).criterion is LABEL_ERROR  # the head is there, though it is fixed
    assert comparison(Pool(bodies, inputs, headless, QUICK)).criterion is VALIDATION_LOSS


def by_heart(inputs: Inputs) -> Inputs:
    """The same with a head that has learnt the training examples and nothing else."""
    f0 = inputs.f0.copy()
    f0[:SIZE, 0] = 20 * (2.0 * inputs.y[:SIZE] - 1)
    return replace(inputs, f0=f0)


def test_the_label_error_sees_what_a_head_that_fits_the_training_examples_hides() -> None:
    kernels, inputs = synthetic(probed=0.0)
    hidden = by_heart(inputs)
    one = [candidate(name, "layer", [name], None, WEIGHTS) for name in NAMES]
    scores = {item.blocks[0]: pool_of(kernels, hidden).evidence(item).scored(item).score for item in one}
    losses = [score.validation_loss for score in scores.values()]
    assert max(losses) - min(losses) < 1e-3
    assert min(scores, key=lambda name: scores[name].label_error) == SIGNAL
    assert scores[SIGNAL].label_error < 0.6 < min(s.label_error for name, s in scores.items() if name != SIGNAL)
