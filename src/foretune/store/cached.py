"""Folders in the cache that are made once: by one process at a time, whole, and made again when they are damaged.

A damaged one is removed where its own list of files is intact and names all that it holds; any other is moved aside.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from foretune.store.atomic import library_writes, moved_aside, names_in, new_folder, replacing_folder
from foretune.store.kept import DamagedError, file_checksum, read_kept, whole, write_kept
from foretune.store.lock import held

_FILE = "foretune.json"
_WAIT = 1800.0


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made on first use; of several processes one makes it, the others wait.

    Args:
        folder: where.
        make: fills a folder that it is given.

    Raises:
        StorageError: the cache cannot be written. Otherwise what `make` raises; nothing is left half written.
    """
    if _is_whole(folder, said=False):
        return folder
    with held(folder.parent, wait=_WAIT):
        if not folder.exists():
            with new_folder(folder) as temporary:
                _fill(temporary, make)
        elif not _is_whole(folder, said=True):
            if not _is_ours(folder):
                with library_writes(folder):
                    aside = moved_aside(folder)
                warnings.warn(f"{aside} was {folder}; it may hold files of yours.", stacklevel=2)
            with replacing_folder(folder) as temporary:
                _fill(temporary, make)
    return folder


def _fill(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder)
    write_kept(folder / _FILE, {"files": _checksums(folder)})


def _is_whole(folder: Path, *, said: bool) -> bool:
    """Whether the files are those that were written; a folder of an earlier version, without checksums, is trusted."""
    if not folder.is_dir():
        return False
    if any(folder.iterdir()) and not (folder / _FILE).exists():
        return True
    try:
        kept, found = read_kept(folder / _FILE)["files"], whole(folder, lambda: _checksums(folder))
        for name, expected in kept.items():
            if found.get(name) != expected:
                raise DamagedError(folder / name, "it is not the file that was written")
    except DamagedError as error:
        if said:
            warnings.warn(f"{error} It is made again.", stacklevel=3)
        return False
    return True


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but files of the list that was written with it."""
    try:
        kept, found = read_kept(folder / _FILE)["files"], {str(file.relative_to(folder)) for file in _files(folder)}
    except DamagedError:
        return not names_in(folder)
    return found <= {*kept}


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if not file.is_dir() and file != folder / _FILE]


def _checksums(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file_checksum(file) for file in _files(folder) if file.is_file()}
