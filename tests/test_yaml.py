"""YAML that people write: task files and settings are read as written, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import foretune as ft
from tests.conftest import run_cli

LINES = zip("abcdefgh", "bcdefghi", strict=True)
BOMB = "".join(f"{letter}: &{letter} [{','.join(['*' + before] * 9)}]\n" for before, letter in LINES)
TASKS = {
    "key twice": ("labels: [a, b]\nlabels: [a, c]\n", "line 2: the key 'labels' stands twice"),
    "inner key twice": ("labels: [a, b]\nwords: {a: x, a: y}\n", "line 2: the key 'a' stands twice"),
    "lists as labels": ("labels: [[a], [b]]\n", "expected a list of labels"),
    "mappings as labels": ("labels: [{a: 1}, {b: 2}]\n", "expected a list of labels"),
    "empty label": ("labels: ['', a]\n", "expected a list of labels"),
    "equal labels": ("labels: [1, 1.0]\n", "two or more different labels"),
    "a list as key": ("labels: [a, b]\n? [x]\n: y\n", "line 2: expected a word as key, got a list"),
    "deep": ("[" * 5000 + "]" * 5000, "nested too deeply"),
    "bomb": ("a: &a [x, y]\n" + BOMB + "labels: *i\n", "an alias (*name) stands for a list or mapping"),
    "self": ("labels: &a [*a, b]\n", "an alias (*name) stands for a list or mapping"),
    "tag": ("labels: [a, b]\nname: !!python/object/apply:os.system ['touch x']\n", "has no meaning here"),
    "two documents": ("labels: [a, b]\n---\nlabels: [a, b]\n", "is not YAML: expected a single document"),
    "open bracket": ("labels: [a, b\n", "is not YAML: while parsing a flow sequence"),
    "digits": ("labels: [a, b]\ntest_cap: ²\n", "test_cap: expected a whole number, got '²'"),
    "list in hub": ("labels: [a, b]\nhub: {id: o/n, columns: {text: [x]}}\n", "columns: text: expected one word"),
    "attribute in hub": ("labels: [a, b]\nhub: {id: o/n, columns: {text: '{a.b}'}}\n", "names of columns alone"),
    "empty": ("", "expected `key: value` lines, got nothing"),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_task_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, message = TASKS[case]
    file = tmp_path / "task.yaml"
    file.write_text(text)
    with pytest.raises(ft.ForetuneError) as caught:
        ft.load_task(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_as_labels_are_those_of_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text("labels: [1.0, 2]\nwords: {1.0: bad, 2: good}\n")
    task = ft.load_task(file)
    assert task.words == {"1": "bad", "2": "good"}
    assert len(task.few_shot([{"text": f"t{n}", "label": n % 2 + 1.0} for n in range(8)], k=2).train) == 4


SETTINGS = {
    "flag": ("k: true\n", "--k"),
    "sexagesimal": ("k: 1:30\n", "--k"),
    "list": ("k: [1, 2]\n", "k is ['1', '2']; expected one value"),
    "one value": ("dtype: [float32]\n", "dtype is ['float32']; expected one value"),
    "mapping": ("labels: {a: b}\n", "labels is {'a': 'b'}; expected one value or a list such as [a, b]"),
    "words as list": ("words: [a, b]\n", "expected `label: word` lines"),
    "nested": ("words: {a: [b]}\n", "expected `label: word` lines"),
    "both spellings": ("max-length: 10\nmax_length: 20\n", "the option 'max_length' is given twice"),
    "twice": ("seed: 1\nseed: 2\n", "line 2: the key 'seed' stands twice"),
    "empty": ("test: ''\n", "test is empty"),
    "no truth": ("plan: maybe\n", "plan is 'maybe'; expected true or false"),
    "deep": ("[" * 5000 + "]" * 5000, "nested too deeply"),
    "not YAML": ("k: [1\n", "is not YAML: while parsing a flow sequence"),
    "a list": ("- a\n", "expected `key: value` lines, got a list"),
    "help": ("help: true\n", "unknown option 'help'"),
    "config": ("config: other.yaml\n", "unknown option 'config'"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_settings_file_is_refused_in_one_line(case: str, llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    text, message = SETTINGS[case]
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    result = run_cli("kernel", llama_folder, data_file, "--plan", "--config", file)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr


def test_lists_and_mappings_in_settings_are_what_is_typed(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    written, typed = tmp_path / "settings.yaml", ("--layers", "0", "--words", "negative=terrible,positive=great")
    written.write_text(
        "formula: [sgd, lora]\nrank: [1, 2]\nlayers: [0]\nlabels: [positive, negative]\nk: 2\ntest: 4\neps: null\n"
        "words:\n  positive: great\n  negative: terrible\n"
    )
    results = [
        run_cli("kernel", llama_folder, data_file, "--plan", *given)
        for given in (
            ["--config", written],
            ["--formula", "sgd,lora", "--rank", "1,2", "--labels", "positive,negative", "--k", 2, "--test", 4, *typed],
        )
    ]
    assert results[0].returncode == 0, results[0].stderr
    rows = [[line for line in result.stdout.splitlines() if "time" not in line] for result in results]
    assert rows[0] == rows[1]
    assert any("positive=great, negative=terrible" in line for line in rows[0])


def test_a_pipe_as_settings_or_task_is_refused_without_waiting(
    llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for arguments in (["--config", pipe], ["--task", pipe]):
        result = run_cli("kernel", llama_folder, data_file, "--plan", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert "is a pipe. Expected a regular file" in result.stderr
