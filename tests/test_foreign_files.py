"""Whatever a command writes, what somebody else has put under that name stays as it is, and the command says so."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from foretune.errors import ForetuneError
from foretune.experiment.folder import folder_description
from foretune.finetune.folder import RunFolder
from foretune.finetune.report import read_report
from foretune.kernels.folder import KERNEL
from foretune.pages.folder import refuse_other
from foretune.store.kept import write_kept
from tests.conftest import assert_refused, run_cli
from tests.test_targets import snapshot

FOREIGN = b'{"mine": [1, 2, 3]}\n'
SMALL = ("--k", 2, "--test", 4)
COMMANDS: dict[str, tuple[object, ...]] = {
    "kernel": ("kernel", "MODEL", "DATA", *SMALL, "--formula", "sgd,lora", "--rank", 1, "--out", "out"),
    "forecast": ("forecast", "MODEL", "DATA", *SMALL, "--out", "out"),
    "tune": ("tune", "MODEL", "DATA", *SMALL, "--steps", 2, "--evaluate-every", 1, "--out", "out"),
    "lp-tune": ("tune", "MODEL", "DATA", *SMALL, "--method", "lp-ft", "--steps", 2, "--head", "random", "--out", "out"),
    "reproduce": (
        "reproduce", "lpft-norms", "--model", "MODEL", "--tasks", "mr", "--data", "TASKS", "--k", 2, "--seeds", 13,
        "--test", 4, "--steps", 2, "--out", "out",
    ),
}  # fmt: skip


def as_file(place: Path) -> None:
    place.write_bytes(FOREIGN)


def as_folder(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_bytes(FOREIGN)


def as_link(place: Path) -> None:
    place.symlink_to(as_target(place))


def as_target(place: Path) -> Path:
    """A user's file outside of every folder of results."""
    target = next(parent for parent in place.parents if parent.name == "out").parent / "mine.txt"
    target.write_bytes(FOREIGN)
    return target


def as_pipe(place: Path) -> None:
    os.mkfifo(place)


PLANTS: dict[str, Callable[[Path], None]] = {"file": as_file, "folder": as_folder, "link": as_link, "pipe": as_pipe}


@pytest.fixture(scope="module")
def finished(
    bert_folder: Path, mr_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[list[object], Path]]:
    """A function that runs a command once: its words, and the folder that it ran in."""
    found: dict[str, tuple[list[object], Path]] = {}
    words = {"MODEL": bert_folder, "DATA": mr_data / "mr" / "train.jsonl", "TASKS": mr_data}

    def ran(name: str) -> tuple[list[object], Path]:
        if name not in found:
            here = tmp_path_factory.mktemp(name)
            command = [words.get(str(word), word) for word in COMMANDS[name]]
            result = run_cli(*command, cwd=here)
            assert result.returncode == 0, result.stderr
            found[name] = (command, here)
        return found[name]

    return ran


def written(here: Path) -> list[Path]:
    """Every file that a command has written, and the folders in between, relative to --out."""
    return sorted(path.relative_to(here / "out") for path in (here / "out").rglob("*"))


def first_of_each_kind(paths: list[Path]) -> list[Path]:
    """One path of each shape: chunks of an array and points of a grid differ by number only."""
    shapes = {
        tuple("".join("#" if c.isdigit() else c for c in part) for part in path.parts): path for path in paths[::-1]
    }
    return sorted(shapes.values())


def places(here: Path) -> list[Path]:
    return first_of_each_kind([path for path in written(here) if (here / "out" / path).is_file()])


@pytest.mark.parametrize("name", ["kernel", "forecast", "tune", "lp-tune"])
def test_what_stands_under_the_name_of_a_result_is_refused_before_the_work_and_stays(
    name: str, finished, bert_folder: Path, tmp_path: Path
) -> None:
    """Before the work: the model is not there, and nobody has looked for it."""
    command, here = finished(name)
    command = [Path("/nowhere") if word == bert_folder else word for word in command]
    for number, place in enumerate(places(here)):
        new = tmp_path / str(number)
        (new / "out" / place).parent.mkdir(parents=True)
        [*PLANTS.values()][number % len(PLANTS)](new / "out" / place)
        before = snapshot(new)
        result = run_cli(*command, cwd=new)
        assert_refused(result)
        assert "/nowhere" not in result.stderr
        assert snapshot(new) == before, place


@pytest.mark.sweep
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_takes_the_place_of_a_finished_result_stays(
    name: str, plant: Callable[[Path], None], finished, tmp_path: Path
) -> None:
    """Planted instead of a file of a run that is there: no repetition replaces it."""
    command, here = finished(name)
    lost = []
    for number, place in enumerate(places(here)):
        new = tmp_path / str(number)
        shutil.copytree(here / "out", new / "out")
        planted = new / "out" / place
        planted.unlink()
        plant(planted)
        before = {key: value for key, value in snapshot(new).items() if str(place) in key or key == "mine.txt"}
        result = run_cli(*command, cwd=new)
        assert result.returncode in (0, 1, 2), (place, result.stderr)  # one that waits is ended by a signal
        assert result.returncode == 0 or not result.stdout.strip()
        after = snapshot(new)
        lost += [str(place)] if any(after.get(key) != before[key] for key in before) else []
        shutil.rmtree(new)
    assert lost == []


