"""Whether forecasts rank candidates: transferability scores, rank statistics, predicted curves, and `foretune validate`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr

import foretune as ft
from foretune.analysis.rank_statistics import ceiling, median_correlation, rank_correlation, regret
from foretune.analysis.transferability import (
    kernel_target_alignment,
    leep,
    log_evidence,
    negative_conditional_entropy,
)
from foretune.candidates.adam import PredictedRun, best_predicted
from foretune.candidates.candidate import PROBING, Candidate, formulas_for, named_candidates, parameter_sizes
from foretune.candidates.pool import pool_of
from foretune.candidates.scores import SCORES
from foretune.candidates.sketched import FINE
from foretune.cli.data import chosen_sample
from foretune.cli.study_options import ValidateOptions
from foretune.cli.validate import SAMPLE, runs_grid
from foretune.errors import UsageError
from foretune.experiment.items import ModelInHand
from foretune.experiment.outcome import Outcome
from foretune.experiment.sample import Full, Sampled
from foretune.finetune import engine
from foretune.finetune.methods import BlockTuning, LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.training import Training
from foretune.kernels.sketch import Sketch
from foretune.model.head import HeadLogits
from foretune.validation.data import validation_data
from foretune.validation.items import carry_out_validation
from foretune.validation.page import curve_distance, validation_page
from foretune.validation.plan import validation_plan
from foretune.validation.rankings import EXHAUSTIVE, LOSS, SCORE, exhaustive_search, rankings
from foretune.validation.rivals import ONE_EPOCH
from foretune.validation.runs import (
    Measured,
    ValidationStudy,
    candidates_of,
    chosen_labels,
    common_labels,
    measured_candidates,
)
from foretune.validation.seen import KeptEvidence
from foretune.validation.stopped import stopped_runs
from foretune.work.here import ThisProcess
from tests.cases import ROWS, language_model
from tests.conftest import assert_refused, assert_valid, family, run_cli
from tests.validations import FOUR, small_validation

GRID = tuple(
    Training(optimiser=AdamWOptimiser(rate), batch_size=4, epochs=2, evaluate_every=2, best_by="loss")
    for rate in (1e-3, 1e-2)
)


@pytest.fixture(scope="module")
def study(bert_folder: Path, mr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ValidationStudy:
    return small_validation(bert_folder, mr_data, tmp_path_factory.mktemp("cells"), (13, 21), GRID)


@pytest.fixture(scope="module")
def cells(study: ValidationStudy) -> list[Measured]:
    return measured_candidates(study)


# --- scores that others use


@pytest.mark.parametrize("shape", [(12, 4), (8, 20)])
def test_log_evidence_is_the_maximum_over_both_precisions(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal(shape)
    y = np.arange(shape[0]) % 3

    def cost(logs: np.ndarray, target: np.ndarray) -> float:
        covariance = features @ features.T * np.exp(-logs[0]) + np.exp(-logs[1]) * np.eye(len(y))
        return -float(multivariate_normal(np.zeros(len(y)), covariance, allow_singular=True).logpdf(target)) / len(y)

    starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (0.0, 3.0)]
    slow = [
        min(minimize(cost, start, args=((y == k).astype(float),), method="Nelder-Mead").fun for start in starts)
        for k in range(3)
    ]
    assert log_evidence(features, y) == pytest.approx(-np.mean(slow), abs=1e-4)
    assert log_evidence(1000 * features, y) == pytest.approx(log_evidence(features, y), abs=1e-6)


def test_leep_and_nce_are_what_a_hand_computes() -> None:
    probabilities, y = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 0, 1, 0])
    # p(y=0 | z): z=0 1.5 / 1.5; z=1 (0.5 + 1) / 2.5
    expected = np.mean(np.log([1.0, 0.5 + 0.5 * 0.6, 0.4, 0.6]))
    assert leep(probabilities, y) == pytest.approx(expected)
    z = np.array([0, 0, 1, 1])
    assert negative_conditional_entropy(z, y) == pytest.approx(-np.log(2) / 2)
    assert leep(np.eye(2)[z], y) == pytest.approx(negative_conditional_entropy(z, y))


def test_alignment_is_one_for_the_targets_own_kernel_and_ignores_its_scale_and_offsets() -> None:
    targets = np.eye(3)[[0, 1, 2, 0, 1]]
    t = targets - targets.mean(0)
    own = 7.0 * np.einsum("ia,jb->iajb", t, t)
    assert kernel_target_alignment(own, targets) == pytest.approx(1)
    assert kernel_target_alignment(own + 5.0, targets) == pytest.approx(1)
    assert kernel_target_alignment(np.zeros_like(own), targets) == 0
    identity = np.eye(15).reshape(5, 3, 5, 3)
    assert 0 < kernel_target_alignment(identity, targets) < 1


def test_transferability_refuses_what_it_cannot_use() -> None:
    features, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(UsageError, match="4 rows and 3 labels"):
        log_evidence(features, y[:3])
    with pytest.raises(UsageError, match="at least two"):
        negative_conditional_entropy(y, np.zeros(4, dtype=int))
    with pytest.raises(UsageError, match="sum to 1"):
        leep(features, y)
    with pytest.raises(UsageError, match="finite"):
        log_evidence(np.zeros((4, 2)), y)
    with pytest.raises(UsageError, match="same for all"):
        kernel_target_alignment(np.ones((4, 1, 4, 1)), np.ones((4, 1)))


# --- ranking


def test_rank_correlation_is_spearmans_with_ties_and_infinities() -> None:
    a, b = np.array([3.0, 1.0, 1.0, 5.0, -np.inf]), np.array([2.0, 4.0, 1.0, 9.0, 0.0])
    assert float(rank_correlation(a, b)) == pytest.approx(spearmanr(a, b).statistic)
    both = rank_correlation(np.stack([a, np.ones(5)]), np.stack([b, b]))
    assert both[0] == pytest.approx(float(rank_correlation(a, b))) and np.isnan(both[1])
    with pytest.raises(UsageError, match="without NaN"):
        rank_correlation(np.array([np.nan, 1.0]), np.array([1.0, 2.0]))


def test_regret_is_zero_for_the_best_and_the_mean_for_a_constant_score() -> None:
    results = np.array([0.5, 0.9, 0.7])
    assert regret(np.array([0.0, 2.0, 1.0]), results) == 0
    assert regret(np.array([3.0, 2.0, 1.0]), results) == pytest.approx(0.4)
    assert regret(np.zeros(3), results) == pytest.approx(0.9 - 0.7)


def test_ceiling_is_the_agreement_of_seeds_and_says_what_cannot_be_ranked() -> None:
    same = np.array([[1.0, 2.0, 3.0, 4.0], [11.0, 12.0, 13.0, 14.0]])
    assert ceiling(same).correlation == 1 and ceiling(same).seeds == pytest.approx(0)
    assert ceiling(same).reason is None
    assert ceiling(same).regret == pytest.approx(0)
    opposite = np.stack([same[0], same[0, ::-1]])
    assert ceiling(opposite).correlation == -1 and "below 0.3" in str(ceiling(opposite).reason)
    noisy = np.array([[0.0, 0.1, 0.2, 10.0], [5.0, 5.1, 5.2, 5.3]])
    assert "from seed to seed" in str(ceiling(noisy).reason)
    assert "the same" in str(ceiling(np.ones((2, 4))).reason)
    alone = ceiling(same[:1])
    assert np.isnan(alone.correlation) and alone.reason is None


def test_median_correlation_lies_in_its_interval() -> None:
    generator = np.random.default_rng(1)
    results = generator.standard_normal((3, 12))
    found = median_correlation(results + 0.5 * generator.standard_normal((3, 12)), results)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert np.isnan(median_correlation(np.zeros((3, 12)), results).value)


# --- predicted curves


def test_curves_are_compared_at_common_steps_after_the_start() -> None:
    low, high = PredictedRun(1e-3, (0, 2, 4), (1.0, 0.8, 0.6)), PredictedRun(1e-2, (0, 2, 4), (0.1, 0.7, 0.9))
    assert best_predicted([high, low]) is low
    assert curve_distance(low, (0, 2, 3), (9.0, 0.5, 9.0)) == pytest.approx(0.3)
    assert np.isnan(curve_distance(low, (0,), (1.0,)))


# --- candidates and evidence


def test_candidates_are_those_of_the_forecast_and_what_really_trains_them() -> None:
    outputs = HeadLogits(language_model(family("bert-encoder")), 2)
    rows = [ft.Example.of(row) for row in ROWS]
    job = ft.joint_job(outputs, rows[:4], rows[4:])
    found = named_candidates(ft.kernels_of(job, formulas_for(job.kinds, ranks=(8,))), parameter_sizes(outputs))
    adapted = [item for item in found if item.rank == 8]
    assert [item.label for item in adapted][:3] == ["layer encoder.layer.0", "layer encoder.layer.1",
                                                    "attention.self.query"]  # fmt: skip
    first = adapted[0].tuning
    assert isinstance(first, LoRATuning) and first.targets == tuple(
        block.removesuffix(".weight") for block in adapted[0].blocks
    )
    full = [item for item in found if item.rank is None and item.kind != PROBING]
    assert {"layer encoder.layer.0", "whole model"} <= {item.label for item in full}
    for item in full:
        assert isinstance(item.tuning, BlockTuning)
        assert set(item.tuning.names(outputs)) == {*item.blocks, "head.weight", "head.bias"}
    with pytest.raises(UsageError, match=r"no trainable parameter 'encoder.weight'"):
        BlockTuning(("encoder.weight",)).names(outputs)


def test_labels_are_chosen_by_globs_among_those_that_every_cell_has() -> None:
    item = Candidate("layer.0", "layer", (), 8, 1)
    greedy = [replace(item, name=f"greedy, {count} modules", kind="greedy") for count in (2, 4)]
    assert common_labels([[item, *greedy], [item, greedy[0]]]) == ["layer layer.0", "greedy, 2 modules"]
    labels = ["layer a", "layer b", "all linear", "first third", "query"]
    assert chosen_labels(labels, None) == labels
    assert chosen_labels(labels, ["layer*", "query", "all*"]) == ["layer a", "layer b", "all linear", "query"]
    with pytest.raises(UsageError, match=r"'all linaer'.*Did you mean 'all linear'"):
        chosen_labels(labels, ["all linaer"])
    with pytest.raises(UsageError, match=r"2 candidates .* at least 4"):
        chosen_labels(labels, ["layer*"])


def test_validate_runs_the_candidates_that_a_forecast_of_the_same_kernels_ranks(study: ValidationStudy) -> None:
    cell = study.cell("mr", 13)
    asked = {item.key for item in candidates_of(cell, 2)}
    ranked = {item.key for item in pool_of(cell, 2).candidates if item.rank == 2}
    assert asked == ranked and any(item.kind == "greedy" for item in candidates_of(cell, 2))


def test_candidates_have_the_scores_of_exact_kernels_where_they_are_scored_from_features(
    study: ValidationStudy, cells: list[Measured]
) -> None:
    cell, sketched = study.cell("mr", 13), replace(study, features="sketched")
    sketch = sketched.sketch(cell)
    tight = replace(study, memory="40KiB")
    assert sketch == FINE and study.sketch(cell) is None and tight.sketch(tight.cell("mr", 13)) == Sketch()
    known = {item.label: item for item in candidates_of(cell, 2, sketch)}
    assert set(cells[0].names) <= set(known)
    seen = KeptEvidence(cell, [known[label] for label in cells[0].names], study.grid, sketch=sketch)
    for name, values in seen.scores(SCORES).items():
        assert values == pytest.approx(cells[0].scores[name], rel=0.02, abs=1e-3), name
    assert not cells[0].sketched
    assert re.match(r"Kernels are sketched, 1024 .* example\. On 8 x 16 examples .* is off by 0\.\d%", seen.sketched)
    again = replace(seen, cell=study.cell("mr", 13))
    assert again.scores(SCORES) == seen.scores(SCORES) and "pool" not in vars(again)
    assert validation_plan(sketched).cells[0].kernels == 0 < validation_plan(sketched).cells[1].kernels
    page = validation_page(validation_data([replace(cells[0], sketched=seen.sketched)], {}), study)
    assert f"mr, seed 13: {seen.sketched}" in page.notes


def test_evidence_adds_up_to_what_the_method_trains(study: ValidationStudy, cells: list[Measured]) -> None:
    cell = study.cell("mr", 13)
    pool, known = pool_of(cell, 2, GRID), {item.label: item for item in candidates_of(cell, 2)}
    for label, outcome in zip(cells[0].names, cells[0].outcomes, strict=True):
        seen = pool.evidence(known[label])
        assert seen.trained == outcome.trained
        assert seen.spectrum.largest <= pool.largest_of_all(2) * (1 + 1e-9)
        assert len(seen.parts) == len(seen.entries) == len(seen.blocks) + 2
        assert seen.inputs.f0.shape[0] == seen.kernel.shape[2] == 16  # test examples have no say


@pytest.mark.parametrize(
    ("model", "output", "rank"), [("bert-encoder", "probed head", None), ("bert-masked", "prompt", 2)]
)
def test_evidence_of_full_tuning_and_of_prompts(
    model: str, output: str, rank: int | None, study: ValidationStudy, tmp_path: Path
) -> None:
    cell = replace(study, lm=language_model(family(model)), output=output, root=tmp_path).cell("mr", 13)
    pool = pool_of(cell, rank, GRID)
    for item in candidates_of(cell, rank):
        seen, start = pool.evidence(item), item.tuning.start(cell.outputs)
        numbers = sum(start.parameters()[name].numel() for name in item.tuning.names(start))
        assert seen.trained == item.parameters == numbers
        assert np.isfinite([criterion.oriented(seen) for criterion in SCORES.values()]).all()


# --- end to end


def test_every_candidate_has_results_scores_and_curves(cells: list[Measured], study: ValidationStudy) -> None:
    assert [(cell.task, cell.seed) for cell in cells] == [("mr", 13), ("mr", 21)]
    for cell in cells:
        assert len(cell.names) == len(cell.outcomes) == len(cell.predicted) == 4
        assert set(cell.scores) == set(SCORES)
        assert all(np.isfinite(values).all() and len(values) == 4 for values in cell.scores.values())
        for outcome, runs in zip(cell.outcomes, cell.predicted, strict=True):
            assert [run.learning_rate for run in runs] == [1e-3, 1e-2]
            assert all(run.steps == outcome.evaluated for run in runs)
            assert runs[0].validation_losses[0] == pytest.approx(outcome.start_validation_loss, abs=1e-4)
    found = {ranking.score: ranking for ranking in rankings(cells, LOSS)}
    assert all(np.isnan(found[name].median) for name in ("LogME", "LEEP", "NCE", "random choice"))
    assert found["LogME"].regret == pytest.approx(found["random choice"].regret)
    page = validation_page(validation_data(cells, {}), study)
    names = [row[0] for row in page.tables[0].texts]
    assert names[: len(SCORES)] == list(SCORES) and names[-2:] == [EXHAUSTIVE, "noise ceiling"]
    assert names[len(SCORES)].startswith(f"{ONE_EPOCH} (") and len(names) == len(SCORES) + 3
    assert all(len(row) == len(table.header) for table in page.tables for row in table.texts)
    assert any("no score can rank" in line or "ranks best" in line for line in page.findings)
    whole = stopped_runs(cells)[-1]  # not stopped: the sweep
    both = exhaustive_search(cells, LOSS), exhaustive_search(cells, SCORE)
    assert [(a.median, a.regret) for a in both] == [(a.median, a.regret) for a in (whole.by_loss, whole.by_score)]


def test_the_second_call_trains_nothing_and_one_seed_has_no_ceiling(
    study: ValidationStudy, cells: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for name in ("foretune.experiment.experiment.best_of", "foretune.experiment.experiment.kernels_of"):
        monkeypatch.setattr(name, refused)
    again = measured_candidates(study)
    assert [cell.scores for cell in again] == [cell.scores for cell in cells]
    assert [cell.outcomes for cell in again] == [cell.outcomes for cell in cells]
    alone = validation_page(validation_data(again[:1], {}), replace(study, seeds=(13,)))
    assert any(line.startswith("One seed") for line in alone.findings)
    assert alone.tables[0].texts[-1][1] == "-"


def test_the_defaults_make_the_runs_that_their_settings_say() -> None:
    wanted = [
        Training(optimiser=AdamWOptimiser(rate), batch_size=16, epochs=6, evaluate_every=8, best_by="loss")
        for rate in (5e-4, 2e-3)
    ]
    typed = ValidateOptions(epochs=6.0)
    assert list(map(repr, runs_grid(typed))) == list(map(repr, wanted))
    assert chosen_sample(typed, SAMPLE, Full()) == Sampled(128)


def test_the_command_writes_a_page_and_json(
    bert_folder: Path, mr_data: Path, study: ValidationStudy, cells, tmp_path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / bert_folder.name).symlink_to(study.root)  # the cells made above: the command trains nothing
    result = run_cli("validate", bert_folder, "--tasks", "mr", "--data", mr_data, "--k", 4, "--test", 12, "--rank", 2,
                     "--learning-rates", "1e-3,1e-2", "--batch-size", 4, "--epochs", 2, "--evaluate-every", 2,
                     "--candidates", FOUR, "--out", out, "--json", tmp_path / "v.json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "noise ceiling" in shown and "simulated validation loss" in shown and "Regret" in shown
    text = (out / "validate" / "page.md").read_text()
    assert "foretune validate" in text and "--candidates" in text
    assert (out / "validate" / "table-1.csv").exists() and (out / "validate" / "curves-mr.svg").exists()
    record = json.loads((tmp_path / "v.json").read_text())
    assert_valid("validate", record)
    assert [cell["scores"]["trace"] for cell in record["cells"]] == [list(cell.scores["trace"]) for cell in cells]
    assert len(record["rankings"]["test loss"]) == len(SCORES)


@pytest.mark.parametrize("how", [(), ("--plan",), ("--workers", "2")], ids=" ".join)
def test_a_name_that_no_candidate_can_have_is_refused_before_any_kernel(
    how: tuple[str, ...], bert_folder: Path, mr_data: Path, tmp_path: Path
) -> None:
    result = run_cli("validate", bert_folder, "--tasks", "mr", "--data", mr_data, "--k", 4, "--test", 12,
                     "--candidates", "greedy*,layer*,encoder.*.dense", "--out", tmp_path / "out", *how)  # fmt: skip
    assert_refused(result, 2, "No candidate matches 'encoder.*.dense'; there are layer ")
    assert not list(tmp_path.rglob("kernels/*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "8", "--k", "4"], "--n and --k contradict"),
        (["--k", "0"], "--k is 0; expected at least 1"),
        (["--rank=-1"], "--rank is -1; expected 1 to 65536; full tuning is --method ft without --rank"),
        (["--learning-rates", "5e-4,fast"], "'5e-4,fast': expected numbers"),
        (["--learning-rates", "5e-4,-1"], "--learning-rates is -1; expected a number above 0"),
        (["--epochs", "inf"], "--epochs is inf"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--seeds", ","], "--seeds ',' has an empty item"),
        (["--output", "haed"], "Did you mean 'head'"),
        (["--data", "nowhere"], "is not a folder"),
        (["--warm-up", "4,0"], "--warm-up is 0; expected at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_before_anything_is_loaded(options: list[str], message: str, tmp_path: Path) -> None:
    assert_refused(run_cli("validate", "no-model", "--out", tmp_path, *options), 2, message)
    assert not list(tmp_path.iterdir())


def test_a_wrong_task_ends_the_command_with_the_nearest_name(tmp_path: Path) -> None:
    result = run_cli("validate", "no-model", "--tasks", "subk", "--out", tmp_path)
    assert_refused(result, 2, "'subk'", "'subj'")


def test_a_validation_in_parts_is_the_validation_and_trains_nothing_more(
    study: ValidationStudy, cells: list[Measured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timeless(found: list[Measured]) -> list[Measured]:
        return [replace(cell, outcomes=tuple(_without_seconds(each) for each in cell.outcomes)) for cell in found]

    apart = replace(study, root=tmp_path)
    with ThisProcess(1, ModelInHand(study.lm)) as crew:
        carry_out_validation(apart, crew)
    monkeypatch.setattr(engine, "train", lambda *_: pytest.fail("every run is kept"))
    assert timeless(measured_candidates(apart)) == timeless(cells)


def _without_seconds(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds=0.0, points=tuple(replace(each, seconds=()) for each in outcome.points))
