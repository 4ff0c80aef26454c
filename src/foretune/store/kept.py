"""Results that are kept: what they are of, and whether they are still what was written.

An identity is everything that determines a result, as plain values; a folder that holds one is the same computation, or
another one, which differs by name. A kept file carries a checksum (XXH3, 128 bits) of its values:

    JSON          {..., "checksum": ...} over all other values; some, for readers only, may be left out of it
    array         what `np.save` writes, and a last line with the checksum (`foretune.store.arrays`)
    safetensors   the checksum of names, shapes, types and bytes in the metadata (`foretune.store.tensors`)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import xxhash

from foretune.errors import StorageError, UsageError
from foretune.store.atomic import check_own_file, move_command, names_in, write_text
from foretune.store.json import is_written_json, strangers_in

T = TypeVar("T")

_KEY = "checksum"


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


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder whose contents are all of one computation, which a file in it describes.

    Attributes:
        name: what the folder holds: `kernel`, for example.
        file: name of the description, a kept file with `format` and `identity`.
        format: number of the format that this version writes and reads.
        again: what to type where the folder has another format.
        uncovered: values of the description that are for readers only.
        folders: names in it that are folders of its own, and nothing else.
    """

    name: str
    file: str
    format: int
    again: str
    uncovered: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def described(self, folder: Path, ours: Sequence[str] = ()) -> dict[str, Any] | None:
        """The description of a folder; None where the folder is empty or not there yet.

        Args:
            folder: it.
            ours: names that may stand there before the description.

        Raises:
            UsageError: it holds something else.
            DamagedError, StorageError: the description cannot be read, or is of another format.
        """
        if self.is_in(folder):
            self._refuse_strange(folder)
            return self._read(folder / self.file)
        foreign = next((name for name in strangers_in(folder) if name not in ours), None)
        if foreign is not None:
            raise UsageError(
                f"{folder} exists and is not {_a(self.name)} folder: it holds {foreign!r} but no {self.file}. Choose an "
                f"empty or new folder, or move this one: {move_command(folder)}"
            )
        return None

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has a description; a file that `--json` wrote under that name does not count.

        Raises:
            StorageError: the folder cannot be read.
        """
        return self.file in names_in(folder) and not is_written_json(folder / self.file)

    def _refuse_strange(self, folder: Path) -> None:
        for place in (folder / name for name in self.folders):
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise UsageError(
                    f"{place} is not a folder that foretune made. Choose an empty or new folder, or move this one: "
                    f"{move_command(folder)}"
                )

    def present(self, folder: Path) -> dict[str, Any]:
        """The description of a folder that has one. Errors as in `described`."""
        return self._read(folder / self.file)

    def whole(self, folder: Path, read: Callable[[], T]) -> T:
        """What `read` returns of a folder; damage comes with what to do about it.

        Raises:
            DamagedError: a file is not what was written.
        """
        try:
            return read()
        except DamagedError as error:
            raise error.with_remedy(
                f"Move that folder and repeat the command that made it: {move_command(folder)}"
            ) from error

    def _read(self, file: Path) -> dict[str, Any]:
        values = self.whole(file.parent, lambda: read_kept(file, self.uncovered, self.format))
        if values["format"] != self.format:
            by = f", written by foretune {values['foretune']}" if "foretune" in values else ""
            raise StorageError(
                f"{file} has format {values['format']}{by}; this version reads format {self.format}. {self.again}"
            )
        return values

    def describe(self, folder: Path, identity: Mapping[str, object], others: Mapping[str, object]) -> None:
        """Write the description of a folder.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        own = {"format": self.format, "hash": identity_hash(identity), "identity": dict(identity)}
        written = {**own, **{name: value for name, value in others.items() if name not in own}}
        write_kept(folder / self.file, written, self.uncovered)

    def same(self, before: Mapping[str, object], now: Mapping[str, object]) -> bool:
        """Whether two identities are of the same computation."""
        return not identity_difference(before, now)

    def refuse_other(
        self, folder: Path, before: Mapping[str, object], now: Mapping[str, object], hint: str = ""
    ) -> None:
        """See that a folder holds what is asked for.

        Args:
            folder: the folder.
            before: the identity of what it holds.
            now: the identity of what is asked for.
            hint: what else can be done than to choose another folder; by default, to move this one.

        Raises:
            UsageError: it holds something else; the message says what differs.
        """
        differing = identity_difference(before, now)
        if differing:
            raise UsageError(
                f"{folder} holds another {self.name}: it differs in {', '.join(differing)}. Choose another folder, or "
                f"{hint or f'move this one: {move_command(folder)}'}"
            )


def kept_value(
    file: Path, identity: Mapping[str, object], key: Mapping[str, object], compute: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """A result that is kept: read where the file is of the same identity, else computed and written.

    Args:
        file: where it is kept.
        identity: everything that determines it, but for the key.
        key: what else determines it, written beside it for readers.
        compute: makes it, as plain values that JSON holds.

    Raises:
        DamagedError: what stands there is not as foretune wrote it; it is left as it is.
        StorageError: the disk is full or the place cannot be written.
    """
    before = value_in(file, identity, key)
    if before is not None:
        return before
    write_kept(file, {"hash": identity_hash({**identity, **key}), "key": key, "value": compute()})
    return read_kept(file)["value"]


def value_in(file: Path, identity: Mapping[str, object], key: Mapping[str, object]) -> Any | None:
    """The value that `kept_value` keeps in a file; None where there is none of this identity and key.

    Raises:
        DamagedError: as in `kept_value`.
    """
    kept = own_values(file)
    return kept["value"] if kept is not None and is_of({**identity, **key}, kept["hash"]) else None


def own_values(file: Path) -> dict[str, Any] | None:
    """The values of a kept file; None where there is none.

    Raises:
        DamagedError: what stands there is not as foretune wrote it; it is left as it is.
    """
    if not file.exists():
        return None
    try:
        return read_kept(file)
    except DamagedError as error:
        raise error.with_remedy(f"Move it away and repeat the command: {move_command(file)}") from error


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def is_of(identity: Mapping[str, object], hash: str) -> bool:
    """Whether a hash is that of an identity."""
    return identity_hash(identity) == hash


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
    with file.open("rb") as opened:
        return stream_checksum(opened)


def stream_checksum(opened: BinaryIO, before: bytes = b"", length: int | None = None) -> str:
    """The checksum of what is read from an open file, a part in memory at a time.

    Args:
        opened: where it is read.
        before: what it covers first.
        length: how many bytes are read; all when left out.

    Raises:
        OSError: it cannot be read.
    """
    digest, part = xxhash.xxh3_128(before), 1 << 20
    left = math.inf if length is None else length
    while block := opened.read(int(min(left, part))):
        digest.update(block)
        left -= len(block)
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
