"""The commands as functions: the same options, the same numbers, and results that notebooks show."""

from __future__ import annotations

import importlib.util
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from datasets import Dataset, DatasetDict
from peft import PeftModel, get_peft_model
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import foretune as ft
from foretune.library.given import SCREEN, function_options
from tests.conftest import assert_refused, many_rows, run_cli, write_jsonl

FUNCTIONS = {name: getattr(ft, name) for name in ("forecast", "tune", "behaviour", "validate", "reproduce")}
OWN = {"progress", "tokenizer"}
"""Keywords that no option is."""
ANSWER = {"words": {"negative": "terrible", "positive": "great"}, "k": 4, "test": 8, "layers": 0}
"""A small forecast, as the library is asked for it."""
TYPED = ("--words", "negative=terrible,positive=great", "--k", 4, "--test", 8, "--layers", 0)
TIMES = {"seconds", "stages", "cost", "page", "settings", "peak_memory"}
"""What may differ between two forecasts of the same."""


def numbers(record: Any) -> Any:
    """What a record says, without times and without names of files."""
    if isinstance(record, dict):
        return {name: numbers(value) for name, value in record.items() if name not in TIMES}
    return [numbers(each) for each in record] if isinstance(record, list) else record


@pytest.fixture(scope="module")
def folder(model_folder: Any) -> Path:
    return model_folder("bert-masked")


