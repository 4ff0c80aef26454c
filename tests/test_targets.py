"""Where results go: nothing is removed or replaced that foretune did not make; a bad place is refused before the work."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import assert_refused, assert_valid, run_cli, run_code

LONG = "n" * 300


def snapshot(folder: Path) -> dict[str, object]:
    """Everything in a folder: the text of files, where links lead, and what is neither."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        shown = (
            str(path.readlink())
            if stat.S_ISLNK(mode)
            else path.read_bytes()
            if stat.S_ISREG(mode)
            else stat.S_IFMT(mode)
        )
        found[str(path.relative_to(folder))] = shown
    return found


def precious(folder: Path) -> None:
    """A folder with work of a user's."""
    (folder / "results" / "old").mkdir(parents=True)
    (folder / "results" / "old" / "notes.txt").write_text("mine")
    (folder / "results" / "run.yaml").write_text("k: 3  # mine\n")
    (folder / "file").write_text("mine")
    (folder / "broken").symlink_to("no/such/place")
    (folder / "circle").symlink_to("circle")
    (folder / "link").symlink_to("results")
    os.mkfifo(folder / "pipe")


JSON_TARGETS = {
    "folder": "results", "empty": "", "here": ".", "above": "..", "link-to-folder": "link", "below-a-file": "file/out.json",
    "broken-link": "broken", "circle": "circle", "long": f"{LONG}.json", "long-parent": f"{LONG}/out.json",
    "below-a-device": "/dev/null/out.json", "protected": "results/run.yaml",
}  # fmt: skip


@pytest.mark.parametrize("target", JSON_TARGETS.values(), ids=JSON_TARGETS)
@pytest.mark.parametrize(
    "command", [("tasks", "sst2"), ("forecast", "no-such-model", "movies", "--plan")], ids=["tasks", "forecast"]
)
def test_a_json_target_that_is_no_file_name_is_refused_and_nothing_is_touched(
    command: tuple[str, ...], target: str, tmp_path: Path
) -> None:
    precious(tmp_path)
    before = snapshot(tmp_path)
    result = run_cli(*command, "--json", target, cwd=tmp_path)
    assert result.returncode in (1, 2), result.stdout
    assert "no-such-model" not in result.stderr.replace("'no-such-model'", "")  # before the model is looked for
    assert "not expected" not in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert snapshot(tmp_path) == before