READERS: dict[str, tuple[tuple[object, ...], ...]] = {
    "kernel": (("show", "out"), ("solve", "out/kernels/sgd"), ("labels", "out")),
    "forecast": (("show", "out"), ("card", "out"), ("explain", "out", "--row", 0), ("labels", "out"),
                 ("tune", "--from", "out/forecast.json", "--out", "next", "--plan")),
    "tune": (("show", "out"), ("card", "out"), ("behaviour", "out", "--segment-points", 1, "--segment-examples", 1)),
    "reproduce": (("show", "out/lpft-norms"),),
}  # fmt: skip
"""Command -> what reads its results."""


@pytest.mark.sweep
@pytest.mark.parametrize("name", READERS)
def test_no_command_waits_for_a_pipe_in_the_place_of_a_result(name: str, finished, tmp_path: Path) -> None:
    _, here = finished(name)
    for number, place in enumerate(places(here)):
        new = tmp_path / str(number)
        shutil.copytree(here / "out", new / "out")
        (new / "out" / place).unlink()
        as_pipe(new / "out" / place)
        for command in READERS[name]:
            result = run_cli(*command, cwd=new)  # one that waits is ended by a signal
            assert result.returncode == 0 or not result.stdout.strip(), (command, place)
            assert result.returncode in (0, 1, 2), (command, place, result.stderr)
        shutil.rmtree(new)


ODD = "it's a run"
"""The name of a folder that no shell takes as it is."""


def kept(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("mine")


MOVED: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "kernel": (lambda folder: kept(folder, "notes.txt"), KERNEL.described),
    "damaged kernel": (lambda folder: kept(folder, "kernel.json"), KERNEL.described),
    "run": (lambda folder: kept(folder, "notes.txt"), lambda folder: RunFolder(folder, {})),
    "damaged run": (lambda folder: kept(folder, "run.json"), lambda folder: RunFolder(folder, {})),
    "record": (lambda folder: kept(folder, "experiment.json"), folder_description),
    "page": (lambda folder: kept(folder, "table.csv"), refuse_other),
    "damaged page": (lambda folder: kept(folder, "page.md"), refuse_other),
    "report": (lambda folder: kept(folder, "result.json"), read_report),
    "link": (lambda file: file.symlink_to("mine.txt"), lambda file: write_kept(file, {"a": 1})),
    "folder": (lambda file: file.mkdir(), lambda file: write_kept(file, {"a": 1})),
}


@pytest.mark.parametrize("before", [0, 1, 2], ids=["first", "second", "third"])
@pytest.mark.parametrize("case", MOVED)
def test_the_hint_to_move_something_works_as_typed_and_loses_nothing(case: str, before: int, tmp_path: Path) -> None:
    plant, act = MOVED[case]
    place = tmp_path / ODD / "its place"
    place.parent.mkdir()
    for _ in range(before + 1):
        plant(place)
        with pytest.raises(ForetuneError) as raised:
            act(place)
        hint = str(raised.value).partition("mv -- ")
        subprocess.run(["/bin/sh", "-c", hint[1] + hint[2]], check=True)
    act(place)
    assert sum(
        path.name.startswith("its place.old") or ".json.old" in path.name for path in (tmp_path / ODD).rglob("*")
    ) == (before + 1)


def test_the_hints_of_commands_work_where_names_have_blanks_and_quotes(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "my file.json").write_text("mine")
    command = ("tasks", "sst2", "--json", folder / "my file.json")
    refused = run_cli(*command)
    assert_refused(refused, 2, "mv -- ")
    subprocess.run(["/bin/sh", "-c", "mv -- " + refused.stderr.partition("mv -- ")[2]], check=True)
    assert run_cli(*command).returncode == 0
    assert (folder / "my file.json.old").read_text() == "mine"


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path: Path, data_file: Path) -> None:
    """One rule for fresh names too: in a model's or a data set's folder they may become a part of it."""
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(data_file.read_bytes())
    before = snapshot(folder)
    for command in (
        ("forecast", folder, data_file),
        ("forecast", "no-such-model", folder),
        ("tune", folder, data_file),
    ):
        for place in ("new.json", "deeper/new.json", "train.json"):
            refused = run_cli(*command, "--out", tmp_path / "out", "--json", folder / place)
            assert_refused(refused, 2, "--json", "Nothing is written into such a folder", "--json '")
        refused = run_cli(*command, "--out", folder / "runs" / "a")
        assert_refused(refused, 2, "Nothing is written into such a folder. Choose a place outside of it, --out")
        hint = shlex.split(refused.stderr.partition("outside of it, ")[2].removesuffix(" for example.\n"))
        assert "is read here" not in run_cli(*command, *hint).stderr
    assert snapshot(folder) == before
