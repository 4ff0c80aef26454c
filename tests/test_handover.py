"""What a forecast hands over runs as it stands, and trains what the forecast names."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import foretune
from foretune.candidates.adam import AdamRate, PredictedRun
from foretune.candidates.candidate import candidate, parameter_sizes
from foretune.experiment.experiment import Experiment, load_experiment
from foretune.experiment.sample import FewShot
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.finetune.lora_config import classes_for, lora_config
from foretune.finetune.methods import FrozenHead
from foretune.finetune.training import Training
from foretune.handover.files import WRITTEN, write_next_run
from foretune.handover.next_run import NextRun, next_run, tune_options
from tests.conftest import WORDS, assert_refused, many_rows, run_cli, run_code, write_jsonl

SMALL = ("--k", 8, "--test", 16)


@pytest.fixture(scope="module")
def forecast(model_folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """A forecast of a masked model that answers a prompt: its folder, its JSON, and what it said."""
    here = tmp_path_factory.mktemp("forecast")
    write_jsonl(here / "reviews.jsonl", many_rows(60))
    words = ("forecast", model_folder("bert-masked"), "reviews.jsonl", *SMALL, WORDS, "--out", "out")
    result = run_cli(*words, cwd=here)
    assert result.returncode == 0, result.stderr
    return here / "out", json.loads((here / "out" / "forecast.json").read_text()), result.stdout


def ran(folder: Path) -> tuple[list[dict], str]:
    """The log of `train.py` in a process in which foretune cannot be imported, and what it printed."""
    code = (
        "import runpy, sys, warnings; warnings.simplefilter('error', SyntaxWarning); sys.modules['foretune'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    )
    result = run_code(code, "train.py", cwd=folder)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "trained" / "log.json").read_text())["log"], result.stdout


def predicted(picked: dict) -> dict:
    """The simulated run of the recommended rate."""
    return next(run for run in picked["adamw"]["runs"] if run["learning_rate"] == picked["adamw"]["learning_rate"])


def trained_modules(folder: Path) -> set[str]:
    """The modules that have adapters in what `train.py` saved."""
    names = load_file(folder / "trained" / "adapter_model.safetensors")
    return {re.sub(r"\.lora_[AB]\.weight", "", name.removeprefix("base_model.model.")) for name in names}


def test_the_script_starts_at_the_forecast_and_trains_what_it_names(forecast) -> None:
    folder, record, said = forecast
    assert str(folder.name) in said and "train.py" in said
    picked = record["forecast"]["recommended"]
    log, printed = ran(folder)
    evaluations = [line for line in log if "eval_loss" in line]
    assert evaluations[0]["step"] == 0
    assert evaluations[0]["eval_loss"] == pytest.approx(predicted(picked)["validation_losses"][0], abs=1e-4)
    assert [line["step"] for line in evaluations] == predicted(picked)["steps"][: len(evaluations)]
    assert f"training {picked['candidate']['parameters']:,} parameters" in printed
    assert picked["candidate"]["rank"] is not None
    assert trained_modules(folder) == {block.removesuffix(".weight") for block in picked["candidate"]["blocks"]}
    assert min(line["eval_loss"] for line in evaluations[1:]) < evaluations[0]["eval_loss"]


def test_rows_are_those_of_the_forecast_by_index_and_text(forecast) -> None:
    folder, record, _ = forecast
    for part, size in record["sizes"].items():
        rows = [json.loads(line) for line in (folder / "rows" / f"{part}.jsonl").read_text().splitlines()]
        assert [row["index"] for row in rows] == list(range(size))
        assert all(row["prompt"] == f"{row['text']} This is <mask> ." for row in rows)


class Stub:
    """A recommendation of a candidate of one's own."""

    def __init__(self, chosen: object, losses: tuple[float, ...]) -> None:
        self.candidate = chosen
        self.adamw = AdamRate(
            1e-3, 1.0, 1.0, losses[-1], losses[-1], 2, 4, "constant", (PredictedRun(1e-3, (0, 1, 2), losses),)
        )
        self.predicted = type("", (), {"score": type("", (), {"value": 0.5})})


