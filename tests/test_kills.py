"""A run killed at any write goes on to the same bits when it is repeated, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from foretune.store.arrays import write_array
from tests.conftest import assert_refused, run_cli, run_code
from tests.validations import FOUR

KILLED = """
import os, signal, sys
from pathlib import Path
from foretune.cli.main import main
when, moment, seen = sys.argv[1], int(sys.argv[2]), 0
del sys.argv[1:3]
def killing(original):
    def renamed(self, target):
        global seen
        seen += 1
        if when == "before" and seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, target)
        if when == "after" and seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    return renamed
Path.replace, Path.rename = killing(Path.replace), killing(Path.rename)
main()
"""


def commands(model: Path, data: Path) -> dict[str, tuple[object, ...]]:
    return {
        "kernel": ("kernel", model, data, "--k", 2, "--test", 4, "--formula", "sgd,lora", "--rank", 1),
        "tune": ("tune", model, data, "--k", 2, "--test", 4, "--steps", 4, "--evaluate-every", 2),
    }


def results(folder: Path) -> dict[str, object]:
    """Every file, and the values of those that hold some."""
    found: dict[str, object] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.name == "parameters.safetensors":
            found[name] = {key: tensor.tolist() for key, tensor in load_file(file).items()}
        elif file.suffix == ".npy" or "kernel.zarr/" in name:
            found[name] = file.read_bytes() if file.is_file() else None
        else:
            found[name] = None
    return found


MOMENTS = {
    ("kernel", "before"): (1, 2, 3, 4, 5, 6, 7), ("kernel", "after"): (1, 2, 5),
    ("tune", "before"): (1, 2, 3, 4, 6, 8, 9), ("tune", "after"): (1, 4, 8, 9),
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "when"), MOMENTS, ids=["kernel-before", "kernel-after", "tune-before", "tune-after"]
)
def test_a_run_killed_at_any_write_is_repeated_to_the_same_bits(
    command: str, when: str, bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    arguments = commands(bert_folder, data)[command]
    assert run_cli(*arguments, "--out", tmp_path / "whole").returncode == 0
    expected = results(tmp_path / "whole")
    for moment in MOMENTS[command, when]:
        out = tmp_path / str(moment)
        killed = run_code(KILLED, when, moment, *arguments, "--out", out)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.returncode, killed.stderr)
        repeated = run_cli(*arguments, "--out", out)
        assert repeated.returncode == 0, (moment, repeated.stderr)
        assert results(out) == expected, moment


STUDIES = {
    "reproduce": ("reproduce", "lpft-norms", "--tasks", "mr", "--k", 2, "--seeds", 13, "--test", 8, "--steps", 2,
                  "--evaluate-every", 1, "--batch-sizes", 4, "--adam-rates", 1e-3),
    "validate": ("validate", "--tasks", "mr", "--k", 2, "--seeds", 13, "--test", 8, "--rank", 2, "--learning-rates", 1e-3,
                 "--batch-size", 4, "--epochs", 1, "--evaluate-every", 1, "--candidates", FOUR),
}  # fmt: skip
QUICK = {"reproduce": 9, "validate": 12}
"""One write in the middle of each."""


def study(command: str, model: Path, data: Path, out: Path) -> tuple[object, ...]:
    name, *options = STUDIES[command]
    place = [options.pop(0), "--model", model] if command == "reproduce" else [model]
    return (name, *place, *options, "--data", data, "--out", out)


def page_of(out: Path) -> dict[str, str]:
    """The files of the one page in a folder, but for the lines that name the folder and the seconds that runs took."""
    folder = next(file.parent for file in sorted(out.rglob("page.md")))
    texts = {file.name: file.read_text() for file in sorted(folder.iterdir()) if file.suffix in (".md", ".csv", ".svg")}
    texts["page.md"] = texts["page.md"].rpartition("\n<!-- foretune page ")[
        0
    ]  # checksums of files that name the folder
    named = {name: text.replace(str(out), "OUT") for name, text in texts.items()}
    return {name: re.sub(r"\d[\d.,]* (s|seconds|min|MiB)\b", "TIME", text) for name, text in named.items()}


@pytest.fixture(scope="module")
def whole_page(bert_folder: Path, mr_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function: the page of a study that nobody stopped."""

    @cache
    def made(command: str) -> dict[str, str]:
        out = tmp_path_factory.mktemp(command)
        result = run_cli(*study(command, bert_folder, mr_data, out))
        assert result.returncode == 0, result.stderr
        return page_of(out)

    return made


