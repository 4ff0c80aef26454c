"""`foretune kernel --formula`, `solve` and `tasks NAME` as processes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import foretune as ft
from foretune.analysis.solvers import KernelRidge, joint_data, solve_on_grid
from foretune.store.kept import write_kept
from tests.conftest import WORDS, assert_refused, assert_valid, many_rows, run_cli

FORMULAS = "sgd,signgd,asymmetric,lora,projection"
SMALL = ("--k", 4, "--test", 10)


@pytest.fixture(scope="module")
def run_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in many_rows()))
    out = folder / "run"
    options = ("--formula", FORMULAS, "--rank", "1,4", "--dimension", 16, "--projection", "rademacher")
    result = run_cli("kernel", llama_folder, data, WORDS, *SMALL, *options, "--out", out)
    assert result.returncode == 0, result.stderr
    return out


def pretrained(folder: Path) -> list[list[float]]:
    """The outputs of all examples that are kept."""
    return json.loads((folder / "values" / "pretrained-outputs.json").read_text())["value"]["f0"]


def test_kernel_writes_one_folder_a_formula(run_folder: Path) -> None:
    record = json.loads((run_folder / "experiment.json").read_text())
    assert sorted(record["kernels"]) == [
        "asymmetric", "asymmetric-reversed", "lora-r1", "lora-r4", "rademacher-k16", "sgd", "signgd",
    ]  # fmt: skip
    for label in record["kernels"]:
        assert ft.BlockKernel.open(run_folder / "kernels" / label).array.shape[1:] == (8, 1, 26, 1)
    assert len(record["y"]) == len(pretrained(run_folder)) == 26
    assert record["task"]["labels"] == ["negative", "positive"]


def test_solve_says_what_the_library_says(run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "solutions.json"
    result = run_cli("solve", run_folder, "--json", target)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert_valid("solve", found)
    by_kernel = {item["kernel"]: item for item in found["solutions"]}
    assert by_kernel["asymmetric"]["solver"] == "asymmetric"
    assert {item["solver"] for label, item in by_kernel.items() if label != "asymmetric"} == {"ridge"}
    record = json.loads((run_folder / "experiment.json").read_text())
    f0, y = np.array(pretrained(run_folder)), np.array(record["y"])
    own = solve_on_grid(
        KernelRidge(), joint_data(ft.BlockKernel.open(run_folder / "kernels" / "sgd").total(), f0, y, 8)
    )
    assert by_kernel["sgd"]["solution"]["predictions"] == own.predictions.tolist()
    assert len(by_kernel["sgd"]["solution"]["grid"]) == 25
    assert f"{by_kernel['sgd']['score']['value']:.3f}" in result.stdout
    assert "zero-shot" in result.stdout


def test_every_solver_runs_on_a_symmetric_kernel(run_folder: Path) -> None:
    result = run_cli("solve", run_folder, "--kernels", "signgd", "--solver", "ridge,logistic,svc,svr,published",
                     "--choose", "cv", "--select", "*layers.1.*")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in ("ridge", "logistic", "svc", "svr", "published"))


def test_solve_refuses_what_does_not_fit(run_folder: Path, tmp_path: Path) -> None:
    assert_refused(run_cli("solve", tmp_path), 1, "is not a folder of kernels", "foretune kernel MODEL DATA --out")
    assert_refused(run_cli("solve", run_folder, "--solver", "rigde"), 2, "Did you mean 'ridge'")
    assert_refused(run_cli("solve", run_folder, "--kernels", "asymmetric", "--solver", "ridge"), 2, "not symmetric")
    assert_refused(
        run_cli("solve", run_folder, "--kernels", "sdg"), 1, "no finished kernel 'sdg'", "Did you mean 'sgd'"
    )
    assert_refused(run_cli("solve", run_folder, "--select", "*nothing*"), 2, "No parameter block matches")
    assert_refused(run_cli("solve", run_folder, "--choose", "test"), 2, "expected validation, cv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1, "foretune": "0.0.9"}, "has format 1, written by foretune 0.0.9"),
        ({"outputs": {"kind": "answer", "words": {"no": "No", "yes": "Yes"}}}, "made with other labels"),
        ({"sizes": {"train": 4, "validation": 12, "test": 10}}, "does not belong to"),
    ],
)
def test_solve_refuses_a_folder_of_another_version_or_label_set(run_folder, tmp_path, change, message) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run_folder, copied)
    record = json.loads((copied / "experiment.json").read_text())
    del record["checksum"]
    write_kept(copied / "experiment.json", {**record, **change}, ("about", "foretune"))
    assert_refused(run_cli("solve", copied), 1, message, "new folder")


def test_a_folder_of_another_version_in_the_same_format_is_noted(run_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run_folder, copied)
    record = json.loads((copied / "experiment.json").read_text())
    (copied / "experiment.json").write_text(json.dumps({**record, "foretune": "0.0.9"}))
    result = run_cli("solve", copied, "--kernels", "sgd")
    assert result.returncode == 0, result.stderr
    assert "made by foretune 0.0.9" in " ".join(result.stdout.split())


def test_another_split_in_the_same_folder_is_refused_and_another_formula_joins(
    run_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    data, copied = run_folder.parent / "data.jsonl", tmp_path / "copied"
    shutil.copytree(run_folder, copied)
    command = ("kernel", llama_folder, data, WORDS, *SMALL, "--out", copied)
    refused = run_cli(*command, "--seed", 21, "--formula", "sgd")
    assert_refused(refused, 2, "holds another experiment: it differs in test, train, validation")
    joined = run_cli(*command, "--formula", "lora", "--rank", 2)
    assert joined.returncode == 0, joined.stderr
    result = run_cli("solve", copied, "--kernels", "lora-r2,sgd")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--formula", "sdg"), ("--formula 'sdg'", "Did you mean 'sgd'")),
        (("--formula", "lora", "--rank", "0"), ("--rank is 0", "1 to 65536")),
        (("--formula", "lora", "--rank", "eight"), ("--rank 'eight'", "such as 1,8,64")),
        (("--formula", "lora", "--target-modules", "q_porj"), ("matches no linear layer", "Did you mean 'q_proj'")),
        (("--formula", "projection", "--dimension", "0"), ("--dimension is 0", "1 to 1000000")),
        (("--formula", "signgd", "--eps", "-1"), ("--eps is -1",)),
        (("--layers", "9"), ("There is no layer 9", "0 to 1")),
        (("--lora-only",), ("leaves none",)),
        (("--prompt", "null"), ("--prompt chooses among the prompts of a task",)),
        (("--head", "zero"), ("--head 'zero'", "probe, random")),
    ],
)
def test_wrong_options_say_what_to_type(llama_folder: Path, data_file: Path, tmp_path: Path, options, parts) -> None:
    result = run_cli("kernel", llama_folder, data_file, WORDS, *SMALL, "--out", tmp_path / "run", *options)
    assert_refused(result, 2, *parts)


def test_filters_leave_some_blocks(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--layers", "1", "--blocks", "*proj*,*norm*", "--exclude-head", "--exclude-embeddings")
    result = run_cli("kernel", llama_folder, data_file, WORDS, *SMALL, *options, "--out", out)
    assert result.returncode == 0, result.stderr
    names = ft.BlockKernel.open(out / "kernels" / "sgd").names
    assert len(names) == 9
    assert all(".layers.1." in name for name in names)


@pytest.mark.slow
def test_a_head_starts_from_the_linear_probe(bert_folder: Path, data_file: Path, tmp_path: Path) -> None:
    scores = {}
    for head in ("probe", "random"):
        target = tmp_path / f"{head}.json"
        options = ("--head", head, "--blocks", "*layer.1.output.dense.*,head.*", "--json", target)
        result = run_cli("forecast", bert_folder, data_file, *SMALL, *options)
        assert result.returncode == 0, result.stderr
        scores[head] = json.loads(target.read_text())["forecast"]
    assert scores["probe"]["probe"] == scores["random"]["probe"]
    assert scores["probe"]["zero_shot"] != scores["random"]["zero_shot"]


def test_a_folder_with_train_and_test_files_and_a_task_file(llama_folder: Path, tmp_path: Path) -> None:
    rows, folder = many_rows(), tmp_path / "rows"
    folder.mkdir()
    for name, part in (("train", rows[:30]), ("test", rows[30:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    task = tmp_path / "task.yaml"
    task.write_text(
        'labels: [negative, positive]\ntemplate: "{text} it was {mask} ."\nwords: {negative: terrible, positive: great}\n'
        'prompts:\n  "null": {template: "{text} {mask}"}\n'
    )
    shown = run_cli("tasks", task)
    assert "First text. it was [MASK] ." in shown.stdout
    target = tmp_path / "kernel.json"
    result = run_cli("kernel", llama_folder, folder, "--task", task, "--prompt", "null", "--k", 4,
                     "--out", tmp_path / "run", "--json", target)  # fmt: skip
    assert result.returncode == 0, result.stderr
    record = json.loads(target.read_text())
    assert_valid("kernel", record)
    assert record["sizes"]["test"] == 10
    assert record["task"]["prompt"] == "null"
    task.write_text("labels: [a, b]\ntemplat: x\n")
    assert_refused(run_cli("tasks", task), 2, "templat", "Did you mean 'template'")
    assert_refused(run_cli("tasks", "ret"), 2, "There is no task 'ret'", "Did you mean 'rte'")


@pytest.mark.slow
def test_the_examples_of_the_help_work_as_printed(tmp_path: Path) -> None:
    for name in ("kernel", "solve", "tasks"):
        shown = " ".join(run_cli(name, "--help", env={"COLUMNS": "1000"}).stdout.split())
        (example,) = re.findall(r"Example: foretune (.*?) [╭│─]", shown)
        result = run_cli(*example.split(), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert "signgd" in run_cli("solve", tmp_path / "runs" / "movies").stdout


def test_every_task_is_listed_and_shown() -> None:
    listed = run_cli("tasks").stdout
    for name in ("sst2", "trec", "mnli", "qqp", "boolq", "movies"):
        assert f" {name} " in listed
    shown = run_cli("tasks", "trec").stdout
    assert "[MASK]: First text." in shown
    assert "Question: First text. Type:" in shown


def test_solve_keeps_its_page_in_a_folder_of_its_own(run_folder: Path, tmp_path: Path) -> None:
    words = ("solve", run_folder, "--kernels", "sgd", "--out", "page")
    result = run_cli(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"report.html", "page.json", "page.md", "table-1.csv"} <= names
    assert_valid("solve", json.loads((tmp_path / "page" / "page.json").read_text()))
    assert result.stdout.splitlines()[-1] == run_cli("show", "page", cwd=tmp_path).stdout.splitlines()[-1]
    before = (tmp_path / "page" / "page.md").read_text()
    assert run_cli(*words, cwd=tmp_path).returncode == 0  # replaces its own
    assert (tmp_path / "page" / "page.md").read_text() == before
    other = ("solve", run_folder, "--kernels", "signgd", "--out", "page")
    assert_refused(run_cli(*other, cwd=tmp_path), 2, "page of another command")
    assert_refused(run_cli("solve", run_folder, "--out", run_folder), 2, "Choose")
    assert_refused(run_cli("solve", run_folder, "--out", run_folder / "page"), 2, "inside")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert_refused(run_cli("solve", run_folder, "--out", "mine", cwd=tmp_path), 2, "notes.txt", "mv")
