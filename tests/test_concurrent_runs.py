"""Several processes at once: on one model for the first time, in one folder, with the same command or with another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import foretune as ft
from tests.command_line import ENVIRONMENT
from tests.conftest import assert_refused, run_cli, run_code

LORA = ("--formula", "lora", "--rank", 1)

FORKS = """
import json, os, sys
from foretune.cli.main import main
streams, *commands = json.loads(sys.argv[1])
ready, go = os.pipe()
children = []
for number, command in enumerate(commands):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(f"{streams}-{number}-{stream}", os.O_CREAT | os.O_WRONLY), stream)
        os.close(go)
        os.read(ready, 1)  # until the parent closes its end
        sys.argv = ["foretune", *command]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        os._exit(code or 0)
    children.append(child)
os.close(go)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def at_once(here: Path, *commands: tuple[object, ...]) -> list[subprocess.CompletedProcess[str]]:
    """The commands as processes that begin in the same moment."""
    words = [[str(word) for word in command] for command in commands]
    ended = run_code(FORKS, json.dumps([str(here / "stream"), *words]))
    assert ended.returncode == 0, ended.stderr
    shown = [[(here / f"stream-{number}-{stream}").read_text() for stream in (1, 2)] for number in range(len(words))]
    return [
        subprocess.CompletedProcess(*item, *texts)
        for item, texts in zip(zip(words, json.loads(ended.stdout), strict=True), shown, strict=True)
    ]


def test_two_tunings_in_one_folder_are_one_and_a_refusal_that_names_it(
    bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("tune", bert_folder, data, "--k", 4, "--test", 8, "--steps", 30, "--evaluate-every", 5, "--out", out)
    first, second = sorted(at_once(tmp_path, command, command), key=lambda result: result.returncode)
    assert first.returncode == 0, first.stderr
    assert_refused(second, 1, f"{out} is in use by process ", "since 20", "choose another --out")
    steps = [json.loads(line)["step"] for line in next(out.glob("runs/*/point-0/log.jsonl")).read_text().splitlines()]
    assert steps == list(range(0, 31, 5))
    assert not list(out.rglob(".*"))
    again = run_cli(*command)
    assert again.returncode == 0, again.stderr
    assert "nothing was trained" in again.stdout


def test_the_same_kernels_at_once_are_right(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    command = ("kernel", bert_folder, data, "--k", 4, "--test", 8, "--formula", "sgd,lora", "--rank", 1, "--out")
    assert run_cli(*command, tmp_path / "alone").returncode == 0
    out = tmp_path / "run"
    for result in at_once(tmp_path, (*command, out), (*command, out)):
        assert result.returncode == 0, result.stderr
    for label in ("sgd", "lora-r1"):
        pair = [ft.BlockKernel.open(folder / "kernels" / label).array for folder in (out, tmp_path / "alone")]
        assert np.array_equal(*pair)
        assert sorted(os.listdir(out / "kernels" / label)) == ["kernel.json", "kernel.zarr"]  # noqa: PTH208
    assert not list(out.rglob(".*"))
    assert run_cli("solve", out).returncode == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [(("--seed", 1), ("--seed", 2)), ((*LORA, "--alpha", 8), (*LORA, "--alpha", 16))],
    ids=["examples", "formula"],
)
def test_of_two_different_runs_in_one_folder_one_is_there_whole(
    one, other, bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("kernel", bert_folder, data, "--k", 4, "--test", 8, "--out", out)
    results = at_once(tmp_path, (*command, *one), (*command, *other))
    assert sorted(result.returncode for result in results) == [0, 2], [result.stderr for result in results]
    winner = 0 if results[0].returncode == 0 else 1
    assert_refused(results[1 - winner], 2, "it differs in")
    (option, value) = (one, other)[winner][-2:]
    assert yaml.safe_load((out / "run.yaml").read_text())[str(option).removeprefix("--")] == value
    assert run_cli("solve", out).returncode == 0


def test_formulas_that_join_at_once_are_all_named(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    command = ("kernel", bert_folder, data, "--k", 2, "--test", 4, "--out", tmp_path / "run")
    for result in at_once(tmp_path, *((*command, "--formula", name) for name in ("sgd", "signgd"))):
        assert result.returncode == 0, result.stderr
    assert sorted(json.loads((tmp_path / "run" / "experiment.json").read_text())["kernels"]) == ["sgd", "signgd"]


def test_another_model_never_joins_a_folder(bert_folder: Path, model_folder, data: Path, tmp_path: Path) -> None:
    other = model_folder("bert-encoder")
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    out = tmp_path / "run"
    options = (data, "--k", 2, "--test", 4, "--out", out)
    assert run_cli("kernel", bert_folder, *options).returncode == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for changed in (("kernel", other), ("forecast", other), ("kernel", bert_folder, "--dtype", "float64")):
        result = run_cli(*changed, *options, *(("--formula", "lora") if changed[0] == "kernel" else ()))
        assert_refused(result, 2, "holds another experiment: it differs in", "Choose another folder")
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


FIRST_USE = """
import sys, time
from pathlib import Path
import foretune.model.builtin as builtin
from foretune.store.packages import Package
def convert(unpacked, folder):
    (folder / "weights").write_bytes(b"w" * 100_000)
    time.sleep(0.2)
    (folder / "config.json").write_text("{}")
builtin.MODELS["tiny"] = builtin.BuiltinModel(Package("tiny", "1", sys.argv[1]), convert)
while not Path(sys.argv[2]).exists():
    time.sleep(0.005)
folder = builtin.builtin_folder("tiny")
assert sorted(p.name for p in folder.iterdir()) == ["config.json", "foretune.json", "weights"], list(folder.iterdir())
assert (folder / "weights").stat().st_size == 100_000
"""


def test_a_model_that_several_processes_use_for_the_first_time_is_made_once(tmp_path: Path) -> None:
    import hashlib
    import zipfile

    cache, go = tmp_path / "cache", tmp_path / "go"
    (cache / "packages").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("tiny/file", "content")
    sha256 = hashlib.sha256((tmp_path / "archive").read_bytes()).hexdigest()
    (tmp_path / "archive").rename(cache / "packages" / f"tiny-1-{sha256[:12]}.archive")
    processes = [
        subprocess.Popen([sys.executable, "-c", FIRST_USE, sha256, str(go)], stderr=subprocess.PIPE, text=True,
                         env={**ENVIRONMENT, "FORETUNE_CACHE": str(cache)})
        for _ in range(3)
    ]  # fmt: skip
    go.touch()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert os.listdir(cache / "models") == [f"tiny-1-{sha256[:12]}"]  # noqa: PTH208
