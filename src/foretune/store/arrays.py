"""Arrays in files that carry their own checksum, and what else stands where such a file belongs.

A file is what `np.save` writes and a last line with the checksum, which numpy passes over. The checksum also covers what
the array is of, so that an intact file in another file's place is noticed too.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from foretune.errors import StorageError
from foretune.store.atomic import check_own_file, move_command, replacing
from foretune.store.kept import DamagedError, checksum, refuse_streams, stream_checksum, whole

Found = TypeVar("Found")
_TRAILER = b"\nforetune:"
_TRAILER_LENGTH = len(_TRAILER) + 32 + 1
_PART = re.compile(r"\d+-\d+\.npy")


def bytes_of(array: np.ndarray) -> memoryview:
    """The numbers of an array as bytes, row by row, without a copy where they lie so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def write_array(file: Path, array: np.ndarray, of: str) -> None:
    """Write an array that `np.load` reads, with its checksum, whole or not at all.

    Args:
        file: where to.
        array: its values.
        of: what they are of.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    check_own_file(file)
    numbers, head = np.asarray(array, order="C"), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(numbers))
    content = (head.getvalue(), bytes_of(numbers))
    with replacing(file) as temporary, temporary.open("wb") as opened:
        for part in content:
            opened.write(part)
        opened.write(_TRAILER + checksum(of.encode(), *content).encode() + b"\n")


def check_array(file: Path, of: str) -> None:
    """See that a file holds what `write_array` wrote, a part in memory at a time.

    Raises:
        DamagedError: it cannot be read, or is not what was written there.
    """
    _checked(file, of, lambda _: None)


def read_array(file: Path, of: str) -> np.ndarray:
    """An array that `write_array` wrote.

    Raises:
        DamagedError: it cannot be read, or is not what was written there.
    """
    return _checked(file, of, lambda opened: np.load(opened, allow_pickle=False))


def _checked(file: Path, of: str, read: Callable[[BinaryIO], Found]) -> Found:
    """What is read from a file once its checksum fits. Raises as `check_array` does."""

    def checked() -> Found:
        with file.open("rb") as opened:
            length = max(0, opened.seek(0, io.SEEK_END) - _TRAILER_LENGTH)
            opened.seek(length)
            trailer = opened.read()
            opened.seek(0)
            if trailer != _TRAILER + stream_checksum(opened, of.encode(), length).encode() + b"\n":
                raise DamagedError(file, "its checksum does not fit its values")
            opened.seek(0)
            return read(opened)

    refuse_streams(file)
    return whole(file, checked)


def parts(folder: Path) -> tuple[list[Path], list[Path]]:
    """What stands in a folder of arrays under the name of a part, `0-64.npy`: foretune's own, and what is not.

    An array of foretune's has a last line with a checksum. So what ends in such a line is foretune's, whatever its values
    are now, and what was cut short too: an empty file, and one that ends before the last number that its head announces,
    or within the last line. An array that is whole and has no such line, as `np.save` writes it, is somebody else's.

    Raises:
        OSError: it cannot be read.
    """
    named = [file for file in sorted(folder.iterdir()) if _PART.fullmatch(file.name)] if folder.is_dir() else []
    own = [file for file in named if _is_or_was_array(file)]
    return own, [file for file in named if file not in own]


def refuse_foreign_parts(folder: Path) -> None:
    """See that no array that foretune did not write stands where a part will be written.

    Raises:
        StorageError: one does.
    """
    for file in parts(folder)[1]:
        raise StorageError(
            f"{file} is not as foretune writes its arrays, and would be overwritten. Move it: {move_command(file)}"
        )


def _is_or_was_array(file: Path) -> bool:
    """Whether `write_array` wrote a file, or what is left of it."""
    if not os.path.lexists(file):  # removed since, by a process that has finished the whole
        return True
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as opened:
        size = opened.seek(0, io.SEEK_END)
        opened.seek(max(0, size - _TRAILER_LENGTH))
        if opened.read(len(_TRAILER)) == _TRAILER:
            return True
        opened.seek(0)
        try:
            np.lib.format.read_magic(opened)
            shape, _, kind = np.lib.format.read_array_header_1_0(opened)
        except ValueError:
            opened.seek(0)
            return np.lib.format.MAGIC_PREFIX.startswith(opened.read(len(np.lib.format.MAGIC_PREFIX)))
        beyond = size - opened.tell() - math.prod(shape) * kind.itemsize
        return beyond < 0 or 0 < beyond <= _TRAILER_LENGTH