def experiment(folder: Path, question: Question, rows: list[dict[str, str]] | None = None) -> Experiment:
    setting = Setting(DataSource(rows or many_rows(40)), FewShot(4), 0, 8, question)
    return load_experiment(setting, str(folder))


HEADED = Question(output="head")
ASKED = Question(words={"negative": "terrible", "positive": "great"})
OWN = {
    "bert head, adapters": ("bert-encoder", HEADED, r"layer\.0.*(query|value)\.weight$", 4),
    "llama head, adapters": ("llama-causal", HEADED, r"layers\.1.*q_proj\.weight$", 2),
    "bert head, in full": ("bert-encoder", HEADED, r"layer\.0.*(query|LayerNorm)\.(weight|bias)$", None),
    "llama head, mean": ("llama-causal", Question(output="head", pooling="mean"), r"layers\.0.*up_proj\.weight$", 1),
    "llama prompt, adapters": ("llama-causal", ASKED, r"layers\.1.*(q_proj|down_proj)\.weight$", 2),
    "bert prompt, adapters": ("bert-masked", ASKED, r"layer\.1.*(query|output\.dense)\.weight$", 2),
}
LANGUAGE_MODEL = {
    "llama-causal": "AutoModelForCausalLM",
    "bert-masked": "AutoModelForMaskedLM",
    "bert-encoder": "AutoModelForMaskedLM",
}
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


@pytest.mark.parametrize("name", OWN)
def test_every_kind_of_candidate_starts_at_its_probe_and_trains_exactly(
    name: str, model_folder, tmp_path: Path
) -> None:
    family, question, pattern, rank = OWN[name]
    found = experiment(model_folder(family), question)
    f0, y = torch.tensor(found.inputs.f0[8:16]), torch.tensor(found.inputs.y[8:16])
    start = torch.nn.functional.cross_entropy(torch.cat([torch.zeros_like(f0), f0], 1), y).item()
    sizes = parameter_sizes(found.outputs)
    blocks = [block for block in sizes.shapes if re.search(pattern, block)]
    chosen = candidate("own", "layer", blocks, rank, sizes, sizes.head)
    config = None if rank is None else lora_config(found.outputs, classes_for(found.outputs), blocks, rank, 16.0)
    picked: Any = Stub(chosen, (start, 0.5, 0.4))
    run = next_run(found, picked, config, thresholded=bool(rank == 4))
    written = write_next_run(tmp_path, run, foretune.__version__)
    assert ("trl.yaml" in written, "adapter_config.json" in written) == (
        run.causal and rank is not None,
        rank is not None,
    )
    result = run_code(RUN, tmp_path / "train.py")
    assert result.returncode == 0, result.stderr
    assert f"training {chosen.parameters:,} parameters" in result.stdout
    log = json.loads((tmp_path / "trained" / "log.json").read_text())["log"]
    assert log[0]["eval_loss"] == pytest.approx(start, abs=1e-4)
    if rank is None:
        (saved,) = (tmp_path / "trained").glob("model*.safetensors")
        after, before = load_file(saved), load_file(next(Path(run.place).glob("model*.safetensors")))
        assert {key for key, value in after.items() if not torch.equal(value, before[key])} == set(blocks)
        return
    assert trained_modules(tmp_path) == {block.removesuffix(".weight") for block in blocks}
    last = {block.removesuffix(".weight").partition("layer")[2] for block in blocks}
    for kind in ("AutoModelForSequenceClassification", LANGUAGE_MODEL[family]):
        assert {module.partition("layer")[2] for module in loaded_modules(tmp_path, kind)} == last


