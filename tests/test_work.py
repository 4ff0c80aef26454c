"""Crews of workers: every engine writes the same files, what a worker loses is made again, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foretune.errors import ForetuneError, StorageError, UsageError
from foretune.store.lock import InUseError, claimed
from foretune.store.workspace import sweep
from foretune.work.crew import Crew, LostWorkerError
from foretune.work.engine import Engine
from foretune.work.here import ThisProcess
from foretune.work.on_ray import OnRay
from foretune.work.processes import LocalProcesses, devices_of
from tests.command_line import ENVIRONMENT, ROOT
from tests.conftest import interruptible
from tests.work_items import Elsewhere, Opened, Toy, ray_of_two_nodes


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    with ray_of_two_nodes() as (cluster, _):
        yield cluster


@pytest.fixture(params=["here", "processes", "ray"])
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crew]:
    if request.param == "ray":
        request.getfixturevalue("two_nodes")
    made: dict[str, Callable[[], Crew]] = {
        "here": lambda: ThisProcess(1, Opened(tmp_path)),
        "processes": lambda: LocalProcesses(2, Opened(tmp_path), cpus=1),
        "ray": lambda: OnRay(2, Opened(tmp_path), cpus=1),
    }
    with made[request.param]() as found:
        yield found


def test_every_engine_writes_the_same_files_says_how_far_it_is_and_opens_its_tool_once(
    crew: Crew, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    files = [tmp_path / f"plain-{number}" for number in range(6)]
    for asked in (files, files[:2]):  # the workers of the first round are those of the second
        found = crew.carry_out("toys", [Toy(file) for file in asked], lambda *how_far: told.append(how_far))
        assert found == asked
    assert [file.read_text() for file in files] == ["7"] * 6
    assert told == [("toys", done, 6) for done in range(7)] + [("toys", done, 2) for done in range(3)]
    assert len(list(tmp_path.glob("opened-*"))) <= crew.size
    assert not list(tmp_path.glob(".*"))


def test_what_an_item_warns_of_and_fails_with_comes_back(crew: Crew, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="rounded by hand"):
        crew.carry_out("toys", [Toy(tmp_path / f"warns-{type(crew).__name__}")])
    for name, error, message in (
        ("refused", UsageError, "That is not a number"),
        ("damaged", ForetuneError, "it is cut off"),
        ("crash", ZeroDivisionError, "by hand"),
    ):
        with pytest.raises(error, match=message):
            crew.carry_out("toys", [Toy(tmp_path / f"{name}-1")])
    with pytest.raises(
        StorageError, match=r"not there for this process\. Choose an --out in a folder that all machines"
    ):
        crew.carry_out("toys", [Elsewhere(tmp_path / "nowhere")])


def test_an_item_that_another_command_makes_is_waited_for(crew: Crew, tmp_path: Path) -> None:
    file = tmp_path / "plain-1"
    with contextlib.ExitStack() as hold:
        hold.enter_context(claimed(file))

        def end_later(_: str, done: int, __: int) -> None:
            if done == 1:
                hold.close()

        found = crew.carry_out("toys", [Toy(file), Toy(tmp_path / "plain-2")], end_later)
    assert [each.read_text() for each in found] == ["7", "7"]


@pytest.mark.parametrize("crew", ["processes", "ray"], indirect=True)
def test_a_killed_worker_is_replaced_and_its_item_made(crew: Crew, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("once-1", "plain-1", "plain-2", "once-2")]
    assert crew.carry_out("toys", [Toy(file) for file in files]) == files
    assert [file.read_text() for file in files] == ["7"] * 4


def test_an_item_that_ends_every_worker_is_given_up(tmp_path: Path) -> None:
    with (
        LocalProcesses(1, Opened(tmp_path), cpus=1) as crew,
        pytest.raises(LostWorkerError, match=r"ended from outside 3 times.*Use fewer --workers or a smaller --memory"),
    ):
        crew.carry_out("toys", [Toy(tmp_path / "kills-1")])


def test_a_claim_is_of_one_file_and_leaves_nothing(tmp_path: Path) -> None:
    with claimed(tmp_path / "new" / "a"), claimed(tmp_path / "new" / "b"):
        with pytest.raises(InUseError, match=r"a is in use by process \d+"), claimed(tmp_path / "new" / "a"):
            pass
        sweep(tmp_path / "new")  # another command's tidying takes no claim
        with pytest.raises(InUseError), claimed(tmp_path / "new" / "b"):
            pass
    assert not list((tmp_path / "new").iterdir())


INTERRUPTED = """
import sys
from pathlib import Path
from foretune.cli import app, main
from foretune.work.processes import LocalProcesses
from tests.work_items import Opened, Toy
def work(**_):
    folder = Path(sys.argv[2])
    with LocalProcesses(2, Opened(folder), 1) as crew:
        crew.carry_out("toys", [Toy(folder / f"sleeps-{number}") for number in range(3)])
app.app = work
sys.argv[1:2] = ["tune"]
main.main()
"""


def asleep(folder: Path) -> list[int]:
    """The processes of two workers, once they sleep."""
    end = time.monotonic() + 60
    while len(found := list(folder.glob("asleep-*"))) < 2:
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.05)
    return [int(file.name.split("-")[1]) for file in found]


def gone(process: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # nobody has waited for it
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_workers_end_with_the_command_and_say_nothing(number: signal.Signals, tmp_path: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "tune", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, preexec_fn=interruptible,
    )  # fmt: skip
    workers = asleep(tmp_path)
    if number == signal.SIGINT:
        os.killpg(command.pid, number)  # as a terminal does: to the workers, too
    else:
        command.kill()
    out, errors = command.communicate(timeout=60)
    assert all(gone(worker) for worker in workers)
    assert not out
    if number == signal.SIGINT:
        assert command.returncode == 130, errors
        assert errors == "Stopped. Repeat the same command to go on where it stopped.\n"


@pytest.mark.parametrize(
    ("gpus", "found"),
    [(1, [["a"], ["b"], ["c"], ["d"]]), (2, [["a", "b"], ["c", "d"]]), (0.5, [["a"], ["a"], ["b"], ["b"]])],
    ids=str,
)
def test_workers_share_the_gpus_out(gpus: float, found: list[list[str]]) -> None:
    assert [devices_of(number, gpus, list("abcd")) for number in range(len(found))] == found


def test_more_gpus_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(
        UsageError, match=r"3 workers with 1 GPUs each need 3; there are 2 here.*--gpus-per-worker 0\.5"
    ):
        LocalProcesses(3, Opened(tmp_path), 1, 1)


def test_what_no_machine_of_a_cluster_has_is_refused(two_nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="A worker needs 64 CPUs and 0 GPUs, and no machine of the Ray cluster has them"
    ):
        OnRay(1, Opened(tmp_path), cpus=64)


def test_without_ray_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"not installed. Type: python -m pip install 'foretune\[ray\]'"):
        OnRay(1, Opened(tmp_path), cpus=1)


def test_an_engine_needs_a_number_of_workers_and_takes_their_threads(tmp_path: Path) -> None:
    assert not Engine().asked
    with pytest.raises(UsageError, match="--engine ray is for workers, and their number is missing"):
        _ = Engine("ray").asked
    before = torch.get_num_threads()
    with Engine(workers=1, cpus_per_worker=before + 1).crew(Opened(tmp_path), "cpu") as crew:
        assert isinstance(crew, ThisProcess)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
