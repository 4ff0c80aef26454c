"""Announced scores against real ones: how far off, how often the interval holds, and go or no-go."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from foretune.analysis.conformal import conformal_factor, needed_factors, stretched
from foretune.candidates.announced import ANNOUNCED, Announced
from foretune.candidates.verdict import DECISIONS, EXIT_CODES, Decision
from foretune.experiment.outcome import Outcome
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.training import Training
from foretune.validation.announced import (
    announced_findings,
    calibration_table,
    calibrations,
    calls,
    calls_table,
)
from foretune.validation.data import validation_data
from foretune.validation.page import validation_page
from foretune.validation.runs import Measured, measured_candidates
from tests.conftest import run_cli
from tests.validations import small_validation


def cell(task: str, told: Sequence[tuple[float, float, Decision]], real: Sequence[float], seed: int = 13) -> Measured:
    """A cell that starts at 0.5, announces `(value, half width, decision)` and reaches real scores."""
    announced = tuple(Announced(value, value - half, value + half, word) for value, half, word in told)
    outcomes = tuple(
        Outcome(failure="diverged") if math.isnan(score) else Outcome(test_score=score, test_loss=1 - score)
        for score in real
    )
    names = tuple(map(str, range(len(real))))
    return Measured(task, seed, "accuracy", 1.0, 0.5, names, outcomes, {}, (), (), announced=announced)


# --- conformal intervals


def test_a_factor_is_what_an_interval_needs_to_hold_the_truth() -> None:
    values, low, high = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.4, 0.4, 0.5, 0.5]), np.array([0.7, 0.7, 0.5, 0.5])
    found = needed_factors(np.array([0.9, 0.3, 0.5, 0.6]), values, low, high)
    np.testing.assert_allclose(found, [2, 2, 0, np.inf])
    assert stretched(0.5, 0.4, 0.7, 2.0) == pytest.approx((0.3, 0.9))
    assert conformal_factor(np.arange(19.0)) == 18 and conformal_factor(np.arange(39.0)) == 37
    assert conformal_factor(np.arange(18.0)) == math.inf  # nothing is promised by so few


def test_stretched_intervals_hold_as_often_as_they_promise_whatever_is_wrong_with_them() -> None:
    generator, held = np.random.default_rng(0), []
    for _ in range(400):
        truth = generator.uniform(0.3, 0.9, 40)
        values = truth + 0.1 + 0.05 * generator.standard_t(3, 40)  # biased, and far too narrow
        low, high = values - 0.02, values + 0.02
        factor = conformal_factor(needed_factors(truth[:39], values[:39], low[:39], high[:39]))
        down, up = stretched(values[39], low[39], high[39], factor)
        held.append(down <= truth[39] <= up)
    assert 0.92 < np.mean(held) <= 1


# --- tables


def test_calibration_counts_what_is_off_and_what_the_interval_holds() -> None:
    mr = cell("mr", [(0.80, 0.05, "go"), (0.70, 0.05, "go"), (0.60, 0.05, "go")], [0.82, 0.60, float("nan")])
    (found,) = calibrations([mr])
    assert found.name == "mr" and found.runs == 2  # a run that failed has no score
    assert found.off == pytest.approx(math.sqrt((0.02**2 + 0.10**2) / 2)) and found.bias == pytest.approx(0.04)
    assert found.near == found.held == 0.5 and found.width == pytest.approx(0.1)
    assert math.isinf(found.factor) and math.isnan(found.held_stretched)  # no other seed
    assert calibration_table([found]).texts == (
        ("mr", "2", "7.2", "4.0", "50%", "50%", "10.0", "-", "-", "-"),
    )  # fmt: skip


def test_a_task_is_stretched_by_what_the_others_needed_and_not_by_itself() -> None:
    k = 20
    narrow = cell("mr", [(0.60, 0.01, "go")] * k, [0.64] * k)  # needs 4
    right = cell("subj", [(0.60, 0.05, "go")] * k, [0.60] * k)  # needs 0
    mr, subj, every = calibrations([narrow, right])
    assert (mr.factor, subj.factor) == (0, pytest.approx(4))
    assert mr.held_stretched == 0 and subj.held_stretched == 1 and subj.width_stretched == pytest.approx(0.4)
    assert every.name == "all" and every.held_stretched == 0.5 and every.runs == 2 * k
    alone, _ = calibrations([narrow, right, narrow])[:2]  # two seeds of one task go together
    assert alone.factor == 0


def test_a_cell_without_announcements_takes_no_part() -> None:
    told, silent = cell("mr", [(0.8, 0.05, "go")], [0.82]), cell("subj", [], [0.9])
    assert [found.name for found in calibrations([told, silent])] == ["mr"]
    assert calibrations([silent]) == [] == calls([silent])


def test_decisions_are_right_where_the_real_run_gains_as_called() -> None:
    told: list[tuple[float, float, Decision]] = [
        (0.7, 0.1, "go"), (0.7, 0.1, "go"), (0.5, 0.1, "no-go"), (0.5, 0.1, "cannot tell")
    ]  # fmt: skip
    mr = cell("mr", told, [0.6, 0.5, 0.4, 0.9])  # 0.5 is the start: no gain
    found = {each.decision: each for each in calls([mr])}
    assert [(each.calls, each.gained) for each in found.values()] == [(2, 1), (1, 0), (1, 1)]
    assert found["go"].right == 0.5 and found["no-go"].right == 1 and math.isnan(found["cannot tell"].right)
    assert calls_table(list(found.values())).texts == (
        ("go", "2", "1", "1", "50%"), ("no-go", "1", "0", "0", "100%"), ("cannot tell", "1", "1", "1", "-")
    )  # fmt: skip
    said = announced_findings(list(found.values()), calibrations([mr]))
    assert "called for 3 of 4 runs and right for 2 of these 3" in said[1]


def test_every_verdict_has_a_decision_and_every_decision_an_exit_code_that_is_no_error() -> None:
    assert set(DECISIONS.values()) == set(EXIT_CODES) and len(set(EXIT_CODES.values())) == 3
    assert not {1, 2} & set(EXIT_CODES.values()) and EXIT_CODES["go"] == 0


# --- end to end


def test_a_validation_announces_every_candidate_as_a_forecast_would(
    bert_folder: Path, mr_data: Path, tmp_path: Path
) -> None:
    grid = [Training(optimiser=AdamWOptimiser(1e-3), batch_size=4, epochs=1, evaluate_every=2, best_by="loss")]
    study = small_validation(bert_folder, mr_data, tmp_path, (13, 21), grid)
    cells = measured_candidates(study)
    for found in cells:
        assert len(found.announced) == 4
        assert all(0 <= told.low <= told.value <= told.high <= 1 for told in found.announced)
    data = validation_data(cells, {})
    assert data.calibrations[0].runs == 8 and sum(each.calls for each in data.calls) == 8
    page = validation_page(data, study)
    captions = [table.caption for table in page.tables]
    assert any(text.startswith("Announced against real") for text in captions)
    assert any(text.startswith("Whether to tune at all") for text in captions)
    assert (study.cell("mr", 13).folder / f"announced-{ANNOUNCED}").is_dir()  # pyright: ignore
    assert measured_candidates(study)[0].announced == cells[0].announced


@pytest.mark.parametrize("flag", [(), ("--exit-code",)], ids=["without", "with"])
def test_the_exit_code_says_the_decision_where_it_is_asked_for(bert_folder: Path, tmp_path: Path, flag) -> None:
    result = run_cli("forecast", bert_folder, "movies", "--k", 4, "--test", 16, *flag, "--json", tmp_path / "f.json")
    assert not result.stderr or "Error" not in result.stderr
    decision = json.loads((tmp_path / "f.json").read_text())["decision"]
    assert result.returncode == (EXIT_CODES[decision] if flag else 0)
    assert decision in EXIT_CODES and result.stdout


def test_a_plan_has_no_decision() -> None:
    result = run_cli("forecast", "no-model", "movies", "--plan", "--exit-code")
    assert result.returncode == 2 and "--exit-code contradicts --plan" in result.stderr
