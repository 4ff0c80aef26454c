"""`validate --plan` and `reproduce --plan`: what would be run and what is kept already; nothing is computed or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import assert_refused, assert_valid, run_cli


@pytest.fixture(scope="session")
def bert_masked_folder(model_folder) -> Path:
    return model_folder("bert-masked")


SMALL = ("--tasks", "mr", "--n", "8", "--test", "8", "--learning-rates", "1e-3", "--epochs", "1", "--batch-size", "4")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def planned(model: Path, data: Path, folder: Path, *options: str) -> dict:
    """What `validate --plan` says, and that it leaves the folder of results as it was."""
    report, out = folder / "plan.json", folder / "runs"
    before = files(out)
    words = ("validate", model, "--data", data, *SMALL, "--seeds", "13", "--out", out, *options)
    result = run_cli(*words, "--plan", "--json", report, "--quiet")
    assert result.returncode == 0, result.stderr
    assert files(out) == before
    plan = json.loads(report.read_text())
    report.unlink()
    assert_valid("study-plan", plan)
    return plan


def test_a_plan_of_a_validation_counts_what_is_left_and_writes_nothing(
    bert_folder: Path, mr_data: Path, tmp_path: Path
) -> None:
    (before,) = planned(bert_folder, mr_data, tmp_path)["cells"]
    assert (before["train"], before["finished"], before["kernels"]) == (8, 0, 2)
    assert before["runs"] > 4 and before["seconds"] > 0 and before["memory"] > 0 and before["disk"] > 0
    out = tmp_path / "runs"
    result = run_cli("validate", bert_folder, "--data", mr_data, *SMALL, "--seeds", "13", "--out", out, "--quiet")
    assert result.returncode == 0, result.stderr
    (after,) = planned(bert_folder, mr_data, tmp_path)["cells"]
    assert (after["runs"], after["kernels"], after["seconds"]) == (0, 0, 0)
    assert after["finished"] >= before["runs"] and Path(after["folder"]).is_dir()


def test_full_tuning_is_a_method_and_not_a_rank(bert_folder: Path, mr_data: Path, tmp_path: Path) -> None:
    (cell,) = planned(bert_folder, mr_data, tmp_path, "--method", "ft")["cells"]
    assert cell["kernels"] == 1
    assert_refused(run_cli("validate", bert_folder, "--rank", "0"), 2, "--rank is 0", "--method ft")
    assert_refused(run_cli("validate", bert_folder, "--method", "ft", "--rank", "4"), 2, "--rank is used only with")


@pytest.mark.parametrize("seeds", ["13,21"])
def test_a_plan_has_one_row_for_each_task_and_seed(
    bert_folder: Path, mr_data: Path, tmp_path: Path, seeds: str
) -> None:
    cells = planned(bert_folder, mr_data, tmp_path, "--seeds", seeds)["cells"]
    assert [cell["seed"] for cell in cells] == [13, 21]


def table_plan(table: str, model: Path, data: Path, folder: Path, *options: str) -> dict:
    """What `reproduce --plan` says."""
    report = folder / "plan.json"
    result = run_cli("reproduce", table, *table_words(model, data, folder), *options, "--plan", "--json", report)
    assert result.returncode == 0, result.stderr
    plan = json.loads(report.read_text())
    report.unlink()
    assert_valid("study-plan", plan)
    return plan


def table_words(model: Path, data: Path, folder: Path) -> tuple[object, ...]:
    return ("--model", model, "--data", data, "--tasks", "mr", "--test", "8", "--steps", "2", "--out", folder / "runs")


NEEDED = {
    "malladi-4": (4, 24),
    "malladi-1": (5, 24),
    "malladi-5": (0, 0),
    "malladi-8": (0, 9),
    "lpft-singular-values": (2, 0),
    "afzal-cost": (4, 1),
    "malladi-subspace": (9, 0),
}
"""Table -> kernels and runs of one experiment; K(A-SignGD) is two kernels."""


@pytest.mark.parametrize("table", NEEDED)
def test_a_plan_of_a_table_counts_its_experiments_and_writes_nothing(
    bert_masked_folder: Path, mr_data: Path, tmp_path: Path, table: str
) -> None:
    shots = () if table == "afzal-cost" else ("--k", "4")
    plan = table_plan(table, bert_masked_folder, mr_data, tmp_path, *shots, "--seeds", "13,21", "--first-piece")
    assert not list(tmp_path.iterdir())
    assert [cell["seed"] for cell in plan["cells"]] == [13, 21]
    assert not plan["unknown"]
    assert {(cell["kernels"], cell["runs"], cell["finished"]) for cell in plan["cells"]} == {(*NEEDED[table], 0)}


def test_a_table_that_has_neither_kernels_nor_runs_says_that_its_time_is_not_known(
    bert_masked_folder: Path, mr_data: Path, tmp_path: Path
) -> None:
    plan = table_plan("afzal-lipschitz", bert_masked_folder, mr_data, tmp_path, "--k", "4", "--seeds", "13")
    assert "afzal-lipschitz" in plan["unknown"][0]


@pytest.mark.parametrize("table", ["lpft-norms", "afzal-layers", "afzal-spectrum", "malladi-6"])
def test_of_a_table_that_is_made_nothing_is_left_to_do(
    bert_masked_folder: Path, mr_data: Path, tmp_path: Path, table: str
) -> None:
    options = ("--k", "4", "--seeds", "13", "--first-piece", *(("--adam-rates", "1e-3", "--batch-sizes", "4")))
    (before,) = table_plan(table, bert_masked_folder, mr_data, tmp_path, *options)["cells"]
    assert before["kernels"] and before["runs"] and before["seconds"] > 0
    made = run_cli("reproduce", table, *table_words(bert_masked_folder, mr_data, tmp_path), *options)
    assert made.returncode == 0, made.stderr
    (after,) = table_plan(table, bert_masked_folder, mr_data, tmp_path, *options)["cells"]
    assert (after["kernels"], after["runs"], after["seconds"], after["finished"]) == (0, 0, 0, before["runs"])
