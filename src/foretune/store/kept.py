"""Results that are kept: what they are of, and whether they are still what was written.

An identity is everything that determines a result, as plain values; a folder that holds one is the same computation, or
another one, which differs by name. A kept file carries a checksum (XXH3, 128 bits) of its values:

    JSON          {..., "checksum": ...} over all other values; some, for readers only, may be left out of it
    array         what `np.save` writes, and a last line with the checksum, which numpy passes over
    safetensors   the checksum of names, shapes, types and bytes in the metadata (`foretune.store.tensors`)

The checksum of an array also covers what it is of, so that an intact file in another file's place is noticed too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash

from foretune.errors import StorageError
from foretune.store.atomic import check_own_file, replacing, write_text

T = TypeVar("T")

_KEY = "checksum"
_TRAILER = b"\nforetune:"
_TRAILER_LENGTH = len(_TRAILER) + 32 + 1


class DamagedError(StorageError):
    """A file that is not what was written to it; the message names it and says why."""

    def __init__(self, file: Path, why: object, remedy: str = "") -> None:
        super().__init__(f"{file} is damaged or was changed after it was written: {why}. {remedy}".rstrip())
        self.file, self.why = file, why

    def with_remedy(self, remedy: str) -> DamagedError:
        """The same, with what to do about it."""
        return DamagedError(self.file, self.why, remedy)


def identity_hash(identity: Mapping[str, object]) -> str:
    """A hash of everything that determines a result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def identity_difference(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The names under which two identities differ, one of them read back from JSON."""
    then, asked = (json.loads(json.dumps(dict(identity), default=str)) for identity in (before, now))
    return sorted(key for key in {*then, *asked} if then.get(key) != asked.get(key))


def checksum(*parts: bytes | memoryview) -> str:
    """XXH3 (128 bits) of some bytes, in hexadecimal."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def file_checksum(file: Path) -> str:
    """The checksum of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_kept(file: Path, values: Mapping[str, object], uncovered: Sequence[str] = ()) -> None:
    """Write values as JSON with their checksum, whole or not at all.

    Args:
        file: where to.
        values: what JSON holds; other objects are written as their `str`.
        uncovered: names of values for readers only, which the checksum leaves out.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    check_own_file(file)
    plain = json.loads(json.dumps(values, default=str))
    write_text(file, json.dumps({**plain, _KEY: _values_checksum(plain, uncovered)}, indent=1) + "\n")


def read_kept(file: Path, uncovered: Sequence[str] = (), format: int | None = None) -> dict[str, Any]:
    """The values of a kept file.

    Args:
        file: it.
        uncovered: as it was written.
        format: what its "format" says; a file of another format comes back unchecked, for its reader to refuse.

    Raises:
        DamagedError: it cannot be read, or its values are not those that were written.
    """
    refuse_streams(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(file, _reason(error)) from error
    if not isinstance(values, dict):
        raise DamagedError(file, f"it holds {type(values).__name__}, expected an object")
    if format is not None and isinstance(values.get("format"), int) and values["format"] != format:
        return values
    if _KEY not in values:
        raise DamagedError(file, "it has no checksum, as those of older versions")
    if values.pop(_KEY) != _values_checksum(values, uncovered):
        raise DamagedError(file, "its checksum does not fit its values")
    return values


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
    with replacing(file) as temporary:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        content = buffer.getbuffer()
        with temporary.open("wb") as opened:
            opened.write(content)
            opened.write(_TRAILER + checksum(of.encode(), content).encode() + b"\n")


def read_array(file: Path, of: str) -> np.ndarray:
    """An array that `write_array` wrote.

    Raises:
        DamagedError: it cannot be read, or is not what was written there.
    """
    refuse_streams(file)
    try:
        written = file.read_bytes()
    except OSError as error:
        raise DamagedError(file, _reason(error)) from error
    content, trailer = written[:-_TRAILER_LENGTH], written[-_TRAILER_LENGTH:]
    if trailer != _TRAILER + checksum(of.encode(), content).encode() + b"\n":
        raise DamagedError(file, "its checksum does not fit its values")
    return np.load(io.BytesIO(content), allow_pickle=False)


def refuse_streams(file: Path) -> None:
    """See that reading a file comes to an end.

    Raises:
        DamagedError: it is a pipe or a device.
    """
    if file.exists() and not file.is_file():
        raise DamagedError(file, "it is not a regular file")


def whole(file: Path, read: Callable[[], T]) -> T:
    """What a library reads from a file; whatever it says of damaged bytes becomes one error.

    Raises:
        DamagedError: the library failed.
    """
    try:
        return read()
    except (StorageError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise DamagedError(file, _reason(error)) from error


def _values_checksum(values: Mapping[str, Any], uncovered: Sequence[str]) -> str:
    covered = {name: value for name, value in values.items() if name not in uncovered}
    return checksum(json.dumps(covered, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [""])[0] or type(error).__name__