@pytest.fixture(scope="module")
def found(folder: Path, data: Path) -> ft.Forecast:
    return ft.forecast(folder, data, **ANSWER)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_keywords_are_the_options_of_the_command_with_their_defaults(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    options = function_options(name)
    assert set(parameters) - OWN == set(options), "add the option to the function's signature"
    for option, default in options.items():
        given = parameters[option].default
        free = name == "tune" and option in ("model", "data")  # a forecast can name them
        assert free or str(given) == str(default) or inspect.Parameter.empty is given


def test_no_public_name_is_a_module() -> None:
    for name in ft.__all__:
        assert importlib.util.find_spec(f"foretune.{name}") is None, f"`import foretune.{name}` would hide ft.{name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_docstring_of_a_function_says_what_each_keyword_is(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    for option in inspect.signature(FUNCTIONS[name]).parameters:
        assert f"\n    {option}: " in text, option
    assert "Raises:" in text
    assert not SCREEN & set(inspect.signature(FUNCTIONS[name]).parameters)


def test_the_gain_that_decides_is_on_all_rows_apart_from_training(found: ft.Forecast) -> None:
    gain, settings = found.gain, found.record["about"]["settings"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert gain["examples"] == settings["test"] + 2 * settings["k"]
    assert found.loss_gain["low"] <= found.loss_gain["value"] <= found.loss_gain["high"]
    assert found.loss_gain["examples"] == gain["examples"]
    assert (found.verdict == "help") <= (gain["low"] > 0 or found.loss_gain["low"] > 0)


def test_function_and_command_give_the_same_numbers_to_the_last_digit(
    found: ft.Forecast, folder: Path, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "it.json"
    result = run_cli("forecast", folder, data, *TYPED, "--json", file)
    assert result.returncode == 0, result.stderr
    assert numbers(json.loads(file.read_text())) == numbers(json.loads(json.dumps(found.record)))


ROWS = many_rows()
HELD = {
    "frame": lambda: pandas.DataFrame(ROWS),
    "dataset": lambda: Dataset.from_list(ROWS),
    "dicts": lambda: ROWS,
    "columns": lambda: {name: [row[name] for row in ROWS] for name in ("text", "label")},
    "generator": lambda: (row for row in ROWS),
}


@pytest.mark.parametrize("kind", HELD)
def test_rows_in_memory_are_read_as_those_of_a_file(kind: str, folder: Path, data: Path) -> None:
    from foretune.cli.data import asked_setting
    from foretune.experiment.data import drawn
    from foretune.library.given import LOADING, asked_groups

    asked = {**function_options("forecast"), "model": folder, **ANSWER, "tokenizer": None, "progress": False}
    splits = []
    for rows in (HELD[kind](), str(data)):
        groups = asked_groups("forecast", {**asked, "data": rows})
        splits.append(drawn(asked_setting(groups["data"], groups["outputs"])).split)
    assert set(LOADING) < set(asked)
    for part in ("train", "validation", "test"):
        texts = [[(each.text, each.label) for each in getattr(split, part)] for split in splits]
        assert texts[0] == texts[1]


def test_a_model_and_rows_in_memory_give_the_numbers_of_their_files(found: ft.Forecast, folder: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.train()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = DatasetDict({"train": Dataset.from_list(ROWS), "unsupervised": Dataset.from_list(ROWS)})
    with pytest.warns(UserWarning, match="not unsupervised"):
        held = ft.forecast(model, parts, tokenizer=tokenizer, **ANSWER)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert held.record["forecast"]["comparison"] == found.record["forecast"]["comparison"]
    assert held.record["identity"]["weights"] == found.record["identity"]["weights"]
    assert {"model", "data"}.isdisjoint(held.record["tune_options"] or {})


def test_a_classifier_in_memory_is_read_as_its_body(folder: Path) -> None:
    from foretune.model.live import live_model

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    found = live_model(model, AutoTokenizer.from_pretrained(folder))
    assert found.kind == "encoder" and found.module is model.base_model


def test_a_result_shows_itself(found: ft.Forecast, capfd: pytest.CaptureFixture[str]) -> None:
    screen = str(found).splitlines()
    assert len(screen) <= 26 and screen[-1].strip() == found.answer
    assert repr(found) == f"<Forecast: {found.answer}>"
    html = found._repr_html_()
    assert found.answer.split(":")[0] in html and "<script" not in html
    assert found.plot()._repr_svg_().rstrip().endswith("</svg>")
    assert not any(capfd.readouterr())


def test_the_table_of_candidates_is_the_record(found: ft.Forecast) -> None:
    table = found.to_frame()
    candidates = found.record["forecast"]["comparison"]["candidates"]
    assert list(table["name"]) == [each["name"] for each in candidates]
    assert np.allclose(table["validation_loss"], [each["score"]["validation_loss"] for each in candidates])
    assert table["recommended"].sum() == (found.recommended is not None)


def test_the_adapters_are_those_that_the_forecast_recommends(found: ft.Forecast, folder: Path) -> None:
    config = found.lora_config()
    adapted = get_peft_model(AutoModelForMaskedLM.from_pretrained(folder), config)
    assert isinstance(adapted, PeftModel)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    recommended = found.recommended
    if found.record["recommended_lora_config"] is not None and recommended is not None:
        assert trained == recommended["candidate"]["parameters"]


def test_what_is_saved_is_shown_and_loaded_as_it_was(found: ft.Forecast, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    found.save(place)
    found.save(place)
    again = ft.Forecast.load(place)
    assert numbers(again.record) == numbers(json.loads(json.dumps(found.record)))
    assert str(again) == str(found)
    shown = run_cli("show", place)
    assert shown.returncode == 0 and found.answer in shown.stdout
    (place / "report.html").write_text("mine")
    with pytest.raises(ft.ForetuneError, match=r"report\.html"):
        found.save(place)
    with pytest.raises(ft.ForetuneError, match="foretune forecast"):
        ft.TunedRun.load(place)


def test_a_run_follows_a_forecast_and_its_behaviour_is_measured(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    capfd.readouterr()
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    asked = {**ANSWER, "method": "lora", "rank": 2, "steps": 4, "evaluate_every": 2, "out": tmp_path / "run"}
    del asked["layers"]
    run = ft.tune(model, ROWS, tokenizer=tokenizer, **asked)
    assert all((model.state_dict()[name] == weight).all() for name, weight in before.items())
    assert list(run.to_frame()["step"]) == [0, 2, 4]
    tuned = run.model()
    assert isinstance(tuned.module, PeftModel)
    measured = ft.behaviour(run, test_examples=4, train_examples=4, segment_examples=1, segment_points=1)
    assert measured.answer and len(measured.to_frame())
    assert not any(capfd.readouterr())
    assert run.record["test"] == ft.TunedRun.load(tmp_path / "run").record["test"]
    with pytest.raises(ft.ForetuneError, match="no value for 'model'"):
        ft.TunedRun.load(tmp_path / "run").model()


def test_a_forecast_says_what_is_trained(found: ft.Forecast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretune.library import tune as module

    asked: dict[str, Any] = {}

    def kept(recipe: Any, report: Any, workers: Any) -> Any:
        asked.update(method=recipe.method, training=recipe.training, data=recipe.data)
        return found.page

    monkeypatch.setattr(module, "made_run", kept)
    options = found.record["tune_options"]
    if options is None:
        pytest.skip("this forecast recommends nothing")
    ft.tune(forecast=found, out=tmp_path / "run", steps=3)
    assert asked["training"].learning_rate == options["learning_rate"] and asked["training"].steps == 3
    assert asked["data"].data == options["data"] and asked["method"].method == options["method"]


TABLE = {"tasks": "mr", "k": 2, "seeds": [13, 21], "test": 8}
CUT = {"steps": 2, "evaluate_every": 1, "batch_sizes": 4, "sgd_rates": 1e-2, "adam_rates": 1e-3}
"""A small table of a paper."""


def test_a_table_of_a_paper_is_that_of_the_command_and_keeps_every_seed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "mr").mkdir(parents=True)
    write_jsonl(tmp_path / "data" / "mr" / "train.jsonl", ROWS)
    place, words = {"data": tmp_path / "data", "out": tmp_path / "runs"}, {"negative": "terrible", "positive": "great"}
    found = ft.reproduce("malladi-4", folder, **TABLE, **CUT, **place, words=words)
    held = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    again = ft.reproduce(
        "malladi-4", held[0], tokenizer=held[1], **TABLE, **CUT, **{**place, "out": tmp_path / "held"}, words=words
    )
    kept = json.loads((tmp_path / "runs" / "malladi-4" / "page.json").read_text())
    assert kept["page"]["tables"] == json.loads(json.dumps(found.record["page"]["tables"]))
    assert [table.rows for table in again.page.tables] == [table.rows for table in found.page.tables]
    shown = run_cli("show", found.folder)
    assert shown.returncode == 0, shown.stderr
    for number, table in enumerate(found.page.tables):
        rows = found.to_frame(number)
        assert len(rows) == len(table.rows)
    first = found.to_frame()
    assert np.allclose(first.iloc[:, 1], [np.mean(each) for each in first.iloc[:, 2]]) and len(first.iloc[0, 2]) == 2
    assert "<table" in found._repr_html_()
    found.save(tmp_path / "paper")
    found.save(tmp_path / "paper")
    assert ft.Reproduction.load(tmp_path / "paper").to_frame().equals(first)
    with pytest.raises(ft.ForetuneError, match="counted from 0"):
        found.to_frame(9)
    with pytest.raises(ft.ForetuneError, match="malladi-4"):
        ft.reproduce("malladi-44", folder)


REFUSED = {
    "type": ({"k": "many"}, "k"),
    "float": ({"k": 2.5}, "whole number"),
    "range": ({"k": 0}, "expected at least 1"),
    "choice": ({"output": "heads"}, "head"),
    "switch": ({"difference": "yes"}, "True or False"),
    "loading": ({"dtype": "float64"}, "in memory"),
    "tokenizer": ({"tokenizer": None}, "tokenizer"),
    "twice": ({"data": {"train": pandas.DataFrame(ROWS), "test": pandas.DataFrame(ROWS)}, "test_data": ROWS}, "twice"),
    "model": ({"model": 7}, "expected a name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_before_any_work(case: str, folder: Path) -> None:
    changed, said = REFUSED[case]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ft.ForetuneError, match=said):
        ft.forecast(**{"model": model, "data": ROWS, "tokenizer": tokenizer, **changed})


def test_an_unknown_keyword_is_pythons_own_error(folder: Path) -> None:
    with pytest.raises(TypeError, match="kk"):
        ft.forecast(folder, ROWS, kk=3)  # pyright: ignore[reportCallIssue]


def test_lists_and_mappings_are_what_commas_are_on_the_command_line() -> None:
    from foretune.library.given import groups_of

    options = function_options("tune")
    asked = {"model": "m", "data": "d", "out": "o", "labels": ["good, very", "bad"], "layers": [0, 2], "method": "lora"}
    groups = groups_of("tune", {**options, **asked, "words": {"a=b": "great"}}, progress=False)
    assert groups["data"].labels == '"good, very",bad' and groups["method"].layers == "0,2"
    assert groups["outputs"].words == '"a=b"=great'
    assert groups["report"].quiet and groups["run"].out == Path("o")


def test_a_run_of_rows_in_memory_says_what_is_missing(tmp_path: Path, found: ft.Forecast) -> None:
    held = ft.Forecast(found.page)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held.save(tmp_path / "kept")
    assert_refused(run_cli("solve", tmp_path / "kept"), 2)
