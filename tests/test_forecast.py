"""The comparison of candidates and its advice: on kernels whose truth is known, and on tiny models with peft."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.analysis.dynamics import FunctionSpace, GradientDescent, LogLoss, curves
from foretune.analysis.selection import CorrectedLoss
from foretune.candidates.candidate import (
    Candidate,
    ParameterSizes,
    candidate,
    formulas_for,
    named_candidates,
    parameter_sizes,
)
from foretune.candidates.comparison import Comparison, comparison
from foretune.candidates.effort import Effort, effort_for, limits
from foretune.candidates.evidence import Evidence, Pool
from foretune.candidates.greedy import greedy_candidates, greedy_path
from foretune.candidates.resampling import with_spreads
from foretune.candidates.scored import CandidateScore, ScoredCandidate, Spread
from foretune.candidates.scores import SCORES, VALIDATION_LOSS
from foretune.errors import DataError, UsageError
from foretune.experiment.inputs import Inputs
from foretune.forecasting.advice import advice
from foretune.forecasting.cost import forecast_cost
from foretune.forecasting.forecast import pool_forecast
from foretune.forecasting.labels import label_warnings
from foretune.kernels.block_kernel import BlockKernel
from foretune.progress import Stage
from tests.cases import ROWS, TASK, language_model, outputs_of
from tests.conftest import family

QUICK = Effort(steps=60, greedy_sizes=(1, 2), compared=6, resamples=24)
SIZE = 24
NAMES = [f"model.layers.{layer}.{inner}.weight" for layer in range(4) for inner in ("attn.q_proj", "mlp.up_proj")]
SIGNAL = "model.layers.2.mlp.up_proj.weight"
WEIGHTS = ParameterSizes(dict.fromkeys(NAMES, (6, 6)), dict.fromkeys(NAMES, 10.0), dict.fromkeys(NAMES, 6))


def pool_of(kernels: dict[str, BlockKernel], inputs: Inputs) -> Pool:
    return Pool(kernels, inputs, WEIGHTS, QUICK)


def scored(item: Candidate, kernels: dict[str, BlockKernel], inputs: Inputs) -> ScoredCandidate:
    return pool_of(kernels, inputs).evidence(item).scored(item)


def synthetic(
    seed: int = 0, *, signal: str = SIGNAL, margin: float = 2.0, test: int = 48
) -> tuple[dict[str, BlockKernel], Inputs]:
    """Blocks of linear features; those of one block tell the labels, the others are noise."""
    generator = np.random.default_rng(seed)
    y = np.arange(2 * SIZE + test) % 2
    blocks = []
    for name in NAMES:
        phi = generator.normal(size=(len(y), 6))
        if name == signal:
            phi[:, 0] += margin * (2 * y - 1)
        blocks.append((phi[:SIZE] @ phi.T)[:, None, :, None])
    array = np.stack(blocks)
    kernels = {"sgd": BlockKernel(tuple(NAMES), array), "lora-r4": BlockKernel(tuple(NAMES), array / 7)}
    f0 = generator.normal(size=(len(y), 1)) * 0.1
    features = generator.normal(size=(len(y), 3))
    return kernels, Inputs(y, f0, features, SIZE, SIZE, 2, dict.fromkeys(NAMES, 36), "accuracy")


def test_a_candidates_kernel_is_the_sum_of_its_blocks_kernels() -> None:
    kernels, inputs = synthetic()
    pool = pool_of(kernels, inputs)
    wanted = candidate("two", "greedy", [NAMES[1], NAMES[6]], 4, WEIGHTS)
    expected = kernels["lora-r4"].array[1] + kernels["lora-r4"].array[6]
    np.testing.assert_allclose(pool.evidence(wanted).kernel, expected)
    with pytest.raises(UsageError, match=r"'lora-r8'; there are sgd, lora-r4"):
        _ = pool.evidence(replace(wanted, rank=8)).kernel
    with pytest.raises(UsageError, match="without a kernel 'lora-r4': elsewhere"):
        _ = pool.evidence(replace(wanted, blocks=("elsewhere",))).kernel


def test_parameters_are_entries_or_rank_times_inputs_and_outputs() -> None:
    weights = ParameterSizes({"a.weight": (5, 7)}, {"a.weight": 1.0}, {"a.weight": 5})
    assert candidate("a", "layer", ["a.weight"], None, weights).parameters == 35
    assert candidate("a", "layer", ["a.weight"], 3, weights).parameters == 36


def test_candidates_are_layers_types_thirds_and_named_sets_each_once() -> None:
    kernels, _ = synthetic()
    found = named_candidates(kernels, WEIGHTS)
    full = [item for item in found if item.rank is None]
    kinds = [item.kind for item in full]
    assert kinds.count("layer") == 4
    assert kinds.count("module type") == 2
    assert kinds.count("third") == 1  # the middle and the last third are single layers
    assert {item.kind for item in found} == {"layer", "module type", "third", "all linear"}  # q_proj is a module type
    assert len({(frozenset(item.blocks), item.rank) for item in found}) == len(found) == 2 * len(full)


@pytest.mark.parametrize("signal", [SIGNAL, NAMES[0]])
def test_the_block_that_carries_all_the_signal_is_recommended(signal: str) -> None:
    for seed in range(3):
        kernels, inputs = synthetic(seed, signal=signal)
        found = pool_forecast(pool_of(kernels, inputs))
        chosen, every = found.advice.candidate, found.comparison.candidates
        assert signal in chosen.blocks  # others beside it can fit a few dozen examples a little better by chance
        assert chosen.score.score.value > 0.85
        assert all(item.score.validation_loss >= every[0].score.validation_loss for item in every)
        assert all(item.score.score.value < 0.8 for item in every if signal not in item.blocks)
        assert chosen.name in found.answer
        assert found.comparison.considered == len(every)
        single = [candidate(name, "greedy", [name], None, WEIGHTS) for name in NAMES]
        losses = {item.blocks[0]: scored(item, kernels, inputs).score.validation_loss for item in single}
        assert min(losses, key=losses.__getitem__) == signal


def test_the_greedy_search_takes_the_best_gain_per_parameter() -> None:
    y = np.array([1.0, -1.0, 1.0, -1.0])
    fit, half = np.outer(y, y), np.diag([1.0, 1.0, 0.0, 0.0])
    assert greedy_path({"fit": fit, "half": half}, y, {"fit": 10, "half": 10}, QUICK)[0] == "fit"
    assert greedy_path({"fit": fit, "half": half}, y, {"fit": 1000, "half": 10}, QUICK)[0] == "half"
    assert greedy_path({"nothing": np.zeros((4, 4))}, y, {"nothing": 1}, QUICK) == []


def test_scores_do_not_depend_on_the_scale_of_a_kernel() -> None:
    kernels, inputs = synthetic(1)
    found = {
        rank: scored(item, kernels, inputs).score
        for rank in (None, 4)
        for item in [candidate("one", "greedy", [SIGNAL], rank, WEIGHTS)]
    }
    assert found[4].validation_loss == pytest.approx(found[None].validation_loss)
    assert found[4].learning_rate == pytest.approx(7 * found[None].learning_rate)
    assert found[4].risk.exact == pytest.approx(found[None].risk.exact)
    assert found[4].risk.low <= found[4].risk.exact <= found[4].risk.high


def test_the_predicted_change_of_weights_is_that_of_training_the_features() -> None:
    generator = np.random.default_rng(0)
    phi, y = generator.normal(size=(24, 6)), np.arange(24) % 2
    inputs = Inputs(y, np.zeros((24, 1)), phi, 8, 8, 2, {SIGNAL: 36}, "accuracy")
    joint = (phi[:8] @ phi.T)[:, None, :, None]
    kernels = {"sgd": BlockKernel((SIGNAL,), joint[None])}
    score = scored(candidate("one", "layer", [SIGNAL], None, WEIGHTS), kernels, inputs).score
    theta, sign = np.zeros(6), 2 * y[:8] - 1
    for _ in range(score.steps):
        theta += score.learning_rate / 8 * phi[:8].T @ (sign / (1 + np.exp(sign * (phi[:8] @ theta))))
    assert score.change == pytest.approx(np.linalg.norm(theta) / 10)


@pytest.mark.parametrize("margin", [0.5, *(pytest.param(each, marks=pytest.mark.sweep) for each in (1.0, 1.5))])
def test_the_spread_covers_the_mean_loss_over_other_draws_of_the_examples(margin: float) -> None:
    wanted = candidate("layer 2", "layer", NAMES[4:6], None, WEIGHTS)
    found = []
    for seed in range(30):
        kernels, inputs = synthetic(seed, margin=margin, test=2)
        (item,) = with_spreads([scored(wanted, kernels, inputs)], pool_of(kernels, inputs), VALIDATION_LOSS)
        found.append(item)
    mean = np.mean([item.score.validation_loss for item in found])
    spreads = [item.spread for item in found if item.spread is not None]
    assert len(spreads) == 30
    assert np.mean([spread.low <= mean <= spread.high for spread in spreads]) >= 0.85
    assert all(not spread.apart for spread in spreads)


def test_a_candidate_without_the_signal_is_told_apart() -> None:
    kernels, inputs = synthetic(0)
    items = [candidate(name, "layer", [name], None, WEIGHTS) for name in (SIGNAL, NAMES[0])]
    found = [scored(item, kernels, inputs) for item in items]
    best, other = with_spreads(found, pool_of(kernels, inputs), VALIDATION_LOSS)
    assert best.spread is not None and other.spread is not None
    assert (best.spread.apart, other.spread.apart) == (False, True)


def scored_with(name: str, loss: float, parameters: int, rank: int | None, behind: float) -> ScoredCandidate:
    kernels, inputs = synthetic()
    base = scored(candidate(name, "layer", [SIGNAL], None, WEIGHTS), kernels, inputs)
    score: CandidateScore = replace(base.score, validation_loss=loss)
    return replace(base, rank=rank, parameters=parameters, score=score, spread=Spread(0, 1, behind, behind + 0.2))


def compared(*items: ScoredCandidate) -> Comparison:
    return Comparison(items, len(items), (), VALIDATION_LOSS, CorrectedLoss(0.1, 0.2, 9))


def test_ties_are_said_and_adapters_go_first_among_them() -> None:
    pool = pool_of(*synthetic())
    best = scored_with("best", 0.3, 900, None, 0.0)
    tied = scored_with("tied", 0.31, 50, 4, -0.1)
    worse = scored_with("worse", 0.6, 10, 4, 0.1)
    said = advice(compared(best, tied, worse), pool)
    assert said.candidate is said.adapter is tied
    assert said.ties == ("best, full tuning",)
    assert "cannot be told from the smallest (best, full tuning, 0.300)" in said.reason
    apart = advice(compared(best, worse), pool)
    assert apart.candidate is best
    assert apart.adapter is worse
    assert apart.ties == ()
    assert "differs from every other" in apart.reason


def test_a_forecast_ranks_by_an_entry_of_the_scores_and_sums_each_kernel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[tuple[tuple[str, ...], int | None]] = []
    add = Pool.summed

    def counted(pool: Pool, blocks: tuple[str, ...], rank: int | None) -> np.ndarray:
        summed.append((tuple(sorted(blocks)), rank))
        return add(pool, blocks, rank)

    monkeypatch.setattr(Pool, "summed", counted)
    kernels, inputs = synthetic()
    pool = pool_of(kernels, inputs)
    found = pool_forecast(pool)
    assert any(found.comparison.criterion is criterion for criterion in SCORES.values())
    assert len(summed) == len(set(summed)) >= found.comparison.considered
    assert {item.key for item in found.comparison.candidates} == {item.key for item in pool.candidates}
    seen = pool.evidence(pool.candidates[0])
    assert isinstance(seen, Evidence) and seen is pool.evidence(pool.candidates[0])


def test_identical_candidates_tie() -> None:
    kernels, inputs = synthetic(2)
    twin = BlockKernel(tuple(NAMES), np.repeat(kernels["sgd"].array[5:6], len(NAMES), 0))
    found = comparison(pool_of({"sgd": twin}, inputs))
    compared = [item for item in found.candidates if item.spread is not None]
    assert len(compared) == QUICK.compared
    assert all(item.spread is not None and not item.spread.apart for item in compared)


def test_a_large_kernel_limits_the_work_and_says_so() -> None:
    kernels, inputs = synthetic()
    found = comparison(Pool(kernels, inputs, WEIGHTS, replace(QUICK, simulated=3)))
    assert len(found.candidates) == 3 < found.considered
    assert any(f"3 of {found.considered} candidates" in limit for limit in found.limits)
    assert effort_for(1024).simulated is not None
    assert "96 of 1024 rows" in " ".join(limits(effort_for(1024), 50, 1024, 6))


def few(inputs: Inputs, places: list[int]) -> Inputs:
    n = sum(place < SIZE for place in places)
    v = sum(SIZE <= place < 2 * SIZE for place in places)
    return replace(inputs, y=inputs.y[places], n_train=n, n_validation=v)


def test_rare_and_missing_labels_are_refused_or_said() -> None:
    _, inputs = synthetic()
    everything = list(range(len(inputs.y)))
    with pytest.raises(DataError, match="All 12 training examples have the label number 0; expected at least two"):
        label_warnings(few(inputs, [place for place in everything if place >= SIZE or place % 2 == 0]))
    with pytest.raises(DataError, match="Label number 2 of 3 has no training example"):
        label_warnings(replace(inputs, n_classes=3))
    with pytest.raises(DataError, match="no validation examples"):
        label_warnings(few(inputs, [place for place in everything if not SIZE <= place < 2 * SIZE]))
    with pytest.raises(DataError, match="no test examples"):
        label_warnings(few(inputs, everything[: 2 * SIZE]))
    (said,) = label_warnings(few(inputs, everything[:10] + everything[SIZE:]))
    assert "Only 5 training examples for a label" in said
    one_sided = [place for place in everything if not SIZE <= place < 2 * SIZE or place % 2 == 0]
    (said,) = label_warnings(few(inputs, one_sided))
    assert "No validation example has label number 1" in said
    assert label_warnings(inputs) == ()


def test_the_advice_promises_nothing_about_the_regime() -> None:
    kernels, inputs = synthetic(4)
    small = replace(WEIGHTS, norms=dict.fromkeys(NAMES, 1e-3))
    said = " ".join(pool_forecast(Pool(kernels, inputs, small, QUICK)).advice.regime)
    assert "rule of thumb" in said
    assert "foretune behaviour" in said
    calm = replace(WEIGHTS, norms=dict.fromkeys(NAMES, 1e6))
    assert "rule of thumb" not in " ".join(pool_forecast(Pool(kernels, inputs, calm, QUICK)).advice.regime)


def test_the_cost_of_training_is_three_forward_passes_a_step() -> None:
    stages = [Stage(name, seconds, 0, 0) for name, seconds in (("pretrained outputs", 8.0), ("kernel", 20.0))]
    with pytest.raises(UsageError, match="'forecast'"):
        forecast_cost(stages, 0.1, 16, 100, 5)
    found = forecast_cost([*stages, Stage("forecast", 2.0, 0, 0)], forward=0.1, batch=16, steps=100, candidates=5)
    assert found.forecast == 30
    assert found.run == pytest.approx(3 * 0.1 * 16 * 100)
    assert found.comparison == pytest.approx(found.run * found.runs)


def test_lora_kernels_are_left_out_where_nothing_can_be_adapted() -> None:
    assert [formula.label for formula in formulas_for({"a.weight": "linear"}, ranks=(1, 8))] == [
        "sgd",
        "lora-r1",
        "lora-r8",
    ]
    assert [formula.label for formula in formulas_for({"norm.weight": "other"})] == ["sgd"]
    assert [formula.label for formula in formulas_for({"a.lora_A.default.weight": "linear"})] == ["sgd"]


@pytest.mark.parametrize("difference", [True, False])
def test_a_tiny_model_gets_a_forecast_from_its_own_kernels(difference: bool) -> None:
    outputs = outputs_of(language_model(family("llama-causal")), difference=difference)
    rows = [
        ft.Example.of({**row, "text": f"{row['text']} {word}"}) for word in ("film", "plot", "slow") for row in ROWS
    ]
    job = ft.joint_job(outputs, rows[:6], rows[6:])
    kernels = ft.kernels_of(job, formulas_for(job.kinds, ranks=(1, 4)))
    with torch.no_grad():
        f0 = outputs.forward(outputs.batch(rows)).double().numpy()
    sizes = {name: tensor.numel() for name, tensor in outputs.parameters().items()}
    y = np.array(TASK.targets(rows))
    inputs = Inputs(y, f0, np.random.default_rng(0).normal(size=(18, 3)), 6, 6, 2, sizes, "accuracy")
    pool = Pool(kernels, inputs, parameter_sizes(outputs), QUICK)
    found = pool_forecast(pool)
    assert {item.rank for item in found.comparison.candidates} == {None, 1, 4}
    chosen = found.advice.candidate
    joint = pool.evidence(chosen).kernel
    space = FunctionSpace(joint.transpose(2, 3, 0, 1), f0, y, LogLoss(), 6)
    (run,) = curves(space, GradientDescent(chosen.score.learning_rate), chosen.score.steps, max(chosen.score.steps, 1))
    assert run.validation_loss[-1] == pytest.approx(chosen.score.validation_loss)
    assert run.test_loss[-1] == pytest.approx(chosen.score.test_loss)
    greedy = greedy_candidates(kernels, inputs, parameter_sizes(outputs), QUICK)
    assert {item.rank for item in greedy} == {None, 1, 4}
