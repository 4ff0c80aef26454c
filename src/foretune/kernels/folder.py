"""Kernel folders: one array in zarr format and one readable description.

    kernel.json      names, shape, tile sizes, and everything that determines the values, with its hash
    tiles/I-J.npy    finished tiles of an unfinished kernel
    kernel.zarr/     float64 (b, n, c, m, d), once all tiles are there; numpy and zarr read it without foretune

Tiles and the array are written under a temporary name and renamed, so that a run killed at any point continues with
the missing tiles and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretune.errors import KernelFolderError, StorageError
from foretune.store.atomic import remove_folder, replacing, replacing_folder, storage_error, write_text

_FORMAT = 1
_AXES = ("block", "row", "row_output", "column", "column_output")


def identity_hash(identity: Mapping[str, object]) -> str:
    """A hash of everything that determines the values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def identity_difference(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The names under which two identities differ, one of them read back from JSON."""
    then, asked = (json.loads(json.dumps(dict(identity), default=str)) for identity in (before, now))
    return sorted(key for key in {*then, *asked} if then.get(key) != asked.get(key))


class KernelFolder:
    """A kernel folder that is being written, tile by tile.

    Args:
        path: the folder.
        names, shape: block names and array shape (b, n, c, m, d).
        identity: everything that determines the values.

    Attributes:
        plan: sizes that fix the tiles of a kernel that was begun before, else None: `begin` sets them.

    Raises:
        KernelFolderError: the folder belongs to another computation, or is something else.
    """

    def __init__(
        self, path: Path, names: Sequence[str], shape: tuple[int, ...], identity: Mapping[str, object]
    ) -> None:
        self.path, self.names, self.shape = path, list(names), tuple(shape)
        self.plan: Mapping[str, Any] | None = None
        self._description = {
            "format": _FORMAT,
            "hash": identity_hash(identity),
            "names": self.names,
            "shape": list(shape),
            "identity": dict(identity),
        }
        if (path / "kernel.json").exists():
            before = read_description(path)
            _refuse_other(path, before, self._description)
            self.plan = before["plan"]
            if not self.finished and before["threads"] != torch.get_num_threads():
                warnings.warn(
                    f"{path} was begun with {before['threads']} threads and goes on with {torch.get_num_threads()}: the "
                    "last digits of the new tiles may depend on that. Set OMP_NUM_THREADS to have the same bits.",
                    stacklevel=2,
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise KernelFolderError(f"{path} exists and is no kernel folder. Choose an empty or new folder.")

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Write the description of a new kernel.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        self.plan = dict(plan)
        record = {**self._description, "plan": self.plan, "threads": torch.get_num_threads()}
        write_text(self.path / "kernel.json", json.dumps(record, indent=1, default=str) + "\n")

    @property
    def finished(self) -> bool:
        """Whether all values are on the disk."""
        return (self.path / "kernel.zarr").exists()

    def tile(self, name: str) -> np.ndarray | None:
        """A tile that is on the disk already, or None."""
        file = self.path / "tiles" / f"{name}.npy"
        return np.load(file, allow_pickle=False) if file.exists() else None

    def write_tile(self, name: str, values: np.ndarray) -> None:
        """Write one tile.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        with replacing(self.path / "tiles" / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)

    def finish(self, array: np.ndarray) -> None:
        """Write the whole array and drop the tiles.

        Raises:
            StorageError: an entry is undefined, the disk is full or the folder cannot be written.
        """
        import zarr

        undefined = int((~np.isfinite(array)).sum())
        if undefined:
            raise StorageError(f"The kernel has {undefined} undefined entries; it was not finished in {self.path}.")
        b, n, c, m, d = array.shape
        chunks = (b, max(1, min(n, 64)), c, max(1, min(m, 64)), d)
        with replacing_folder(self.path / "kernel.zarr") as temporary:
            stored = zarr.create_array(
                temporary, shape=array.shape, chunks=chunks, dtype="float64", dimension_names=_AXES, overwrite=True
            )
            stored[:] = array
        try:
            remove_folder(self.path / "tiles")
        except OSError as error:
            raise storage_error(self.path, error) from error

    def read(self) -> np.ndarray:
        """The finished array.

        Raises:
            KernelFolderError: it is damaged.
        """
        return _stored_array(self.path)


def _refuse_other(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if all(before[key] == now[key] for key in ("hash", "names", "shape")):
        return
    differing = identity_difference(before["identity"], now["identity"])
    raise KernelFolderError(
        f"{path} holds another kernel: it differs in {', '.join(differing) or 'its shape'}. Choose another folder, or "
        "delete this one."
    )


def _stored_array(path: Path) -> np.ndarray:
    import zarr

    try:
        return np.asarray(zarr.open_array(path / "kernel.zarr", mode="r")[:])
    except (OSError, ValueError, KeyError) as error:
        raise KernelFolderError(
            f"{path / 'kernel.zarr'} cannot be read: {error}. Delete the folder and repeat."
        ) from error


def read_description(path: Path) -> dict[str, Any]:
    """The description of a kernel folder.

    Raises:
        KernelFolderError: there is none, or this version cannot read it.
    """
    file = path / "kernel.json"
    if not file.is_file():
        raise KernelFolderError(
            f"{path} is not a kernel folder: it has no kernel.json. Make one with `foretune kernel`."
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        found = (description["format"], description["hash"] == identity_hash(description["identity"]))
    except (ValueError, KeyError, OSError) as error:
        raise KernelFolderError(
            f"{file} is damaged: {error!r}. Delete the folder and make the kernel again."
        ) from error
    if found != (_FORMAT, True):
        raise KernelFolderError(
            f"{file} has format {found[0]} (this version reads {_FORMAT}) or was changed after it was written. Make the "
            "kernel again in a new folder."
        )
    return description


def read_folder(path: Path) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """Names, array and identity of a finished kernel folder.

    Raises:
        KernelFolderError: no kernel there, or an unfinished or damaged one.
    """
    description = read_description(path)
    if not (path / "kernel.zarr").exists():
        raise KernelFolderError(f"{path} is unfinished. Repeat the command that made it: it goes on where it stopped.")
    return description["names"], _stored_array(path), description["identity"]


def write_folder(path: Path, names: Sequence[str], array: np.ndarray, identity: Mapping[str, object]) -> None:
    """Write a finished kernel.

    Raises:
        KernelFolderError: the folder holds another computation.
        StorageError: it cannot be written.
    """
    values = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    folder = KernelFolder(path, names, array.shape, identity or {"values": values})
    if not folder.finished:
        folder.begin({})
        folder.finish(array)
