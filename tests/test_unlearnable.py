"""A model from which nothing can be learnt, or whose weights are not numbers, is refused by name before any training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.finetune.methods import METHODS
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.model.batches import outputs_and_features
from tests.conftest import WORDS, assert_refused, many_rows, run_cli, write_jsonl
from tests.families import saved
from tests.test_bad_models import weights

FINAL = {"llama": "model.norm.weight", "bert-body": "encoder.layer.2.output.LayerNorm.weight"}


def zeroed(folder: Path, family: str, names: str = "") -> Path:
    """A saved model whose weights with `names` in their names are zero."""
    saved(family, folder)
    weights(lambda all_: {k: torch.zeros_like(v) if names in k else v for k, v in all_.items()})(folder)
    return folder


@pytest.fixture(scope="session")
def dead(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a model of zeros; `constant`: a head's features are the last layer norm's biases, whatever the text."""
    root = tmp_path_factory.mktemp("dead")
    found = {family: zeroed(root / family, family) for family in FINAL}
    folder = zeroed(root / "constant", "bert-body", FINAL["bert-body"])
    weights(
        lambda all_: {k: torch.ones_like(v) if k.endswith("output.LayerNorm.bias") else v for k, v in all_.items()}
    )(folder)
    return {**found, "constant": folder}


SIZES = ("--k", 2, "--test", 4)
CASES = {
    "forecast, words": ("forecast", "llama", (WORDS,), "nothing to (train|learn)"),
    "forecast, probed head": ("forecast", "bert-body", (), "nothing to learn"),
    "forecast, random head": ("forecast", "bert-body", ("--head", "random"), "nothing to learn"),
    "forecast, constant features": ("forecast", "constant", (), "nothing to learn"),
    "tune, words": ("tune", "llama", (WORDS,), "nothing to train.*are zero on every training example"),
    "tune, adapters": ("tune", "llama", (WORDS, "--method", "lora"), "nothing to train"),
    "tune, probed head": ("tune", "bert-body", (), "nothing to learn"),
    "tune, constant features": ("tune", "constant", ("--method", "lp"), "nothing to learn"),
    "tune, linearized": ("tune", "constant", ("--method", "linearized"), "nothing to learn"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_where_nothing_tells_texts_apart_there_is_nothing_to_learn(name, dead, data_file, tmp_path) -> None:
    command, model, options, message = CASES[name]
    more = ("--steps", 2) if command == "tune" else ()
    result = run_cli(command, dead[model], data_file, *options, *SIZES, *more, "--out", tmp_path / "out")
    assert_refused(result)
    assert re.search(message, result.stderr), result.stderr


def test_constant_features_are_noted_where_a_kernel_is_all_that_is_asked_for(dead, data_file, tmp_path) -> None:
    for model, words in (("bert-body", "the same features, all zero"), ("constant", "the same features, so")):
        result = run_cli("kernel", dead[model], data_file, *SIZES, "--out", tmp_path / model)
        assert result.returncode == 0, result.stderr
        assert words in " ".join((result.stdout + result.stderr).split())


def test_features_that_a_random_head_passes_on_are_learnt_from(dead, data_file, tmp_path) -> None:
    """A last layer norm of zeros hides the text, but its weight moves once a head reads it."""
    result = run_cli("tune", dead["constant"], data_file, "--head", "random", *SIZES, "--steps", 2, "--out",
                     tmp_path / "out")  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("command", ["forecast", "kernel", "tune", "behaviour"])
def test_a_weight_that_is_no_number_is_named_by_every_command(command, value, data_file, tmp_path) -> None:
    folder = saved("llama", tmp_path / "model")
    name = "model.layers.1.mlp.down_proj.weight"

    def broken(all_: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        all_[name][3, 5] = value
        return all_

    run = ("tune", folder, data_file, WORDS, *SIZES, "--steps", 2)
    if command == "behaviour":
        assert run_cli(*run, "--out", tmp_path / "out").returncode == 0
        run = ("behaviour", tmp_path / "out")
    elif command != "tune":
        run = (command, *run[1:-2], "--out", tmp_path / "out")
    else:
        run = (*run, "--out", tmp_path / "out")
    weights(broken)(folder)
    result = run_cli(*run)
    assert_refused(result, f"infinite or undefined numbers in 1 of its weights: {name}")
    assert "learning rate" not in result.stderr


def test_a_weight_too_large_for_half_precision_is_named_with_the_way_out(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    weights(lambda all_: {k: v + 1e6 if k == FINAL["llama"] else v for k, v in all_.items()})(folder)
    with pytest.raises(ft.ForetuneError, match=r"1 of its weights: model.norm.weight.*--dtype float32"):
        ft.load_model(folder, dtype="float16")
    assert ft.load_model(folder).kind == "causal"


def test_a_weight_that_no_output_reads_may_be_anything(tmp_path: Path) -> None:
    folder = saved("bert-body", tmp_path)
    weights(lambda all_: {k: v * np.nan if k.startswith("pooler") else v for k, v in all_.items()})(folder)
    assert ft.load_model(folder).kind == "encoder"


def test_a_weight_that_breaks_in_the_library_is_named(tmp_path: Path) -> None:
    lm = ft.load_model(saved("bert-body", tmp_path))
    outputs = ft.HeadLogits(lm)
    lm.module.encoder.layer[1].output.dense.weight.data[0, 0] = np.nan
    with pytest.raises(ft.ForetuneError, match=r"The weight 'encoder.layer.1.output.dense.weight' holds"):
        outputs_and_features(outputs, ["the film", "a story"])


def test_a_model_that_overflows_is_not_blamed_on_the_learning_rate(tmp_path: Path) -> None:
    folder = saved("bert-body", tmp_path)
    weights(lambda all_: {k: v * 1e38 if k == FINAL["bert-body"] else v for k, v in all_.items()})(folder)
    task = ft.Task(name="t", labels=["negative", "positive"], prompt="none", template="{text} {mask}")
    split = task.few_shot([ft.Example(**row) for row in many_rows()], k=2, test=4)
    outputs = ft.HeadLogits(ft.load_model(folder))
    with pytest.raises(ft.ForetuneError) as found:
        fine_tuned(outputs, task, split, METHODS["ft"], Training(steps=2))
    assert "before the first step" in str(found.value)


def test_texts_that_lose_pieces_to_the_tokenizer_are_counted_with_an_example(data_file, tmp_path) -> None:
    rows = [dict(row) for row in many_rows()]
    for row in rows:
        row["text"] += " \u4e2d\u6587"
    write_jsonl(data_file, rows)
    result = run_cli("kernel", saved("llama", tmp_path / "m"), data_file, WORDS, *SIZES, "--out", tmp_path / "out")
    said = " ".join((result.stdout + result.stderr).split())
    assert "12 of 12 texts hold pieces that the tokenizer does not know or drops, such as '\u4e2d\u6587'" in said