def test_the_validation_loss_of_the_script_is_the_mean_over_rows(model_folder, tmp_path: Path) -> None:
    """34 rows, in batches of 32: the two of the last batch do not count as much as the 32 before them."""
    setting = Setting(DataSource(many_rows(96)), FewShot(17), 0, 8, ASKED)
    found = load_experiment(setting, str(model_folder("bert-masked")))
    f0, y = torch.tensor(found.inputs.f0[34:68]), torch.tensor(found.inputs.y[34:68])
    each = torch.nn.functional.cross_entropy(torch.cat([torch.zeros_like(f0), f0], 1), y, reduction="none")
    exact, halves = each.mean().item(), (each[:32].mean() + each[32:].mean()).item() / 2
    assert abs(exact - halves) > 1e-4
    sizes = parameter_sizes(found.outputs)
    blocks = [block for block in sizes.shapes if block.endswith("0.attention.self.query.weight")]
    picked: Any = Stub(candidate("own", "layer", blocks, 2, sizes), (exact, 0.5, 0.4))
    config = lora_config(found.outputs, classes_for(found.outputs), blocks, 2, 16.0)
    write_next_run(tmp_path, next_run(found, picked, config, thresholded=False), foretune.__version__)
    log, _ = ran(tmp_path)
    assert log[0]["eval_loss"] == pytest.approx(exact, abs=1e-6)