def assert_goes_on(command: str, when: str, moment: int, model: Path, data: Path, out: Path, page: object) -> None:
    arguments = study(command, model, data, out)
    killed = run_code(KILLED, when, moment, *arguments)
    assert killed.returncode == -signal.SIGKILL, (moment, killed.returncode, killed.stderr)
    repeated = run_cli(*arguments)
    assert repeated.returncode == 0, (moment, repeated.stderr)
    assert page_of(out) == page, moment
    assert not [file for file in out.rglob(".*") if file.name.startswith(".foretune-")], moment


@pytest.mark.parametrize("command", ["reproduce", pytest.param("validate", marks=pytest.mark.sweep)])
def test_a_study_killed_in_the_middle_gives_the_page_of_an_unbroken_one(
    command: str, bert_folder: Path, mr_data: Path, tmp_path: Path, whole_page
) -> None:
    assert_goes_on(command, "before", QUICK[command], bert_folder, mr_data, tmp_path, whole_page(command))


@pytest.mark.sweep
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("command", STUDIES)
def test_a_study_killed_at_any_write_gives_the_page_of_an_unbroken_one(
    command: str, when: str, bert_folder: Path, mr_data: Path, tmp_path: Path, whole_page
) -> None:
    for moment in range(1, 2 * QUICK[command], 2):
        assert_goes_on(command, when, moment, bert_folder, mr_data, tmp_path / str(moment), whole_page(command))


LEFTOVERS = {
    "kernel": (".foretune-0123abcd/experiment.json", "kernels/sgd/.foretune-0123abcd/kernel.json", ".foretune-lock"),
    "tune": (".foretune-0123abcd/run.yaml", "runs/.foretune-lock", ".foretune-lock",
             "runs/best/.foretune-0123abcd/parameters.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("command", LEFTOVERS)
def test_a_folder_of_leftovers_counts_as_empty_and_they_are_removed(
    command: str, bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for name in LEFTOVERS[command]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{")
    result = run_cli(*commands(bert_folder, data)[command], "--out", out)
    assert result.returncode == 0, result.stderr
    assert not list(out.rglob(".*"))
    for place in [folder for folder in out.rglob("*") if folder.is_dir() and "kernel.zarr" not in str(folder)]:
        (place / ".foretune-89abcdef").mkdir()
    again = run_cli(*commands(bert_folder, data)[command], "--out", out)
    assert again.returncode == 0, again.stderr
    assert not list(out.rglob(".*"))


def test_what_only_resembles_a_leftover_is_something_else(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    for name in (
        ".foretune-notes",
        ".foretune",
        ".kernel.json.bak",
        ".run.yaml.original",
        "kernel.json.abcd1234",
        ".git",
    ):
        (tmp_path / name).write_text("mine")
        result = run_cli(*commands(bert_folder, data)["kernel"], "--out", tmp_path)
        assert_refused(result, 2, f"it holds {name!r}")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_tiles_of_a_finished_kernel_are_removed_and_files_of_a_user_under_such_names_are_not(
    bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = (*commands(bert_folder, data)["kernel"], "--out", out)
    assert run_cli(*arguments).returncode == 0
    (out / "kernels" / "sgd" / "tiles").mkdir()
    tile = out / "kernels" / "sgd" / "tiles" / "0-0.npy"
    write_array(tile, np.zeros(3), "a tile")
    tile.with_name("0-1.npy").write_bytes(tile.read_bytes()[:-60])  # cut short
    tiles = out / "kernels" / "lora-r1" / "tiles"
    tiles.mkdir()
    write_array(tiles / "0-0.npy", np.zeros(3), "a tile")
    np.save(tiles / "0-1.npy", np.zeros(3))
    (tiles / "1-1.npy").write_bytes(b"mine")
    (tiles / "notes.txt").write_text("mine")
    again = run_cli(*arguments)
    assert again.returncode == 0
    assert not (out / "kernels" / "sgd" / "tiles").exists()
    assert sorted(os.listdir(tiles)) == ["0-1.npy", "1-1.npy", "notes.txt"]  # noqa: PTH208
    for name in ("0-1.npy", "1-1.npy"):
        assert f"{tiles / name} is not a tile that foretune wrote, and stays." in again.stderr
