"""Options are made of the dataclasses that they fill, and read the spellings of other programs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

import foretune as ft
from foretune.analysis.solvers import SOLVERS
from foretune.cli import solve_options
from foretune.cli.app import COMMANDS, app
from foretune.cli.fields import described
from foretune.cli.foreign import OFF, SAME
from foretune.cli.options import FormulaOptions
from foretune.cli.settings import _choices, option_hints
from foretune.cli.setup import made_formulas, made_method, made_training
from foretune.cli.tuning_options import MethodOptions, TrainingOptions
from foretune.finetune.losses import LOSSES
from foretune.finetune.methods import METHODS, FullTuning, LoRATuning, ProbedFirst
from foretune.finetune.optimisers import OPTIMISERS
from foretune.finetune.training import Training
from foretune.kernels.adapter import Adapter
from foretune.model.parameters import ParameterFilter
from tests.conftest import assert_refused, run_cli


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_calls_the_function_of_its_name_with_its_groups(name: str) -> None:
    function = getattr(importlib.import_module(f"foretune.cli.{name}"), f"run_{name}")
    hints = get_type_hints(function)
    assert {argument: hints[argument] for argument in inspect.signature(function).parameters} == COMMANDS[name].groups


@pytest.mark.parametrize("words", ["--help", "tune --help", "kernel --help", "tune m d --out x --steps 0"])
def test_help_and_mistakes_load_neither_torch_nor_numpy(words: str) -> None:
    code = (
        "import sys\nfrom foretune.cli.app import app\n"
        "try:\n    app(sys.argv[1:], standalone_mode=False, prog_name='foretune')\nexcept Exception: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    result = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kind", [Training, Adapter, ParameterFilter], ids=lambda kind: kind.__name__)
def test_every_field_of_settings_is_described(kind: type) -> None:
    about = described(kind)
    for field in dataclasses.fields(kind):
        assert about[field.name].endswith((".", "]")), field.name


def test_options_left_out_make_the_settings_that_code_makes() -> None:
    assert made_method(MethodOptions()) == FullTuning()
    assert made_method(MethodOptions(method="lora")) == LoRATuning()
    assert made_method(MethodOptions(method="lp-lora")) == ProbedFirst(LoRATuning())
    assert made_training(TrainingOptions(), FullTuning()) == Training()
    assert made_formulas(FormulaOptions(formula="sgd,signgd,lora,projection")) == [
        ft.SGD(), ft.SignGD(), ft.LoRA(), ft.IntrinsicDimension()
    ]  # fmt: skip


def test_options_fill_the_fields_of_the_same_name() -> None:
    adapters: dict[str, Any] = {"alpha": 3.0, "target_modules": "q_proj,v_proj", "init": "gaussian", "rslora": True}
    expected: dict[str, Any] = {
        "alpha": 3.0,
        "targets": ("q_proj", "v_proj"),
        "init": "gaussian",
        "rslora": True,
        "seed": 7,
    }
    chosen = made_method(MethodOptions(method="lora", rank=2, layers="1,3-4", draw_seed=7, **adapters))
    assert chosen == LoRATuning(rank=2, layers=(1, 3, 4), **expected)
    formulas = made_formulas(FormulaOptions(formula="lora", rank="1,4", draw_seed=7, **adapters))
    assert formulas == [ft.LoRA(rank=rank, **expected) for rank in (1, 4)]
    full: dict[str, Any] = {"steps": 5, "clip": 1.0, "schedule": "cosine", "precision": "bf16", "dropout": False}
    made = made_training(TrainingOptions(batch_size=0, training_seed=9, **full), FullTuning())
    assert made == dataclasses.replace(Training(), batch_size=None, seed=9, **full)


def test_choices_are_the_names_that_the_code_knows() -> None:
    hints = option_hints(COMMANDS["tune"].groups)
    assert set(_choices(hints["method"])) == set(METHODS)
    assert set(_choices(hints["optimiser"])) == set(OPTIMISERS)
    assert set(_choices(hints["loss"])) == set(LOSSES)
    assert set(solve_options.SOLVERS) == {"auto", *SOLVERS}


SPELLINGS = {
    "--lora_r 3": {"rank": 3},
    "--lora-rank=3": {"rank": 3},
    "--lora_alpha 4 --lora_target_modules q_proj,v_proj": {"alpha": 4.0, "target_modules": "q_proj,v_proj"},
    "--use_rslora": {"rslora": True},
    "--use_rslora False --init_lora_weights gaussian": {"rslora": False, "init": "gaussian"},
    "--max_steps 3": {"steps": 3},
    "--num_train_epochs 2": {"epochs": 2.0},
    "--lr_scheduler_type cosine --max_grad_norm 1.0": {"schedule": "cosine", "clip": 1.0},
    "--learning_rate 1e-3": {"learning_rate": 1e-3},
    "--lr 1e-3 --optim adamw_torch": {"learning_rate": 1e-3, "optimiser": "adamw"},
    "--optim sgd": {"optimiser": "sgd"},
    "--bf16": {"precision": "bf16"},
    "--bf16 True": {"precision": "bf16"},
    "--bf16 false": {"precision": "full"},
    "--per_device_train_batch_size 2": {"batch_size": 2, "micro_batches": 1},
    "--per-device-train-batch-size 2 --gradient_accumulation_steps 3": {"batch_size": 6, "micro_batches": 3},
    "--warmup_ratio 0.0 --weight_decay 0 --fp16 false --lora_dropout 0": {},
    "--evaluate_every 2 --training_seed 4": {"evaluate_every": 2, "training_seed": 4},
}
UNSUPPORTED = {
    "--optim adafactor": "--optimiser; expected adamw",
    "--fp16": "Use --precision bf16",
    "--warmup_ratio 0.1": "Use --schedule",
    "--weight_decay 0.01": "--proximal",
    "--lora_dropout 0.05": "Leave --lora_dropout out",
    "--lr_scheduler_type cosine_with_restarts": "--schedule 'cosine_with_restarts': expected constant, linear, cosine",
    "--max_steps -1": "--steps is -1",
    "--gradient_accumulation_steps 4": "--micro-batches 4",
    "--per_device_train_batch_size 0": "--per_device_train_batch_size is 0; expected at least 1",
    "--load_in_4bit": "never quantised",
    "--lora_target_modules q_proj v_proj": "Write a list as one word with commas, such as q_proj,v_proj",
}


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of `tune` as its function gets them."""
    seen: dict[str, Any] = {}

    def run(**groups: Any) -> None:
        for group in groups.values():
            seen.update(vars(group))

    monkeypatch.setattr("foretune.cli.tune.run_tune", run)
    monkeypatch.setattr("foretune.cli.early.read_early", lambda *_: None)
    app(["tune", "m", "d", "--out", "x", "--method", "lora", *words], standalone_mode=False)
    return seen | {"json": None}