def loaded_modules(folder: Path, kind: str) -> set[str]:
    """The modules that adapter_config.json adapts in a class of transformers."""
    import peft
    import transformers

    config = peft.LoraConfig.from_pretrained(str(folder))
    base = getattr(transformers, kind).from_pretrained(config.base_model_name_or_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft's reading of transformers
        made = peft.get_peft_model(base, config)
    return {name.partition(".lora_A")[0] for name, _ in made.named_parameters() if ".lora_A" in name}


def test_a_no_hands_over_nothing_and_says_so(model_folder, tmp_path: Path) -> None:
    rows, other = many_rows(120), {"negative": "positive", "positive": "negative"}
    (tmp_path / "reviews").mkdir()
    write_jsonl(tmp_path / "reviews" / "train.jsonl", rows[:60])  # what these teach is wrong on the others
    write_jsonl(tmp_path / "reviews" / "validation.jsonl", [{**row, "label": other[row["label"]]} for row in rows[60:]])
    result = run_cli("forecast", model_folder("bert-encoder"), "reviews", *SMALL, "--out", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert record["verdict"] == "no"
    assert "report.html. The forecast says no, so no train.py is written" in " ".join(result.stdout.split())
    assert "train.py" not in " ".join(record["page"]["next"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"train.py", "trl.yaml", "adapter_config.json", "rows", WRITTEN}
    refused = run_cli("tune", "--from", "out/forecast.json", "--out", "run", cwd=tmp_path)
    assert_refused(refused, 2, "recommends no run", "To train anyway")
    hint = shlex.split(refused.stderr[refused.stderr.index("foretune tune") :])[1:]
    assert run_cli(*hint, "--plan", cwd=tmp_path).returncode == 0


def test_what_a_user_has_changed_is_not_replaced(forecast) -> None:
    folder, _, _ = forecast
    file, repeated = folder / "train.py", ("forecast", "--config", "out/run.yaml", "--out", "out")
    before = file.read_text()
    file.write_text(before + "# mine\n")
    assert_refused(run_cli(*repeated, cwd=folder.parent), "train.py", "mv")
    assert file.read_text().endswith("# mine\n")
    file.write_text(before)


def test_tune_from_a_forecast_is_the_run_of_its_script(forecast) -> None:
    folder, record, _ = forecast
    picked = record["forecast"]["recommended"]
    result = run_cli("tune", "--from", "out/forecast.json", "--steps", 4, "--out", "run", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    made = json.loads((folder.parent / "run" / "result.json").read_text())
    history = made["stages"][-1]["history"]
    assert history[0]["validation_loss"] == pytest.approx(predicted(picked)["validation_losses"][0], abs=1e-4)
    assert [line["step"] for line in history] == [0, 4]
    described = [json.loads((place / "experiment.json").read_text()) for place in (folder, folder.parent / "run")]
    assert described[0]["hash"] == described[1]["hash"]
    (point,) = (folder.parent / "run").glob("runs/*/point-0/result.json")
    assert json.loads(point.read_text())["trained_parameters"] == picked["candidate"]["parameters"]
    data = folder.parent / "reviews.jsonl"
    before = data.read_text()
    data.write_text(before.replace("actor", "scene"))
    again = run_cli("tune", "--from", "out/forecast.json", "--steps", 4, "--out", "other", cwd=folder.parent)
    data.write_text(before)
    assert_refused(again, 2, "changed after out/forecast.json was made")


def test_a_run_from_a_forecast_is_compared_with_it_while_it_runs_and_on_both_pages(forecast) -> None:
    folder, record, _ = forecast
    here, curve = folder.parent, predicted(record["forecast"]["recommended"])
    result = run_cli("tune", "--from", "out/forecast.json", "--steps", 4, "--out", "beside", cwd=here)
    assert result.returncode == 0, result.stderr
    said = re.findall(r"step (\d+): validation loss ([\d.]+), forecast ([\d.]+)", result.stderr)
    assert [int(step) for step, _, _ in said] == [0, 4]
    assert float(said[0][2]) == pytest.approx(curve["validation_losses"][0], abs=1e-4)
    made = json.loads((here / "beside" / "result.json").read_text())
    assert made["about"]["forecast"]["steps"] == curve["steps"]
    assert "kept to the forecast" in result.stdout or "left the kernel regime" in result.stdout
    assert "validation, forecast" in (here / "beside" / "report.html").read_text()
    assert "real: beside" in (folder / "report.html").read_text()
    shown = run_cli("show", "beside", cwd=here)
    assert shown.stdout.splitlines()[-1] == result.stdout.splitlines()[-1]
    other = run_cli("tune", "--from", "out", "--steps", 2, "--learning-rate", 1e-5, "--out", "slow", cwd=here)
    assert other.returncode == 0, other.stderr
    assert "is not compared with out" in other.stderr and "--learning-rate" in other.stderr
    assert "forecast" not in json.loads((here / "slow" / "result.json").read_text())["about"]


def test_tune_from_a_file_that_is_not_a_forecast_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert_refused(run_cli("tune", "--from", "x.json", "--out", "run", cwd=tmp_path), 2, "not a forecast")


def losses(folder: Path) -> dict[int, float]:
    """Step -> validation loss of a run of `tune`."""
    record = json.loads((folder / "result.json").read_text())
    return {line["step"]: line["validation_loss"] for line in record["stages"][-1]["history"]}


def test_the_printed_command_tune_from_and_the_script_are_one_run(forecast) -> None:
    folder, _, _ = forecast
    here = folder.parent
    asked = run_cli("forecast", *read_command(folder), cwd=here, env={"COLUMNS": "2000"})
    printed = re.search(r"Next: foretune (tune .*)", asked.stdout)
    assert printed is not None, asked.stdout
    for words in (shlex.split(printed[1]), ["tune", "--from", "out/forecast.json", "--out", "same"]):
        result = run_cli(*words, cwd=here)
        assert result.returncode == 0, result.stderr
    typed, followed = losses(here / "runs" / "lora"), losses(here / "same")
    assert typed == followed and len(typed) > 2
    if not (folder / "trained").exists():
        ran(folder)
    log = json.loads((folder / "trained" / "log.json").read_text())["log"]
    script = {line["step"]: line["eval_loss"] for line in log if "eval_loss" in line}
    assert script == pytest.approx({step: followed[step] for step in script}, abs=2e-4)


def read_command(folder: Path) -> list[str]:
    """The words of the command that made a forecast, without its folder."""
    import yaml

    kept = yaml.safe_load((folder / "run.yaml").read_text())
    return [kept["model"], kept["data"], "--k", kept["k"], "--test", kept["test"], WORDS]


def test_a_head_that_the_forecast_left_out_stays_as_it_is(model_folder) -> None:
    found = experiment(model_folder("bert-encoder"), HEADED)
    sizes = parameter_sizes(found.outputs)
    blocks = [block for block in sizes.shapes if re.search(r"layer\.0.*query\.weight$", block)]
    left_out, trained = (candidate("own", "layer", blocks, 2, sizes, head) for head in ((), sizes.head))
    config = lora_config(found.outputs, classes_for(found.outputs), blocks, 2, 16.0)
    picked: Any = Stub(left_out, (0.7, 0.5, 0.4))
    beside: Any = Stub(trained, (0.7, 0.5, 0.4))
    assert tune_options(picked, found.outputs)["exclude_head"] is True
    assert "exclude_head" not in tune_options(beside, found.outputs)
    assert not next_run(found, picked, config, thresholded=False).trains_head
    method, training = left_out.tuning, Training(steps=2, evaluate_every=1, dropout=False)
    assert found.run(FrozenHead(method), [training]).n_trained == left_out.parameters
    assert found.run(method, [training]).n_trained == trained.parameters


TRL_OWN = {
    "model_name_or_path", "model_revision", "trust_remote_code", "dtype",  # trl.ModelConfig
    "dataset_name", "dataset_train_split", "dataset_test_split",  # trl.ScriptArguments
    "use_peft", "completion_only_loss", "max_length",  # trl.ModelConfig, trl.SFTConfig
}  # fmt: skip
"""Keys of trl.yaml that are TRL's own."""


@pytest.fixture(scope="module")
def causal(model_folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], NextRun]:
    """The files of a causal model that answers a prompt with adapters, its trl.yaml, and the run that they are of."""
    import yaml

    here = tmp_path_factory.mktemp("causal")
    family, question, pattern, rank = OWN["llama prompt, adapters"]
    found = experiment(model_folder(family), question)
    sizes = parameter_sizes(found.outputs)
    blocks = [block for block in sizes.shapes if re.search(pattern, block)]
    config = lora_config(found.outputs, classes_for(found.outputs), blocks, rank or 1, 16.0)
    picked: Any = Stub(candidate("own", "layer", blocks, rank, sizes), (0.7, 0.5, 0.4))
    run = next_run(found, picked, config, thresholded=False)
    write_next_run(here, run, foretune.__version__)
    return here, yaml.safe_load((here / "trl.yaml").read_text()), run


def test_every_key_of_trl_yaml_is_a_field_that_its_libraries_have(causal) -> None:
    import peft
    from transformers import TrainingArguments

    _, settings, _ = causal
    training = {field.name for field in dataclasses.fields(TrainingArguments)}
    adapters = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    for name in set(settings) - TRL_OWN:
        ours = {"lora_r": "r"}.get(name, name if name in ("lora_alpha", "lora_dropout") else name.removeprefix("lora_"))
        assert ours in (adapters if name.startswith("lora_") else training), name
    named = {name: value for name, value in settings.items() if name in training}
    assert TrainingArguments(**named, use_cpu=True).learning_rate == settings["learning_rate"]


def test_trl_yaml_says_what_the_script_does(causal) -> None:
    folder, settings, run = causal
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["lora_r"], settings["lora_alpha"]) == (adapter["r"], adapter["lora_alpha"])
    script = (folder / "train.py").read_text()
    for constant, key in (("LEARNING_RATE", "learning_rate"), ("BATCH", "per_device_train_batch_size"),
                          ("STEPS", "max_steps"), ("EVERY", "eval_steps"), ("MODEL", "model_name_or_path")):  # fmt: skip
        assert f"{constant} = {settings[key]!r}\n" in script, key
    assert set(settings["lora_target_modules"]) == set(run.modules)
    assert Path(settings["dataset_name"]) == folder / "rows"


def test_trl_trains_what_trl_yaml_says(causal) -> None:
    pytest.importorskip("trl")
    folder, _, run = causal
    command = [sys.executable, "-m", "trl.scripts.sft", "--config", "trl.yaml", "--max_steps", "2", "--use_cpu"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = load_file(folder / "trained-trl" / "adapter_model.safetensors")
    trained = {re.sub(r"\.lora_[AB]\.weight", "", name.removeprefix("base_model.model.")) for name in names}
    assert trained == set(run.modules)
