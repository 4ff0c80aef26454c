"""`foretune validate --warm-up`: the scores of a kernel after a few real steps, beside those of the plain kernel."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foretune.analysis.rank_statistics import correlation_difference, mean_over_candidates
from foretune.candidates.pool import pool_of
from foretune.candidates.scores import AFTER_WARM_UP, LOSSES, SCORES, warmed_name
from foretune.cli.options import ModelOptions, ReportOptions
from foretune.cli.study_options import ValidateOptions
from foretune.cli.validate import run_validate
from foretune.cli.worker_options import WorkerOptions
from foretune.errors import UsageError
from foretune.experiment.outcome import Outcome
from foretune.finetune.data import data_hash
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.training import Training
from foretune.finetune.warm_up import warmed_outputs
from foretune.model.load import load_model
from foretune.validation.data import validation_data
from foretune.validation.page import validation_page
from foretune.validation.rankings import LOSS, rankings
from foretune.validation.runs import Measured, ValidationStudy, candidates_of, measured_candidates
from foretune.validation.warm_up import loss_errors, warm_up_findings, warm_up_table
from tests.validations import FOUR, small_validation

STEPS = 3
GRID = (Training(optimiser=AdamWOptimiser(1e-2), batch_size=4, epochs=1, evaluate_every=2, best_by="loss"),)


@pytest.fixture(scope="module")
def study(bert_folder: Path, mr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ValidationStudy:
    return small_validation(bert_folder, mr_data, tmp_path_factory.mktemp("cells"), (13,), GRID)


def files(folder: Path) -> dict[str, str]:
    """The files below a folder, each with a hash."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


@pytest.fixture(scope="module")
def plain(study: ValidationStudy) -> tuple[list[Measured], dict[str, str]]:
    """Without a warm-up, with the files that it leaves."""
    return measured_candidates(study), files(study.root)


@pytest.fixture(scope="module")
def warmed(study: ValidationStudy, plain: object) -> list[Measured]:
    return measured_candidates(replace(study, warm_up=(STEPS,)))


# --- the cell


def test_a_warmed_cell_holds_the_model_of_the_forecasts_warm_up_and_leaves_its_own_alone(
    study: ValidationStudy, warmed: list[Measured]
) -> None:
    cell = study.cell("mr", 13)
    before = {name: tensor.clone() for name, tensor in cell.outputs.parameters().items()}
    found = cell.warmed(STEPS)
    expected = warmed_outputs(cell.outputs, cell.task, cell.split, STEPS).outputs.parameters()
    parameters = found.outputs.parameters()
    assert list(parameters) == list(expected) == list(before)
    for name, tensor in parameters.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-7)
        assert torch.equal(cell.outputs.parameters()[name], before[name])
    assert any(not torch.equal(parameters[name], tensor) for name, tensor in before.items())
    assert found.folder.is_relative_to(cell.folder) and found.folder.name.startswith(f"{STEPS}-")
    assert found.identity["weights"] != cell.identity["weights"]
    assert cell.warm_up_seconds(STEPS) == warmed[0].warm_up_seconds[STEPS] > 0


def test_a_warm_up_changes_no_file_that_was_there(
    study: ValidationStudy, plain: tuple[list[Measured], dict[str, str]], warmed: list[Measured]
) -> None:
    after = files(study.root)
    assert plain[1].items() <= after.items()
    new = {name for name in after if name not in plain[1]}
    assert all("/warm-up/" in name or f"warm-up-{STEPS}" in Path(name).name for name in new)


def test_hashes_of_examples_stay_what_they_were() -> None:
    rows = [{"text": "a film", "text2": None, "label": "x"}, [1, 2, 0, 1]]
    assert data_hash(rows) == hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert data_hash([]) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"


# --- scores


def test_scores_after_a_warm_up_are_those_of_the_warmed_cell(
    study: ValidationStudy, plain: tuple[list[Measured], dict[str, str]], warmed: list[Measured]
) -> None:
    cell = study.cell("mr", 13)
    chosen = {item.label: item for item in candidates_of(cell, 2)}
    pool = pool_of(cell.warmed(STEPS), 2, GRID)
    seen = [pool.evidence(chosen[label]) for label in warmed[0].names]
    scores = warmed[0].scores
    assert list(scores) == [*SCORES, *(warmed_name(name, STEPS) for name in AFTER_WARM_UP)]
    for name in AFTER_WARM_UP:
        np.testing.assert_allclose(scores[f"{name}, warm-up {STEPS}"], [SCORES[name].oriented(item) for item in seen])
        assert scores[f"{name}, warm-up {STEPS}"] != scores[name]
    assert {name: scores[name] for name in SCORES} == plain[0][0].scores
    assert warmed[0].outcomes == plain[0][0].outcomes and warmed[0].predicted == plain[0][0].predicted


