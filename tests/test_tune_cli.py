"""`foretune tune` and `foretune behaviour` as processes, and the split of all data."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

import foretune as ft
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions, ReportOptions
from foretune.cli.tune import RunRecipe, read_recipe, run_tune
from foretune.cli.tuning_options import MethodOptions, TrainingOptions, TuneOptions
from foretune.cli.worker_options import WorkerOptions
from foretune.errors import DataError, UsageError
from foretune.finetune.page import run_page
from foretune.finetune.report import read_report, write_report
from foretune.regime.measure import _fitting
from foretune.text.split import full_split
from tests.command_line import ENVIRONMENT
from tests.conftest import WORDS, assert_refused, assert_valid, interruptible, many_rows, run_cli, write_jsonl

SMALL = ("--k", 4, "--test", 10, "--steps", 8, "--evaluate-every", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    write_jsonl(made / "data.jsonl", many_rows())
    return made


@pytest.fixture(scope="module")
def lora_run(llama_folder: Path, folder: Path) -> Path:
    options = ("--method", "lora", "--rank", 2, "--layers", 1, "--learning-rate", 0.01, "--proximal", 0.1)
    result = run_cli("tune", llama_folder, folder / "data.jsonl", WORDS, *SMALL, *options, "--out", folder / "lora",
                     "--json", folder / "lora.json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    record = json.loads((folder / "lora.json").read_text())
    assert next(iter(record)) == "foretune"
    assert f"test accuracy {record['test']['value']:.3f}" in " ".join(result.stdout.split())
    assert_valid("tune", record)
    assert "bound" in result.stdout
    return folder / "lora"


@pytest.fixture(scope="module")
def probed_run(bert_folder: Path, folder: Path) -> Path:
    options = ("--method", "lp-ft", "--optimiser", "sgd", "--loss", "squared", "--head", "random", "--full-data")
    result = run_cli("tune", bert_folder, folder / "data.jsonl", *SMALL, *options, "--out", folder / "lp-ft")  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "lp-ft"


def test_a_run_folder_repeats_the_run_and_holds_what_was_printed(lora_run: Path) -> None:
    settings = yaml.safe_load((lora_run / "run.yaml").read_text())
    assert (settings["method"], settings["rank"], settings["steps"]) == ("lora", 2, 8)
    record = json.loads((lora_run / "result.json").read_text())
    (stage,) = record["stages"]
    assert [line["step"] for line in stage["history"]] == [0, 4, 8]
    assert all(line["distance"] <= line["bound"] for line in stage["history"])
    assert stage["learning_rate"] == 0.01
    adapters = 2 * (7 * 16 + 7 * 16)  # at most: rank 2, seven linear layers, some of them narrower or wider
    assert 0 < stage["trained"] < 4 * adapters
    assert len(record["test_logits"]) == record["about"]["sizes"]["test"] == 10
    assert 0 <= record["zero_shot"]["low"] <= record["zero_shot"]["value"] <= record["zero_shot"]["high"] <= 1
    assert record["gain"]["value"] == pytest.approx(record["test"]["value"] - record["zero_shot"]["value"])
    assert record["gain"]["low"] <= record["gain"]["value"] <= record["gain"]["high"]


def test_a_report_of_an_earlier_version_is_shown_without_its_gain(lora_run: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "run"
    shutil.copytree(lora_run, earlier)

    def helped() -> str:
        report = read_report(earlier)
        assert report is not None
        return next(fact.text for fact in run_page(report, earlier).facts if fact.name == "Did it help?")

    report = read_report(earlier)
    assert report is not None and report.gain is not None
    assert f", gain {report.gain.value:+.3f} (95%: " in helped()
    write_report(earlier, replace(report, gain=None))
    assert ", gain" not in helped() and helped().split()[0] in {"Perhaps.", "No."}


def test_a_finished_run_is_shown_without_training_and_another_refused(lora_run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in lora_run.rglob("*") if file.is_file()}
    again = run_cli("tune", "--config", lora_run / "run.yaml", "--details")
    assert again.returncode == 0, again.stderr
    assert "nothing was trained" in again.stdout
    assert "chosen" in again.stdout
    assert before == {file: file.stat().st_mtime_ns for file in lora_run.rglob("*") if file.is_file()}
    other = run_cli("tune", "--config", lora_run / "run.yaml", "--rank", 4, "--method", "lp-lora")
    assert_refused(other, 2, "holds another run: it differs in method, rank", "--config")


def test_a_run_of_a_version_with_fewer_options_is_the_same_run(lora_run: Path, tmp_path: Path) -> None:
    older = shutil.copytree(lora_run, tmp_path / "older")
    settings = older / "run.yaml"
    assert "exclude_head: false\n" in settings.read_text()
    settings.write_text(settings.read_text().replace("exclude_head: false\n", ""))
    again = run_cli("tune", "--config", settings, "--out", older)
    assert again.returncode == 0 and "nothing was trained" in again.stdout, again.stderr


def test_a_finished_run_answers_for_its_own_data_and_weights_only_and_lost_parts_are_trained_again(
    bert_folder: Path, tmp_path: Path
) -> None:
    data, model, run = tmp_path / "a\nb c.jsonl", tmp_path / "model", tmp_path / "my run"
    rows = [json.dumps(row) + "\n" for row in many_rows()]
    data.write_text("".join(rows))
    shutil.copytree(bert_folder, model)
    command = ("tune", model, data, *SMALL, "--method", "lp", "--learning-rate", 0.1, "--out", run)
    again = ("tune", "--config", run / "run.yaml", "--json", tmp_path / "run.json")
    for words in (command, again, again):
        result = run_cli(*words)
        assert result.returncode == 0, result.stderr
    assert "nothing was trained" in result.stdout
    scores = json.loads((run / "result.json").read_text())["test"]

    shutil.rmtree(run / "runs")
    hint = shlex.join(["foretune", "tune", "--config", str(run / "run.yaml"), "--out", str(run)])
    assert_refused(run_cli("behaviour", run), 2, "is missing or incomplete", f"`{hint}` trains what is missing")
    trained = run_cli(*shlex.split(hint)[1:])
    assert trained.returncode == 0, trained.stderr
    assert "nothing was trained" not in trained.stdout
    assert json.loads((run / "result.json").read_text())["test"] == scores

    data.write_text("".join(row.replace("film", "movie") for row in rows))
    assert_refused(run_cli(*again), 2, "holds another experiment: it differs in test, train, validation")
    data.write_text("".join(rows))
    weights = load_file(model / "model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    assert_refused(run_cli(*again), 2, "holds another experiment: it differs in weights")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("k: two", "k is 'two'; expected a whole number"),
        ("k: 0", "--k is 0; expected at least 1"),
        ("learning_rate: [1, 2]", "expected a number"),
        ("dropout: perhaps", "dropout is 'perhaps'; expected true or false"),
        ("method: ft\nmethod: lp", "stands twice"),
    ],
)
def test_a_wrong_value_in_the_settings_of_a_run_is_named(line: str, message: str, tmp_path: Path) -> None:
    lines = {"model": "model: minilm", "data": "data: movies", "method": "method: ft"} | {
        line.split(":", maxsplit=1)[0]: line
    }
    (tmp_path / "run.yaml").write_text("\n".join(lines.values()) + "\n")
    with pytest.raises(UsageError, match=message) as error:
        read_recipe(tmp_path)
    assert str(tmp_path / "run.yaml") in str(error.value)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one")
    options = (ModelOptions("minilm"), DataOptions("movies"), OutputOptions(), MethodOptions(), TrainingOptions())
    with pytest.raises(UsageError, match=r"not a folder of a fine-tuning run.*Choose an empty or new folder"):
        run_tune(*options, TuneOptions(tmp_path), WorkerOptions(), ReportOptions())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_behaviour_says_the_verdict_with_every_number(lora_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "behaviour.json"
    result = run_cli("behaviour", lora_run, "--test-examples", 6, "--segment-points", 2, "--json", target)  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert_valid("behaviour", found)
    verdict = found["verdict"]
    assert f"Kernel behaviour: {verdict['kernel_behaviour']}" in result.stdout
    assert verdict["linearization"]["threshold"] == 0.5
    assert verdict["fixed_features"]["threshold"] == 1.0
    assert found["analog"]["kernel"] == found["analog"]["solver"] == "asymmetric"
    assert found["sizes"] == {"train": 8, "validation": 8, "test": 6}
    assert set(found["parameters"]["by_parameter"]) == set(verdict["fixed_features"]["blocks"])
    assert all(".layers.1." in name and "lora_" in name for name in found["parameters"]["by_parameter"])
    history = json.loads((lora_run / "result.json").read_text())["stages"][0]["history"]
    assert found["parameters"]["distance"] in [pytest.approx(line["distance"]) for line in history[1:]]
    assert len(found["gap"]["by_example"]) == 6
    assert len(found["lipschitz"]["radii"]) == 2
    assert found["head"] is None
    assert found["calibration"]["without"]["ece"] >= 0


def test_behaviour_keeps_its_page_in_a_folder_of_its_own(lora_run: Path, tmp_path: Path) -> None:
    words = ("behaviour", lora_run, "--test-examples", 6, "--segment-points", 2)
    result = run_cli(*words, "--out", tmp_path / "page")
    assert result.returncode == 0, result.stderr
    assert {"report.html", "page.json", "page.md"} <= {path.name for path in (tmp_path / "page").iterdir()}
    record = json.loads((tmp_path / "page" / "page.json").read_text())
    assert_valid("behaviour", record)
    assert record["verdict"]["kernel_behaviour"] in result.stdout.splitlines()[-1]
    assert f"foretune show {tmp_path / 'page'} --details" in result.stdout
    assert_refused(run_cli(*words, "--out", lora_run / "page"), 2, "inside")
    assert_refused(run_cli(*words, "--out", lora_run), 2, "Choose")


def test_behaviour_solves_the_kernel_on_the_rows_of_the_run_or_says_that_it_does_not(
    lora_run: Path, tmp_path: Path
) -> None:
    few = run_cli("behaviour", lora_run, "--test-examples", 6, "--train-examples", 6, "--json", tmp_path / "few.json")
    assert few.returncode == 0, few.stderr
    assert "solved on the first 6 of the 8 examples that the run was trained on" in " ".join(few.stdout.split())
    assert json.loads((tmp_path / "few.json").read_text())["sizes"] == {"train": 6, "validation": 8, "test": 6}
    # bytes of both orientations of the kernel of one block of one output: n (n + v + m) numbers of 8 bytes each
    assert _fitting("1MiB", 2, 14) == max(n for n in range(1, 999) if 8 * 2 * n * (n + 14) <= 2**19)


def test_behaviour_of_a_head_measures_features_from_the_end_of_probing(probed_run: Path, tmp_path: Path) -> None:
    record = json.loads((probed_run / "result.json").read_text())
    assert [stage["method"] for stage in record["stages"]] == ["lp", "ft"]
    assert record["about"]["sizes"] == {"train": 28, "validation": 2, "test": 10}
    target = tmp_path / "behaviour.json"
    result = run_cli("behaviour", probed_run, "--formula", "signgd", "--json", target)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert (found["analog"]["kernel"], found["analog"]["solver"]) == ("sgd", "logistic")
    assert len(found["head"]["row_norms"][0]) == 2
    assert found["head"]["features"]["cosine"] <= 1
    assert "after linear probing" in " ".join(result.stdout.split())
    assert_valid("behaviour", found)
    assert "Fisher ratio" in run_cli("show", target, "--details").stdout


def test_only_the_head_moves_in_linear_probing_so_its_kernel_stays(bert_folder: Path, folder: Path) -> None:
    run, target = folder / "lp", folder / "lp-behaviour.json"
    options = ("--method", "lp", "--optimiser", "sgd", "--learning-rate", 0.1)
    tuned = run_cli("tune", bert_folder, folder / "data.jsonl", *SMALL, *options, "--out", run)
    assert tuned.returncode == 0, tuned.stderr
    assert "--head random" in " ".join(tuned.stdout.split())
    result = run_cli("behaviour", run, "--json", target)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert found["verdict"]["fixed_features"]["distance"] == 0
    assert set(found["verdict"]["fixed_features"]["blocks"]) == {"head.weight", "head.bias"}
    assert found["gap"]["relative"] < 1e-5
    assert found["lipschitz"]["largest"] == [0] * 4


TRACKER = """
import json, pathlib


