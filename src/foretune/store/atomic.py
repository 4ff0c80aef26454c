"""Writes that are whole or not there: everything goes to a temporary name and is renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from foretune.errors import StorageError


def storage_error(path: Path, error: OSError) -> StorageError:
    """A message for a failed write that says what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "The disk is full: free some space, or point --out or FORETUNE_CACHE to another disk."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "The folder is not writable: choose another --out, or set FORETUNE_CACHE to a folder of yours."
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        remedy = "A file stands where a folder is needed: choose another name."
    else:
        remedy = "Check the folder and try again."
    return StorageError(f"Cannot write {path}: {error.strerror or error}. {remedy}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """

    def made() -> Path:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        return Path(name)

    with _replacing(path, made) as temporary:
        yield temporary


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with _replacing(path, lambda: Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, made: Callable[[], Path]) -> Iterator[Path]:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = made()
        yield temporary
        if path.is_dir():
            with _interrupted_later():
                shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None and temporary.is_dir():
            remove_folder(temporary)
        elif temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder and what is in it, as far as that goes; an interruption waits until it is done."""
    with _interrupted_later():
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the length of the block."""
    path = Path(tempfile.mkdtemp(prefix="foretune-"))
    try:
        yield path
    finally:
        remove_folder(path)


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block.

    `shutil.rmtree` closes a descriptor twice when it is interrupted, and the error takes the interruption's place.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        before(received[0], None)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as a whole, or leave what was there.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