def test_json_goes_through_links_and_streams_and_over_files(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text('{"foretune": "0.1.0", "name": "before"}')
    (tmp_path / "there.json").chmod(0o600)
    (tmp_path / "link.json").symlink_to("there.json")
    for target in ("link.json", "new.json"):
        result = run_cli("tasks", "sst2", "--json", target, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there.json").read_text())["name"] == "sst2"
    assert_valid("task", json.loads((tmp_path / "new.json").read_text()))
    assert stat.S_IMODE((tmp_path / "there.json").stat().st_mode) == 0o600
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o666 & ~umask
    shown = run_cli("tasks", "sst2", "--json", "/dev/stdout")
    assert shown.returncode == 0, shown.stderr
    assert json.JSONDecoder().raw_decode(shown.stdout)[0] == json.loads((tmp_path / "new.json").read_text())
    assert run_cli("tasks", "sst2", "--json", os.devnull).returncode == 0
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert_refused(run_cli("tasks", "sst2", "--json", "/dev/full"), 1, "The disk is full")
    assert sorted(snapshot(tmp_path)) == ["link.json", "new.json", "there.json"]


def test_what_is_read_is_never_written_over(data_file: Path, tmp_path: Path) -> None:
    before = data_file.read_text()
    refused = run_cli("forecast", "no-such-model", data_file, "--json", data_file)
    assert_refused(refused, 2, "is a file that this command reads; it would be overwritten")
    task = tmp_path / "task.yaml"
    task.write_text("name: mine\n")
    assert_refused(
        run_cli("tasks", task, "--json", task), 2, "is a file that this command reads; it would be overwritten"
    )
    assert (data_file.read_text(), task.read_text()) == (before, "name: mine\n")


FOREIGN = {
    "weights": "model.safetensors", "rows": "val.jsonl", "settings": "cfg.yaml", "other-json": "mine.json",
    "kept-json": "kept.json", "link": "link.json", "below-a-link": "folder/cfg.yaml",
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN.values(), ids=FOREIGN)
def test_json_never_replaces_a_file_that_it_did_not_write(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "val.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}\n')
    (tmp_path / "cfg.yaml").write_text("model: no-such-model\ndata: movies\n")
    (tmp_path / "mine.json").write_text('{"foretune": {"k": 3}}')
    (tmp_path / "kept.json").write_text('{"foretune": "0.1.0", "checksum": "00"}')
    (tmp_path / "link.json").symlink_to("mine.json")
    (tmp_path / "folder").symlink_to(".")
    before = snapshot(tmp_path)
    for command in (("forecast", "--config", "cfg.yaml"), ("tune", "--config", "cfg.yaml", "--out", "run"), ("tasks",)):
        assert_refused(
            run_cli(*command, "--json", name, cwd=tmp_path), 2, "did not write; it would be overwritten", "mv -- /"
        )
        assert snapshot(tmp_path) == before


INSIDE = {
    "record": ("kernel", "experiment.json"), "older": ("kernel", "examples.json"), "settings": ("kernel", "run.yaml"),
    "itself": ("forecast", ""), "forecast": ("forecast", "forecast.json"), "deeper": ("kernel", "kernels/sgd/kernel.json"),
    "result": ("tune", "result.json"), "run": ("tune", "runs"), "in-run": ("tune", "runs/mine.json"),
}  # fmt: skip


@pytest.mark.parametrize(("command", "name"), INSIDE.values(), ids=INSIDE)
def test_json_never_takes_the_place_of_a_file_of_the_results_to_come(command: str, name: str, tmp_path: Path) -> None:
    result = run_cli(command, "no-such-model", "movies", "--out", "out", "--json", Path("out", name), cwd=tmp_path)
    assert_refused(result, 2, "--json", "Choose a ")
    assert snapshot(tmp_path) == {}


def test_json_stays_out_of_the_pages_and_cells_of_a_study_and_of_folders_that_are_read(tmp_path: Path) -> None:
    study = ("validate", "no-such-model", "--tasks", "mr", "--out", "out")
    for name in ("out/validate", "out/validate/mine.json", "out/no-such-model/mine.json", "out"):
        assert_refused(run_cli(*study, "--json", name, cwd=tmp_path), 2, "Choose a ")
    for command in ("solve", "behaviour"):
        for name in ("out", "out/examples.json", "out/run/result.json"):
            assert_refused(run_cli(command, "out", "--json", name, cwd=tmp_path), 2, "Choose a ")
    assert snapshot(tmp_path) == {}


def test_an_estimate_may_stand_in_the_folder_that_was_planned(
    bert_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    command = ("kernel", bert_folder, data_file, "--k", 2, "--test", 4, "--out", tmp_path / "out")
    for options in (("--plan",), ("--plan",), ()):  # the second replaces the first
        result = run_cli(*command, *options, "--json", tmp_path / "out" / "plan.json")
        assert result.returncode == 0, result.stderr
        assert json.loads((tmp_path / "out" / "plan.json").read_text())["foretune"]
    assert (tmp_path / "out" / "experiment.json").is_file()


OUT_TARGETS: dict[str, Callable[[Path], Path]] = {
    "file": lambda here: here / "file",
    "below-a-file": lambda here: here / "file" / "run",
    "broken-link": lambda here: here / "broken",
    "circle": lambda here: here / "circle",
    "pipe": lambda here: here / "pipe",
    "device": lambda _: Path("/dev/null"),
    "long": lambda here: here / LONG,
    "folder-of-a-user": lambda here: here / "results",
    "link-to-it": lambda here: here / "link",
    "here": lambda _: Path(),
    "own-settings": lambda here: here / "settings",
    "folder-as-settings": lambda here: here / "strange",
    "data": lambda here: here / "data",
    "model": lambda here: here / "model",
}
COMMANDS = {
    "kernel": ("kernel", "MODEL", "DATA", "--k", 2, "--test", 4),
    "forecast": ("forecast", "MODEL", "DATA", "--k", 2, "--test", 4),
    "tune": ("tune", "MODEL", "DATA", "--k", 2, "--test", 4, "--steps", 2),
}


@pytest.mark.parametrize("target", OUT_TARGETS.values(), ids=OUT_TARGETS)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_an_out_folder_that_holds_something_else_is_refused_and_left_alone(
    command: tuple[object, ...], target, bert_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    precious(tmp_path)
    (tmp_path / "model").symlink_to(bert_folder)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(data_file.read_bytes())
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "run.yaml").write_text("k: 3  # mine\n")
    (tmp_path / "strange" / "run.yaml" / "deep").mkdir(parents=True)
    (tmp_path / "strange" / "run.yaml" / "deep" / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    words = {"MODEL": tmp_path / "model", "DATA": tmp_path / "data"}
    result = run_cli(*(words.get(str(word), word) for word in command), "--out", target(tmp_path), cwd=tmp_path)
    assert result.returncode in (1, 2), result.stdout
    assert "not expected" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if not line.startswith("Note")]) == 1, result.stderr
    assert result.stdout == ""
    assert snapshot(tmp_path) == before


def test_a_study_never_writes_into_the_model_or_over_a_page_that_is_not_its_own(
    bert_folder: Path, mr_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "tiny"
    model.parent.mkdir()
    model.symlink_to(bert_folder)
    (tmp_path / "out" / "lpft-norms").mkdir(parents=True)
    (tmp_path / "out" / "lpft-norms" / "page.md").write_text("# My notes\n")
    (tmp_path / "out" / "lpft-norms" / "table.csv").write_text("mine\n")
    before = snapshot(tmp_path)
    command = ("reproduce", "lpft-norms", "--model", model, "--tasks", "mr", "--data", mr_data)
    assert_refused(run_cli(*command, "--out", model.parent), 2, "in use for something else. Choose another --out")
    assert_refused(run_cli(*command, "--out", tmp_path / "out"), 2, "is not a page", "move that folder")
    assert snapshot(tmp_path) == before


LIMITED = """
import resource, signal, sys
from foretune.cli.main import main
kind, size = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
resource.setrlimit(getattr(resource, kind), (size, resource.getrlimit(getattr(resource, kind))[1]))
main()
"""


@pytest.mark.parametrize("size", [1200, 6000])
@pytest.mark.parametrize("command", [COMMANDS["kernel"], COMMANDS["tune"]], ids=["kernel", "tune"])
def test_a_file_that_cannot_grow_is_said_and_the_run_goes_on_with_room(
    command: tuple[object, ...], size: int, bert_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    words = {"MODEL": bert_folder, "DATA": data_file}
    arguments = [*(words.get(str(word), word) for word in command), "--out", tmp_path / "run"]
    limited = run_code(LIMITED, "RLIMIT_FSIZE", size, *arguments)
    assert_refused(limited, 1, "Cannot write", "raise the limit (`ulimit -f`)")
    assert "not expected" not in limited.stderr
    result = run_cli(*arguments)
    assert result.returncode == 0, result.stderr
    assert not list((tmp_path / "run").rglob(".*"))
