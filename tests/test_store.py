"""Downloads by hash and writes that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import zipfile
from pathlib import Path

import pytest

import foretune as ft
from foretune.store.atomic import replacing, replacing_folder
from foretune.store.packages import Package, cache_folder, fetched, sha256_of
from foretune.store.workspace import remove_folder, temporary_folder


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


def nothing_cached() -> bool:
    return not cache_folder().exists() or not [file for file in cache_folder().rglob("*") if file.is_file()]


def test_a_package_is_fetched_once_and_verified(index: Path) -> None:
    package = Package("tiny-package", "1.0", sha256_of(index))
    archive = fetched(package)
    assert sha256_of(archive) == package.sha256
    index.unlink()  # the second time needs no index
    assert fetched(package) == archive
    archive.write_bytes(b"damaged")
    with pytest.raises(ft.ForetuneError, match="Could not fetch"):
        fetched(package)
    assert nothing_cached()


def test_a_wrong_hash_keeps_nothing(index: Path) -> None:
    with pytest.raises(ft.ForetuneError, match="nothing was kept"):
        fetched(Package("tiny-package", "1.0", "0" * 64))
    assert nothing_cached()


def test_a_missing_package_says_what_to_type(index: Path) -> None:
    with pytest.raises(ft.ForetuneError, match=r"pip download --no-deps tiny-package==9\.9"):
        fetched(Package("tiny-package", "9.9", "0" * 64))
    assert nothing_cached()


@pytest.mark.parametrize("writer", [replacing, replacing_folder])
def test_an_interrupted_write_leaves_what_was_there(writer, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with writer(target) as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("before")
    with pytest.raises(ft.ForetuneError, match="The disk is full"), writer(target) as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "a" if target.is_dir() else target).read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["target"]


def test_an_interruption_waits_until_a_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
