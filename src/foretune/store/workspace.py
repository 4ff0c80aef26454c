"""Temporary folders that nobody else uses, and that a killed process does not leave for ever.

Whatever foretune writes is made in a folder `.foretune-1a2b3c4d` beside its target, and moved from there when it is
whole. The maker holds a lock (flock) on that folder, which ends with the process however the process ends: a folder of
this name that nobody holds is a leftover, counts as nothing, and is removed by the next run. Names of this form, and
`.foretune-lock`, are foretune's alone: nothing else is ever removed by its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

try:
    import fcntl
except ImportError:  # Windows: no locks, so that no leftover is known to be one
    fcntl = None

LOCK_FILE = ".foretune-lock"
_NAME = re.compile(r"\.foretune-[0-9a-f]{8}")
_TRIES = 20


def locked(handle: int) -> bool:
    """Take the lock on an open file or folder, which its closing gives back; False where another process holds it.

    Raises:
        OSError: the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no file locks on this system")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file or folder is still the one at `path`."""
    try:
        there, opened = os.lstat(path), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A folder inside `parent` for the length of the block; `parent` is made where it is missing.

    Raises:
        OSError: nothing can be written there.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    path, handle = _made(parent)
    try:
        yield path
    finally:
        remove_folder(path)
        os.close(handle)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder among the system's temporary files for the length of the block."""
    with workspace(Path(tempfile.gettempdir())) as path:
        yield path


def _made(parent: Path) -> tuple[Path, int]:
    """A new folder, and the handle that holds the lock on it."""
    for _ in range(_TRIES):
        path = parent / f".foretune-{secrets.token_hex(4)}"
        try:
            path.mkdir()
            handle = os.open(path, os.O_RDONLY)
        except (FileExistsError, FileNotFoundError):  # the name is taken, or another run has swept or removed `parent`
            parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            mine = locked(handle)
        except OSError:
            mine = True
        if mine and is_at(handle, path):
            return path, handle
        os.close(handle)
    raise OSError(errno.EAGAIN, "no temporary folder could be made", str(parent))


def is_leftover_name(name: str) -> bool:
    """Whether a name is one that foretune gives to what it keeps for a moment only."""
    return name == LOCK_FILE or _NAME.fullmatch(name) is not None


def leftover_name(text: str) -> str:
    """The name of something that is kept for a moment only, the same for the same text."""
    return f".foretune-{xxhash.xxh32_hexdigest(text.encode())}"


def contents(folder: Path) -> list[str]:
    """The names in a folder, sorted, but for what foretune keeps there for a moment only; none where there is no folder.

    A folder inside counts as nothing too where it holds nothing else.

    Raises:
        OSError: it is a file, or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not _is_nothing(entry))
    except FileNotFoundError:
        return []


def _is_nothing(entry: os.DirEntry[str]) -> bool:
    return is_leftover_name(entry.name) or (entry.is_dir(follow_symlinks=False) and not contents(Path(entry.path)))


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; what a living one holds stays."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if is_leftover_name(entry.name):
                _remove_unheld(Path(entry.path))


def sweep_tree(folder: Path) -> None:
    """`sweep` a folder and every folder in it."""
    for place, _, _ in os.walk(folder):
        sweep(Path(place))


def _remove_unheld(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        found = os.fstat(handle)
        if found.st_uid == os.getuid() and locked(handle) and is_at(handle, path):
            if stat.S_ISDIR(found.st_mode):
                remove_folder(path)
            elif stat.S_ISREG(found.st_mode):
                path.unlink(missing_ok=True)
    except OSError:
        return
    finally:
        os.close(handle)


def remove_folder(path: Path) -> None:
    """Delete a folder of foretune's own and what is in it, as far as that goes; an interruption waits until it is done."""
    with _interrupted_later():
        shutil.rmtree(path, ignore_errors=True)


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