def test_the_second_call_neither_warms_up_nor_computes(
    study: ValidationStudy, warmed: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for name in ("best_of", "kernels_of", "warmed_outputs"):
        monkeypatch.setattr(f"foretune.experiment.experiment.{name}", refused)
    assert measured_candidates(replace(study, warm_up=(STEPS,))) == warmed


def test_a_model_in_half_precision_is_refused_before_any_run(
    study: ValidationStudy, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a run was begun")

    monkeypatch.setattr("foretune.experiment.experiment.best_of", refused)
    half = replace(study, lm=load_model(str(bert_folder), dtype="bfloat16"), root=tmp_path, warm_up=(STEPS,))
    with pytest.raises(UsageError, match="--dtype float32"):
        measured_candidates(half)


# --- comparison


def synthetic(seed: int, scores: dict[str, np.ndarray], real: np.ndarray) -> Measured:
    """A cell of four candidates with these real losses and scores, all other scores the same for all of them."""
    flat = {name: np.zeros(4) for base in SCORES for name in (base, warmed_name(base, STEPS) if base in AFTER_WARM_UP
                                                              else base)}  # fmt: skip
    outcomes = [Outcome(test_loss=loss, validation_loss=loss, test_score=0.5, seconds=10.0) for loss in real]
    return Measured(
        task="mr",
        seed=seed,
        metric="accuracy",
        start_loss=1.0,
        start_score=0.5,
        names=("a", "b", "c", "d"),
        outcomes=tuple(outcomes),
        scores={name: tuple(map(float, values)) for name, values in {**flat, **scores}.items()},
        predicted=(),
        reach=(),
        warm_up_seconds={STEPS: 2.0},
    )


REAL = np.array([0.3, 0.5, 0.6, 0.9])


def test_errors_are_those_of_the_predicted_loss_and_leave_failed_runs_out() -> None:
    cell = synthetic(0, {"simulated validation loss": -np.array([0.4, 0.3, 0.6, 9.0])}, REAL)
    failed = replace(cell, outcomes=(*cell.outcomes[:3], Outcome(failure="the loss became infinite")))
    found = loss_errors([failed], "simulated validation loss")
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.0, np.nan]], atol=1e-12)
    assert mean_over_candidates(found).value == pytest.approx(0.1)


def test_differences_of_the_same_scores_are_zero_and_of_opposite_ones_two() -> None:
    results, scores = np.stack([REAL, REAL]), np.stack([REAL, 2 * REAL])
    same = correlation_difference(scores, scores, results)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert correlation_difference(scores, -scores, results).value == pytest.approx(2)
    steady = mean_over_candidates(np.full((2, 4), 0.7))
    assert (steady.value, steady.low, steady.high) == pytest.approx((0.7, 0.7, 0.7))
    assert np.isnan(mean_over_candidates(np.full((2, 4), np.nan)).value)


@pytest.mark.parametrize("better", ["plain", "warmed"])
def test_the_page_says_which_kernel_ranks_better_and_which_comes_closer(better: str) -> None:
    name, after = "simulated validation loss", warmed_name("simulated validation loss", STEPS)
    good, bad = -REAL, -np.array([0.9, 0.6, 0.5, 0.4])
    given = {name: good, after: bad} if better == "plain" else {name: bad, after: good}
    cells = [synthetic(seed, given, REAL) for seed in (13, 21)]
    ranks, closer, cost = warm_up_findings(cells, rankings(cells, LOSS))
    words = ("the plain kernel", f"the kernel after {STEPS} steps")
    winner, other = words if better == "plain" else reversed(words)
    assert f"{winner} is better than {other}" in ranks and "correlation 1.00" in ranks and "difference 2.00" in ranks
    assert f"{winner} is better than {other}" in closer and "off by 0.000 nats (simulated validation loss)" in closer
    assert cost == (
        f"A warm-up costs 2.0 s for {STEPS} steps (mean over tasks and seeds, two passes over the validation examples in "
        "it); one real run takes 10.0 s."
    )


def test_scores_that_rank_nothing_are_said_to_rank_nothing() -> None:
    cells = [synthetic(13, {}, REAL)]
    ranks = warm_up_findings(cells, rankings(cells, LOSS))[0]
    assert ranks.startswith("No score ranks the candidates")


def test_scores_after_a_warm_up_stand_below_their_own_and_in_a_table_with_their_cost(
    study: ValidationStudy, plain: tuple[list[Measured], dict[str, str]], warmed: list[Measured]
) -> None:
    ranked = rankings(warmed, LOSS)
    names = [ranking.score for ranking in ranked]
    for name in AFTER_WARM_UP:
        assert names[names.index(name) + 1] == warmed_name(name, STEPS)
    assert len(names) == len(SCORES) + len(AFTER_WARM_UP)
    table = warm_up_table(warmed, ranked)
    assert [row[:2] for row in table.texts] == [(name, word) for name in AFTER_WARM_UP for word in ("none", str(STEPS))]
    assert [row[4] == "-" for row in table.texts] == [row[0] not in LOSSES for row in table.texts]
    assert [row[5] for row in table.texts[::2]] == ["0.0"] * len(AFTER_WARM_UP)
    with_it = validation_page(validation_data(warmed, {}), replace(study, warm_up=(STEPS,)))
    without = validation_page(validation_data(plain[0], {}), study)
    assert table.texts in [each.texts for each in with_it.tables]  # values may be undefined
    assert len(without.tables) == len(with_it.tables) - 1
    assert any(note.startswith(f"Warm-up: {STEPS} real steps of adamw at 5e-05") for note in with_it.notes)
    assert not any("arm-up" in line for line in (*without.notes, *without.findings))


# --- command


def test_the_command_prints_the_comparison(
    study: ValidationStudy,
    warmed: list[Measured],
    bert_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / bert_folder.name).symlink_to(study.root)  # the cells made above: the command trains nothing
    options = ValidateOptions(tasks="mr", data=study.data, k=4, seeds="13", test=12, rank=2, candidates=FOUR,
                              learning_rates="1e-2", batch_size=4, epochs=1, evaluate_every=2, warm_up=str(STEPS),
                              out=out)  # fmt: skip
    run_validate(ModelOptions(str(bert_folder)), options, WorkerOptions(), ReportOptions(tmp_path / "v.json"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "Ranking by test loss: the" in shown and "Level of the validation loss: the" in shown
    assert f"--warm-up {STEPS}" in (out / "validate" / "page.md").read_text()
    cell = json.loads((tmp_path / "v.json").read_text())["cells"][0]
    assert cell["warm_up_seconds"] == {str(STEPS): warmed[0].warm_up_seconds[STEPS]}
    assert set(map(str, warmed[0].scores)) == set(cell["scores"])
