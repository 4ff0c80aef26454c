"""Options that cannot be meant are refused by name, in one message, before anything is read, loaded or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretune.cli import ranges
from foretune.errors import UsageError
from tests.conftest import assert_refused, run_cli

SEEDS = ("-1", "4294967296", "99999999999999999999", "1.5", "x", "")
POSITIVE = ("0", "-1", "nan", "inf", "1e300", "x", "")
COUNTS = ("0", "-1", "1.5", "x", "")
LISTS = ("", ",", "a,,b", "a,a")
RANGES = ("", "3-1", "0-99999999999", "²", "٣", "0,,1", "0,0", "0-", "a", "-1")
WORDS = ("neg", "", "neg=", "=x", "neg=bad,neg=worse", '"neg=bad')
TEMPLATES = ("{text", "{text} {mask} {mask}", "{mask}", "{text!r} {mask}", "{text|upper} {mask}", "{film} {mask}")
TRAINED = ("--method", "lora")
"""With the options of adapters."""

BAD: dict[str, dict[str, tuple[str, ...]]] = {
    "kernel": {
        "--k": COUNTS, "--test": COUNTS, "--seed": SEEDS, "--dtype": ("floaty", "int8", ""),
        "--device": ("meta", "cpu:7", "cuda:-1", "xyz", ""), "--output": ("bogus", "PROMPT", ""),
        "--head": ("bogus", ""), "--pooling": ("bogus", ""), "--metric": ("bogus", ""),
        "--blocks": LISTS, "--layers": RANGES, "--formula": ("bogus", "sgd,bogus", "sgd,sgd", ",", ""),
        "--formula signgd --eps": ("-1", "nan", "inf", "x"), "--formula lora --rank": (*RANGES, "0", "1000000000"),
        "--formula lora --alpha": POSITIVE, "--formula lora --init": ("zero", ""),
        "--formula lora --target-modules": LISTS, "--formula lora --draw-seed": SEEDS,
        "--formula projection --dimension": (*COUNTS, "1000000000000"), "--formula projection --projection": ("zz", ""),
        "--memory": ("", "0", "lots", "nan"), "--eps": ("1e-3",), "--rank": ("4",), "--dimension": ("64",),
        "--words": WORDS, "--text": ("",), "--label": ("",), "--task": ("",),
        "--labels a,b --words": ("a=bad,c=good",), "--labels": (*LISTS, "only"), "--max-length": ("0", "-1", "x", ""),
        "--delimiter": ("", ";;"), "--encoding": ("", "utf-99"), "--output head --words": ("a=bad,b=good",),
        "--output head --template": ("{text} {mask}",), "--output head --prompt": ("null",),
        "--template": ("", *TEMPLATES), "--revision": ("",), "--data-split": ("",), "--test-data": ("",), "--json": ("",),
    },
    "solve": {
        "--solver": ("nope", *LISTS), "--kernels": LISTS, "--select": LISTS, "--choose": ("zz", ""), "--json": ("",),
    },
    "tune": {
        "--method": ("bogus", "FT", ""), "--learning-rate": POSITIVE, "--batch-size": ("-1", "x"),
        "--micro-batches": COUNTS, "--steps": COUNTS, "--epochs": POSITIVE, "--evaluate-every": COUNTS,
        "--best-by": ("acc", ""), "--optimiser": ("adam", ""), "--optimizer": ("adam", ""), "--loss": ("square", ""),
        "--schedule": ("none", ""), "--precision": ("half", ""), "--grid": ("own", ""), "--proximal": POSITIVE,
        "--clip": POSITIVE, "--method lp-ft --head-learning-rate": POSITIVE, "--head-learning-rate": ("0.1",),
        "--method lora --rank": (*COUNTS, "1000000000000"), "--method lora --alpha": POSITIVE, "--rank": ("4",),
        "--words": WORDS, "--template": TEMPLATES, "--labels": LISTS, "--parameters": LISTS,
        "--alpha": ("8",), "--init": ("gaussian",), "--target-modules": ("q_proj",), "--training-seed": SEEDS,
        "--draw-seed": ("7",), "--layers": RANGES, "--dtype": ("bfloat16", "float16"), "--seed": SEEDS,
    },
    "behaviour": {
        "--test-examples": COUNTS, "--train-examples": COUNTS, "--segment-examples": COUNTS,
        "--segment-points": COUNTS, "--formula": ("lora", "bogus", ""), "--memory": ("", "0"),
    },
    "validate": {
        "--tasks": ("nope", "../mr", *LISTS), "--seeds": RANGES, "--n": COUNTS, "--k": COUNTS, "--test": COUNTS,
        "--output": ("bogus", ""), "--learning-rates": ("", "0", "-1", "nan", "inf", "x", "1e-3,1e-3"),
        "--epochs": POSITIVE, "--batch-size": COUNTS, "--evaluate-every": COUNTS, "--warm-up": ("0", "-1", "x", ""),
        "--rank": ("-1", "1000000000"), "--memory": ("lots",), "--candidates": LISTS,
    },
    "reproduce": {
        "--tasks": ("nope", *LISTS), "--k": ("", "0", "x", "1.5"), "--seeds": RANGES, "--test": COUNTS,
        "--steps": COUNTS, "--evaluate-every": COUNTS, "--batch-sizes": ("", "0", "x", "4,4"),
        "--sgd-rates": ("", "0", "nan", "x", "-1"), "--adam-rates": ("", "0", "inf", "x"), "--memory": ("", "0"),
        "--device": ("zzz", "meta"), "--model": ("",), "--words": (*WORDS, "no-such-label=bad"),
    },
    "forecast": {"--words": WORDS, "--template": TEMPLATES, "--labels": LISTS, "--layers": RANGES, "--blocks": LISTS},
}  # fmt: skip
PLACES = {
    "forecast": ("no-model", "no-data", "--out", "out"),
    "kernel": ("no-model", "no-data", "--out", "out"),
    "solve": ("no-folder",),
    "tune": ("no-model", "no-data", "--out", "out"),
    "behaviour": ("no-folder",),
    "validate": ("no-model", "--out", "out"),
    "reproduce": ("malladi-4", "--model", "no-model", "--out", "out"),
}


def cases() -> Iterator[tuple[str, str, str]]:
    for command, options in BAD.items():
        for option, values in options.items():
            for value in values:
                yield command, option, value


def typed(command: str, option: str, value: str) -> list[str]:
    *before, name = option.split()
    return [command, *PLACES[command], *before, f"{name}={value}"]


def refused(command: str, option: str, value: str, folder: Path) -> None:
    name = option.rsplit(maxsplit=1)[-1].replace("--optimizer", "--optimiser")
    assert_refused(run_cli(*typed(command, option, value), cwd=folder), "" if command in FREE.get(name, ()) else name)
    assert not list(folder.iterdir()), option


FREE = {
    "--template": tuple(BAD),
    "--memory": tuple(BAD),
    "--method": ("tune",),
    "--tasks": ("validate", "reproduce"),
    "--optimiser": ("tune",),
}
"""Messages that name the value instead of the option."""


@pytest.mark.sweep
@pytest.mark.parametrize(("command", "option", "value"), list(cases()), ids=lambda part: part or "empty")
def test_a_value_out_of_range_is_refused_by_the_options_name(
    command: str, option: str, value: str, tmp_path: Path
) -> None:
    refused(command, option, value, tmp_path)


@pytest.mark.parametrize("command", BAD)
def test_the_worst_value_of_each_option_is_refused(command: str, tmp_path: Path) -> None:
    for option, values in BAD[command].items():
        refused(command, option, values[0], tmp_path)


@pytest.mark.parametrize(
    "seed", ["tune --seed", "tune --training-seed", "kernel --formula lora --draw-seed", "kernel --seed"]
)
def test_all_seeds_have_one_rule(seed: str, tmp_path: Path) -> None:
    command, option = seed.split(" ", 1)
    for value in ("-1", "4294967296"):
        result = run_cli(*typed(command, option, value), cwd=tmp_path)
        assert_refused(result, f"{option.split()[-1]} is {value}; expected 0 to 4294967295")


def test_the_largest_and_smallest_values_are_accepted() -> None:
    ranges.SEED.check("--seed", 2**32 - 1, {})
    ranges.SEED.check("--seed", 0, {})
    ranges.NumberRange("1").check("--clip", 1e38, {})
    assert ranges.numbers("--layers", "0,4-7", "0,4-7") == (0, 4, 5, 6, 7)
    assert ranges.items("--blocks", " a , b", "a,b") == ["a", "b"]
    with pytest.raises(UsageError, match="Write 1-3"):
        ranges.numbers("--layers", "3-1", "0,4-7")


def test_an_empty_word_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    assert_refused(run_cli("kernel", "", "movies", "--out", "x", cwd=tmp_path), "An argument is empty")
    assert_refused(run_cli("kernel", "minilm", "movies", "--out", "", cwd=tmp_path), "--out is empty")
    assert_refused(run_cli("tasks", "--json", "", cwd=tmp_path), "--json is empty")
    assert not list(tmp_path.iterdir())


CONFIG = {
    "a list": ("formula: [sgd, bogus]", "--formula 'bogus'"),
    "a mapping": ("words: {negative: bad, positive: ''}", "--words 'positive='"),
    "a truth value": ("k: true", "--k is 'true'; expected a whole number"),
    "a text for a flag": ("plan: maybe", "expected true or false"),
    "nothing": ("pooling: ''", "pooling is empty"),
    "a number out of range": ("seed: -1", "--seed is -1"),
    "two spellings": ("max-length: 5\nmax_length: 6", "is given twice"),
    "a comma in an item": ("labels: ['a,b', c]", "no row of"),
    "an unknown option": ("pooing: mean", "Did you mean 'pooling'"),
}


@pytest.mark.parametrize("case", CONFIG)
def test_a_settings_file_is_held_to_the_same_rules(case: str, data_file: Path, tmp_path: Path) -> None:
    text, said = CONFIG[case]
    (tmp_path / "run.yaml").write_text(text)
    result = run_cli("kernel", "no-model", data_file, "--out", tmp_path / "o", "--config", tmp_path / "run.yaml")
    assert_refused(result, said)


def test_a_pipe_as_settings_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run_cli("kernel", "m", "d", "--out", tmp_path / "o", "--config", tmp_path / "pipe")
    assert_refused(result, "is a pipe", "Expected a regular file")


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("--plan true", "--plan takes no value: leave 'true' out."),
        ("--quiet False", "--quiet takes no value: leave both out."),
        ("--difference false", "--difference takes no value: write --no-difference instead."),
    ],
)
def test_a_value_behind_a_flag_is_refused_with_what_is_meant(typed: str, remedy: str) -> None:
    assert_refused(run_cli("forecast", "no-model", "no-data.csv", *typed.split()), remedy)