@pytest.mark.parametrize("typed", SPELLINGS)
def test_spellings_of_other_programs_mean_the_same(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(typed.split(), monkeypatch) == parsed([], monkeypatch) | SPELLINGS[typed]


@pytest.mark.parametrize("typed", SPELLINGS)
def test_settings_files_read_the_same_spellings(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = typed.replace("=", " ").split()
    settings: dict[str, Any] = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            value = words[place + 1] if words[place + 1 :] and not words[place + 1].startswith("--") else True
            settings[word.removeprefix("--")] = value
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    found = parsed(["--config", str(tmp_path / "settings.yaml")], monkeypatch)
    assert found == parsed([], monkeypatch) | SPELLINGS[typed]


@pytest.mark.parametrize("typed", UNSUPPORTED)
def test_what_foretune_does_not_have_is_refused_by_name(typed: str, tmp_path: Path) -> None:
    assert_refused(
        run_cli("tune", "m", "d", "--out", "x", "--method", "lora", *typed.split(), cwd=tmp_path), UNSUPPORTED[typed]
    )


def test_two_spellings_of_one_option_in_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("lora_r: 4\nrank: 8\n")
    result = run_cli("tune", "m", "d", "--out", "x", "--config", tmp_path / "s.yaml", cwd=tmp_path)
    assert_refused(result, "the option 'rank' is given twice, in two spellings")


def test_no_spelling_has_two_meanings() -> None:
    assert not set(SAME) & set(OFF)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("foretune tu", "tune"), ("foretune tune --prec", "--precision"), ("foretune tune m d --precision b", "bf16")],
)
def test_a_shell_completes_commands_options_and_choices(words: str, expected: str) -> None:
    count = str(len(words.split()) - 1)
    environment = {"_FORETUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    result = run_cli(env=environment)
    assert result.stdout.split() == [expected], result.stderr
