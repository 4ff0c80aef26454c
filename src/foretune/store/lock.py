"""The sole right to write to a folder or to make a file: a lock that ends with its process, and a message that names it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from foretune.errors import StorageError
from foretune.store.atomic import storage_error
from foretune.store.workspace import LOCK_FILE, is_at, leftover_name, locked

_PAUSE = 0.05
_MINE: set[tuple[Path, int]] = set()
"""The folders that this process holds, each with the thread that does."""
_TO_SIGN = 1.0
"""Seconds that a holder may take between locking its file and writing its name there."""


class InUseError(StorageError):
    """Another process has the right to write there; it names that process."""


@contextmanager
def held(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for the length of the block; it is made where it is missing.

    A process that was killed holds nothing, and who holds the folder already goes on. Where the file system has no
    locks, the block runs without one.

    Args:
        folder: what is written to.
        wait: seconds to wait for another process.

    Raises:
        InUseError: another process holds it.
        StorageError: it cannot be written.
    """
    mine = (Path(os.path.realpath(folder)), threading.get_ident())
    if mine in _MINE:
        yield
        return
    try:
        made = not folder.exists()
        handle = _acquired(folder / LOCK_FILE, folder, wait)
    except OSError as error:
        raise storage_error(folder, error) from error
    _MINE.add(mine)
    try:
        yield
    finally:
        _MINE.discard(mine)
        with contextlib.suppress(OSError):
            if is_at(handle, folder / LOCK_FILE):
                (folder / LOCK_FILE).unlink()
            if made:
                folder.rmdir()  # unless something was written there
        os.close(handle)


@contextmanager
def claimed(file: Path) -> Iterator[None]:
    """The sole right to make a file, for the length of the block; its folder is made where it is missing.

    A process that was killed claims nothing. Where the file system has no locks, the block runs without one.

    Args:
        file: what is to be made; others in its folder can be made by others.

    Raises:
        InUseError: another process makes it.
        StorageError: its folder cannot be written.
    """
    lock = file.with_name(leftover_name(file.name))
    try:
        handle = _acquired(lock, file)
    except OSError as error:
        raise storage_error(file, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_at(handle, lock):
                lock.unlink()
        os.close(handle)


def _acquired(file: Path, what: Path, wait: float = 0.0) -> int:
    """The handle of a lock file, locked; `what` is that to which it gives the right."""
    end = time.monotonic() + wait
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            mine = locked(handle)
        except OSError:
            return handle
        if mine and is_at(handle, file):  # else the holder before removed it in between
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(_this_process()).encode())
            return handle
        os.close(handle)
        if not mine and time.monotonic() >= end:
            raise InUseError(
                f"{what} is in use by {_holder(file)}. Wait until that ends and repeat the command, or choose another "
                "--out."
            )
        time.sleep(0 if mine else _PAUSE)


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}


def _holder(file: Path) -> str:
    """Who wrote its name into a lock file; a holder that has not written it yet is given the time to do so."""
    end = time.monotonic() + _TO_SIGN
    while True:
        try:
            signed = json.loads(file.read_text(encoding="utf-8"))
            return f"process {signed['pid']} on {signed['host']} since {signed['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            if time.monotonic() >= end:
                return "another process"
            time.sleep(_PAUSE)
