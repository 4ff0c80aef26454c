"""Downloads by hash and writes that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.store.arrays import check_array, read_array, write_array
from foretune.store.atomic import check_file, new_folder, replacing, replacing_folder, write_text
from foretune.store.cached import cached_folder
from foretune.store.kept import DamagedError, read_kept, write_kept
from foretune.store.lock import held
from foretune.store.packages import Package, cache_folder, fetched, sha256_of
from foretune.store.tensors import read_tensors, write_tensors
from foretune.store.workspace import LOCK_FILE, contents, remove_folder, sweep, temporary_folder, workspace


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder with one wheel, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_package/data.txt", "content")
        wheel.writestr(
            "tiny_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        wheel.writestr(
            "tiny_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_package-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FORETUNE_CACHE", str(tmp_path / "cache"))
    return next(folder.iterdir())


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def nothing_cached() -> bool:
    return not cache_folder().exists() or not [file for file in cache_folder().rglob("*") if file.is_file()]


def test_a_package_is_fetched_once_and_verified(index: Path) -> None:
    package = Package("tiny-package", "1.0", sha256_of(index))
    archive = fetched(package)
    assert sha256_of(archive) == package.sha256
    index.unlink()  # the second time needs no index
    assert fetched(package) == archive
    archive.write_bytes(b"mine")
    with (
        pytest.raises(ft.ForetuneError, match="Could not fetch"),
        pytest.warns(UserWarning, match=r"is not the file that was fetched.*archive\.old"),
    ):
        fetched(package)
    assert not archive.exists() and Path(f"{archive}.old").read_bytes() == b"mine"


def test_a_wrong_hash_keeps_nothing(index: Path) -> None:
    with pytest.raises(ft.ForetuneError, match="nothing was kept"):
        fetched(Package("tiny-package", "1.0", "0" * 64))
    assert nothing_cached()


def test_a_missing_package_says_what_to_type(index: Path) -> None:
    with pytest.raises(ft.ForetuneError, match=r"pip download --no-deps tiny-package==9\.9"):
        fetched(Package("tiny-package", "9.9", "0" * 64))
    assert nothing_cached()


def test_without_pip_in_the_environment_the_one_that_comes_with_python_is_used(index: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    package = Package("tiny-package", "1.0", sha256_of(index))
    assert sha256_of(fetched(package)) == package.sha256
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(ft.ForetuneError, match=r"-m ensurepip`, or `uv pip install --python"):
        fetched(Package("other-package", "1.0", package.sha256))


def test_a_cache_that_cannot_be_written_is_refused_before_the_download(index: Path, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FORETUNE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    with pytest.raises(ft.ForetuneError, match="Cannot write"):
        fetched(Package("tiny-package", "1.0", sha256_of(index)))


@pytest.mark.parametrize("writer", [replacing, replacing_folder, new_folder])
def test_an_interrupted_write_leaves_what_was_there(writer, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with writer(target) as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("before")
    with pytest.raises(ft.ForetuneError, match="The disk is full"), writer(target) as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "a" if target.is_dir() else target).read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["target"]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_waits_until_a_folder_is_deleted(
    interrupts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = shutil.rmtree

    def interrupted(path: Path, ignore_errors: bool) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        delete(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt):
        remove_folder(tmp_path / "old")
    assert not (tmp_path / "old").exists()
    with pytest.raises(KeyboardInterrupt), temporary_folder() as made:
        (made / "file").touch()
    assert not made.exists() and signal.getsignal(signal.SIGINT) is handler


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results" / "old").mkdir(parents=True)
    (tmp_path / "results" / "old" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path / "results", Path("results"), Path(), Path("results/old/..")):
        for refused in (check_file, lambda path: write_text(path, "{}")):
            with pytest.raises(ft.ForetuneError, match="is a folder; expected a file name"):
                refused(target)
    assert (tmp_path / "results" / "old" / "notes.txt").read_text() == "mine"
    assert contents(tmp_path) == ["results"]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("present", "absent"):
        (tmp_path / name).symlink_to(Path("there") / name)
    (tmp_path / "there" / "present").write_text("before")
    for name in ("present", "absent"):
        write_text(tmp_path / name, "after")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / name).read_text() == "after"
    (tmp_path / "nowhere").symlink_to("no/such/folder/file")
    with pytest.raises(ft.ForetuneError, match="it is a link to"):
        write_text(tmp_path / "nowhere", "text")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ft.ForetuneError, match="in a circle"):
        write_text(tmp_path / "circle", "text")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new", "text")
        with new_folder(tmp_path / "folder") as made:
            (made / "file").touch()
        (tmp_path / "old").write_text("before")
        (tmp_path / "old").chmod(0o640)
        write_text(tmp_path / "old", "after")
        write_tensors(tmp_path / "tensors", {"a": torch.zeros(2)})
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "folder", "old", "tensors")}
    assert modes == {"new": 0o666 & ~mask, "tensors": 0o666 & ~mask, "folder": 0o777 & ~mask, "old": 0o640}


def test_what_is_not_a_regular_file_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert found == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_text(Path(os.devnull), "nothing")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    with pytest.raises(ft.ForetuneError, match="disk is full"):
        write_text(Path("/dev/full"), "text")


@pytest.mark.parametrize("stream", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_in_turn(stream: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "import sys; from pathlib import Path; from foretune.store.atomic import write_text\n"
        "print('before'); write_text(Path(sys.argv[1]), 'text\\n'); print('after')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code, stream], stdout=out, cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text() == "before\ntext\nafter\n"


def test_the_folder_that_came_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_folder(target) as slow:
        (slow / "second").touch()
        with new_folder(target) as quick:
            (quick / "first").touch()
    assert contents(target) == ["first"]
    assert names(tmp_path) == ["target"]


def test_a_cached_folder_is_made_once_and_again_when_it_is_damaged(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "weights").write_bytes(b"1234")

    folder = cached_folder(tmp_path / "models" / "one", make)
    assert cached_folder(folder, make) == folder
    assert len(made) == 1
    for damage in (lambda file: file.write_bytes(b"1235"), Path.unlink):
        damage(folder / "weights")
        with pytest.warns(UserWarning, match="weights is damaged.*made again"):
            cached_folder(folder, make)
        assert (folder / "weights").read_bytes() == b"1234"
    assert len(made) == 3
    assert names(folder.parent) == ["one"]


@pytest.mark.parametrize("foreign", ["notes.txt", "deeper/notes.txt", "foretune.json"])
def test_a_damaged_cached_folder_with_a_file_of_the_user_is_moved_aside(tmp_path: Path, foreign: str) -> None:
    def make(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1234")

    folder = cached_folder(tmp_path / "models" / "one", make)
    (folder / "weights").write_bytes(b"1235")
    (folder / foreign).parent.mkdir(exist_ok=True)
    (folder / foreign).write_text("mine")
    with pytest.warns(UserWarning, match=r"one\.old was .*one; it may hold files of yours"):
        assert cached_folder(folder, make) == folder
    assert (folder / "weights").read_bytes() == b"1234"
    assert (tmp_path / "models" / "one.old" / foreign).read_text() == "mine"


LEFT = """
import os, sys; from pathlib import Path; from foretune.store.workspace import workspace
with workspace(Path(sys.argv[1])) as path:
    (path / "half").touch()
    print(path.name, flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", LEFT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    (tmp_path / ".foretune-notes").touch()
    sweep(tmp_path)
    assert sorted(names(tmp_path)) == sorted([name, ".foretune-notes"])
    assert contents(tmp_path) == [".foretune-notes"]
    other.communicate("x")
    with workspace(tmp_path) as mine:
        assert sorted(names(tmp_path)) == sorted([mine.name, ".foretune-notes"])
    assert names(tmp_path) == [".foretune-notes"]


HOLD = """
import os, sys; from pathlib import Path; from foretune.store.lock import held
with held(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), 9)
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    number = other.stdout.readline().strip()
    with (
        pytest.raises(
            ft.ForetuneError, match=rf"in use by process {number} on \S+ since 20\d\d-.*choose another --out"
        ),
        held(folder),
    ):
        pass
    other.communicate("x")
    assert contents(folder) == []
    with held(folder):
        assert contents(folder) == []
    assert names(folder) == []


def test_a_holder_that_has_not_signed_yet_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def sign() -> None:
            file.write(json.dumps({"pid": 12345, "host": "there", "since": "2026-01-01"}))
            file.flush()

        late = threading.Timer(0.2, sign)
        late.start()
        with pytest.raises(ft.ForetuneError, match="in use by process 12345 on there"), held(tmp_path):
            pass
        late.join()


VALUES = {"a": [1.5, 1e-300], "b": {"c": "d"}, "hash": "x"}
ARRAY = np.arange(6.0).reshape(2, 3)
TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def kept_files(folder: Path) -> dict[Path, object]:
    """A file of each kind, and what reads it."""
    write_kept(folder / "json", VALUES)
    write_array(folder / "array", ARRAY, "this")
    write_tensors(folder / "tensors", TENSORS)
    return {
        folder / "json": lambda: read_kept(folder / "json"),
        folder / "array": lambda: read_array(folder / "array", "this"),
        folder / "tensors": lambda: read_tensors(folder / "tensors"),
    }


def same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(next(iter(one.values())), torch.Tensor):
        return all(torch.equal(one[name], other[name]) for name in one)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("kind", ["json", "array", "tensors"])
def test_no_flipped_cut_or_missing_byte_of_a_kept_file_goes_unnoticed(kind: str, tmp_path: Path) -> None:
    file, read = next(item for item in kept_files(tmp_path).items() if item[0].name == kind)
    expected, content = read(), file.read_bytes()
    assert same(expected, {"json": VALUES, "array": ARRAY, "tensors": TENSORS}[kind])
    flipped = [
        content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        for place in range(len(content))
    ]
    for damaged in [*flipped, b"", content[:-1], content[: len(content) // 2], b"null", b"[" * 100_000]:
        file.write_bytes(damaged)
        try:
            found = read()
        except DamagedError as error:
            assert str(file) in str(error)
        else:
            assert same(found, expected), damaged  # white space, and the name of a format
    file.unlink()
    with pytest.raises(DamagedError, match="No such file"):
        read()
    file.mkdir()
    with pytest.raises(DamagedError):
        read()


def test_an_array_in_another_ones_place_is_noticed(tmp_path: Path) -> None:
    write_array(tmp_path / "array", ARRAY, "this")
    with pytest.raises(DamagedError):
        read_array(tmp_path / "array", "that")
    assert np.array_equal(np.load(tmp_path / "array"), ARRAY)  # numpy alone reads it


@pytest.mark.parametrize(
    "array",
    [
        np.float32(3.5),
        np.zeros((0, 4)),
        np.arange(6).reshape(2, 3).T,
        np.arange(20.0)[::3],
        np.array([True, False]),
        np.arange(4, dtype=">i4"),
    ],
    ids=["a number", "nothing", "turned", "with steps", "truths", "big-endian"],
)
def test_arrays_of_every_layout_come_back_and_numpy_reads_them(array: np.ndarray, tmp_path: Path) -> None:
    write_array(tmp_path / "array", array, "this")
    for found in (read_array(tmp_path / "array", "this"), np.load(tmp_path / "array")):
        assert (
            np.array_equal(found, array) and found.shape == np.shape(array) and found.dtype == np.asarray(array).dtype
        )


def test_an_array_is_written_and_checked_without_a_copy_of_it(tmp_path: Path) -> None:
    array = np.ones(2**22)  # 32 MiB
    tracemalloc.start()
    write_array(tmp_path / "array", array, "this")
    check_array(tmp_path / "array", "this")
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < array.nbytes / 4
    assert held < 2**20


def test_values_for_readers_are_left_out_of_the_checksum(tmp_path: Path) -> None:
    write_kept(tmp_path / "file", {"value": 1, "about": {"out": "runs/a"}}, ("about",))
    text = (tmp_path / "file").read_text()
    (tmp_path / "file").write_text(text.replace("runs/a", "runs/b"))
    assert read_kept(tmp_path / "file", ("about",)) == {"value": 1, "about": {"out": "runs/b"}}
    (tmp_path / "file").write_text(json.dumps({"value": 1}))
    with pytest.raises(DamagedError, match="no checksum, as those of older versions"):
        read_kept(tmp_path / "file")
