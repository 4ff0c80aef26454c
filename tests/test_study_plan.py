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


@pytest.mark.parametrize(("table", "kernels", "runs"), [("malladi-4", 4, 9), ("lpft-norms", 0, 0), ("malladi-1", 0, 0)])
def test_a_plan_of_a_table_counts_its_experiments_and_writes_nothing(
    bert_masked_folder: Path, mr_data: Path, tmp_path: Path, table: str, kernels: int, runs: int
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "runs"
    words = ("--model", bert_masked_folder, "--data", mr_data, "--tasks", "mr", "--k", "4", "--seeds", "13,21")
    result = run_cli("reproduce", table, *words, "--test", "8", "--first-piece", "--steps", "4", "--out", out, "--plan",
                     "--json", plan)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not out.exists()
    found = json.loads(plan.read_text())
    assert_valid("study-plan", found)
    assert [cell["seed"] for cell in found["cells"]] == [13, 21]
    assert bool(found["unknown"]) == (runs == 0)
    for cell in found["cells"]:
        assert (cell["kernels"] >= kernels, cell["runs"] >= runs, cell["finished"]) == (True, True, 0)
