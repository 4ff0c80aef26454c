"""The sole right to write to a folder: a lock that ends with the process, and a message that names its holder."""

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
from foretune.store.workspace import LOCK_FILE, is_at, locked

_PAUSE = 0.05
_MINE: set[tuple[Path, int]] = set()
"""The folders that this process holds, each with the thread that does."""
_TO_SIGN = 1.0
"""Seconds that a holder may take between locking its file and writing its name there."""


@contextmanager
def held(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for the length of the block; it is made where it is missing.

    A process that was killed holds nothing, and who holds the folder already goes on. Where the file system has no
    locks, the block runs without one.

    Args:
        folder: what is written to.
        wait: seconds to wait for another process.

    Raises:
        StorageError: another process holds it, or it cannot be written.
    """
    mine = (Path(os.path.realpath(folder)), threading.get_ident())
    if mine in _MINE:
        yield
        return
    try:
        made = not folder.exists()
        handle = _acquired(folder, wait)
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


def _acquired(folder: Path, wait: float) -> int:
    """The handle of the lock file, locked."""
    file, end = folder / LOCK_FILE, time.monotonic() + wait
    while True:
        folder.mkdir(parents=True, exist_ok=True)
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
            raise StorageError(
                f"{folder} is in use by {_holder(file)}. Wait until that ends and repeat the command, or choose another "
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