class SummaryWriter:
    def __init__(self, log_dir):
        self.file = pathlib.Path(log_dir) / "scalars.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        print("a tracker says hello")

    def add_scalar(self, name, value, step):
        with self.file.open("a") as lines:
            lines.write(json.dumps([name, value, step]) + "\\n")

    def __getattr__(self, name):
        return lambda *args, **kwargs: None
"""
"""A package that stands for tensorboardX."""


def test_a_run_reports_to_a_tracker_which_is_no_part_of_it(llama_folder: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorboardX").mkdir()
    (tmp_path / "tensorboardX" / "__init__.py").write_text(TRACKER)
    words = ("tune", llama_folder, folder / "data.jsonl", WORDS, *SMALL, "--method", "lora", "--out", tmp_path / "run")
    missing = run_cli(*words, "--report-to", "wandb")
    assert_refused(missing, 2, "wandb is not installed", "pip install wandb")
    assert not (tmp_path / "run").exists()
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = run_cli(*words, "--report_to", "tensorboard", env={"PYTHONPATH": paths})  # as transformers spells it
    assert result.returncode == 0, result.stderr
    assert "a tracker says hello" in result.stderr and "a tracker" not in result.stdout
    (file,) = (tmp_path / "run").glob("runs/*/point-0/tensorboard/scalars.jsonl")
    seen = {(name, step): value for name, value, step in map(json.loads, file.read_text().splitlines())}
    history = json.loads((tmp_path / "run" / "result.json").read_text())["stages"][-1]["history"]
    for line in history:
        assert seen["eval/loss", line["step"]] == pytest.approx(line["validation_loss"])
    again = run_cli(*words, "--report-to", "none")  # finished: the same run
    assert again.returncode == 0 and "nothing was trained" in again.stdout, again.stderr


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped(llama_folder: Path, folder: Path) -> None:
    out = folder / "interrupted"
    arguments = ("tune", llama_folder, folder / "data.jsonl", WORDS, "--k", 4, "--test", 10, "--method", "linearized",
                 "--steps", 24, "--evaluate-every", 2, "--learning-rate", 1e-3, "--out", out)  # fmt: skip
    command = [sys.executable, "-m", "foretune", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=interruptible,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (logs := list(out.glob("runs/*/point-0/log.jsonl"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        (log,) = logs
        while log.read_text().count("\n") < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "Stopped. Repeat the same command to go on where it stopped."
    assert_refused(run_cli("behaviour", out), 2, "is not finished", f"--config {out / 'run.yaml'}")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert 0 < steps[-1] < 24
    first = log.read_text().splitlines()[1]
    resumed = run_cli(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    history = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in history] == list(range(0, 25, 2))
    assert history[1] == json.loads(first)  # with its seconds: it was not repeated


@pytest.mark.parametrize(
    ("method", "training", "grid", "message"),
    [
        ({}, {"learning_rate": -1.0}, None, "learning rate is -1.0; expected a positive number"),
        ({}, {"proximal": -0.1}, None, "proximal strength is -0.1"),
        ({}, {"epochs": 1.0, "steps": 2}, None, "Both steps .2. and epochs .1.0."),
        ({}, {"learning_rate": 0.1}, "paper", "leave --learning-rate out"),
    ],
)
def test_wrong_options_say_what_to_type_before_anything_is_loaded(method, training, grid, message) -> None:
    with pytest.raises(UsageError, match=message):
        _recipe(method, training, grid).made()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--method lroa", "Did you mean 'lora'"),
        ("--method bitfit --layers 1", "--layers is used only with --method ft, lora, lp-ft, lp-lora or linearized"),
        ("--optimiser adam", "Did you mean 'adamw'"),
        ("--loss square", "Did you mean 'squared'"),
        ("--method lora --rank 1,8", "This command takes one value"),
    ],
)
def test_wrong_words_are_refused_with_the_right_ones(typed: str, message: str, tmp_path: Path) -> None:
    assert_refused(run_cli("tune", "m", "d", "--out", tmp_path / "x", *typed.split()), 2, message)


def test_without_a_learning_rate_the_middle_of_the_papers_grid_is_used() -> None:
    usual = {
        (method, optimiser): _recipe({"method": method}, {"optimiser": optimiser}).made()[1][0].optimiser.learning_rate
        for method in ("ft", "lora", "lp")
        for optimiser in ("adamw", "sgd")
    }
    assert usual == {
        ("ft", "adamw"): 2e-5, ("lora", "adamw"): 4e-5, ("lp", "adamw"): 1e-3,
        ("ft", "sgd"): 1e-3, ("lora", "sgd"): 1e-3, ("lp", "sgd"): 0.1,
    }  # fmt: skip
    assert len(_recipe({}, {"optimiser": "sgd"}, "paper").made()[1]) == 15
    assert _recipe({}, {"batch_size": 0}).made()[1][0].batch_size is None


def test_linear_probing_is_refused_where_words_answer(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    options = ("--k", 4, "--method", "lp", "--out", tmp_path / "run")
    result = run_cli("tune", llama_folder, data_file, WORDS, *options)
    assert_refused(result, 2, "label words answer", "--output head")


def test_behaviour_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it has no run.yaml. Make one with `foretune tune MODEL DATA --out DIR`"):
        read_recipe(tmp_path)
    (tmp_path / "run.yaml").write_text("model: minilm\ndata: movies\nformula: sgd\n")
    with pytest.raises(UsageError, match=r"its run.yaml is not of `foretune tune`"):
        read_recipe(tmp_path)


def _recipe(method: dict[str, Any], training: dict[str, Any], grid: str | None = None) -> RunRecipe:
    return RunRecipe(
        ModelOptions("minilm"),
        DataOptions("movies"),
        OutputOptions(),
        MethodOptions(**method),
        TrainingOptions(**training),
        TuneOptions(Path("runs"), grid=grid),
    )


def _examples(count: int) -> list[ft.Example]:
    return [ft.Example(f"text {number}", None, "ab"[number % 2]) for number in range(count)]


def test_a_full_split_trains_on_all_that_does_not_validate_or_test() -> None:
    examples = _examples(200)
    split = full_split(examples, ["a", "b"], k=16, seed=13, test=20)
    parts = [split.train, split.validation, split.test]
    assert sorted(example.text for part in parts for example in part) == sorted(example.text for example in examples)
    assert len(split.test) == 20
    assert {label: sum(e.label == label for e in split.validation) for label in "ab"} in (
        {"a": 9, "b": 9}, {"a": 8, "b": 9}, {"a": 9, "b": 8},
    )  # fmt: skip
    assert full_split(examples, ["a", "b"], k=2, seed=13, test=20).validation != split.validation
    assert len(full_split(examples, ["a", "b"], k=2, seed=13, test=20).validation) == 4


def test_a_full_split_depends_on_the_seed_alone_and_shares_its_test_examples() -> None:
    examples = _examples(60)
    split = full_split(examples, ["a", "b"], k=4, seed=13, test=10)
    assert split == full_split(examples[::-1], ["a", "b"], k=4, seed=13, test=10)
    other = full_split(examples, ["a", "b"], k=4, seed=21, test=10)
    assert other.test == split.test
    assert other.validation != split.validation


def test_a_full_split_with_test_rows_of_its_own_leaves_out_overlaps() -> None:
    examples = _examples(40)
    others = [*examples[:3], *(ft.Example(f"new {number}", None, "a") for number in range(5))]
    split = full_split(examples, ["a", "b"], k=4, seed=13, test=10, test_examples=others)
    assert len(split.train) + len(split.validation) == 40
    assert (len(split.test), split.overlaps) == (5, 3)


def test_a_full_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="Use a smaller --test"):
        full_split(_examples(8), ["a", "b"], k=2, seed=13, test=8)


def test_a_plan_counts_runs_and_steps_and_writes_nothing(bert_folder: Path, folder: Path, tmp_path: Path) -> None:
    command = (
        "tune",
        bert_folder,
        folder / "data.jsonl",
        *SMALL,
        "--head",
        "random",
        "--out",
        tmp_path / "run",
        "--plan",
    )
    plan = tmp_path / "plan.json"
    result = run_cli(*command, "--json", plan)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "run").exists()
    found = json.loads(plan.read_text())
    assert (found["runs"], found["steps"], found["evaluations"], found["finished"]) == (1, 8, 3, 0)
    assert found["seconds"] > 0
    several = run_cli(*command, "--grid", "paper", "--method", "lp-ft", "--json", plan)
    assert several.returncode == 0, several.stderr
    found = json.loads(plan.read_text())
    assert (found["runs"], found["steps"], found["evaluations"]) == (9, 2 * 9 * 8, 2 * 9 * 3)  # two stages each


@pytest.mark.parametrize("command", ["tune", "kernel", "forecast"])
def test_a_plan_needs_no_folder_and_what_it_plans_says_that_it_does(
    command: str, bert_folder: Path, folder: Path, tmp_path: Path
) -> None:
    asked = (command, bert_folder, folder / "data.jsonl", *SMALL[:4])
    result = run_cli(*asked, "--plan", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    if command != "forecast":  # which keeps nothing without a folder
        assert_refused(run_cli(*asked), 2, "needs a folder to go to: --out DIR")


def test_a_plan_of_a_finished_run_has_nothing_to_train(lora_run: Path, folder: Path) -> None:
    plan = folder / "plan.json"
    result = run_cli("tune", "--config", lora_run / "run.yaml", "--plan", "--json", plan)
    assert result.returncode == 0, result.stderr
    found = json.loads(plan.read_text())
    assert (found["runs"], found["steps"], found["finished"], found["seconds"]) == (0, 0, 1, 0.0)
