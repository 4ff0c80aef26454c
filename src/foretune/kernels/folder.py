"""Kernel folders: one array in zarr format and one readable description.

    kernel.json      names, shape, tile sizes, and everything that determines the values, with its hash
    tiles/I-J.npy    finished tiles of an unfinished kernel
    kernel.zarr/     float64 (b, n, c, m, d), once all tiles are there; numpy and zarr read it without foretune

Tiles and the array are written under a temporary name and renamed, so that a run killed at any point continues with
the missing tiles and ends with the same bits. Each carries a checksum: a damaged tile is computed again, a damaged array
is refused. What stands under the name of a tile and was never one (`store.arrays.parts`) is left as it is: an
unfinished kernel is refused beside it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretune.errors import KernelFolderError, StorageError
from foretune.store.arrays import bytes_of, parts, read_array, refuse_foreign_parts, write_array
from foretune.store.atomic import new_folder
from foretune.store.kept import DamagedError, FolderKind, checksum, identity_hash, refuse_streams, whole
from foretune.store.lock import held
from foretune.store.workspace import sweep

KERNEL = FolderKind(
    "kernel",
    "kernel.json",
    2,
    "Make the kernel again in a new folder: `foretune kernel MODEL DATA --out NEW`, with --config and the run.yaml of this "
    "run.",
    folders=("tiles", "kernel.zarr"),
)
FEATURES_FILE = "features.json"
"""The description of a folder that holds a kernel as features (`kernels.feature_folder`)."""
_AXES = ("block", "row", "row_output", "column", "column_output")
_CHECKSUM = "foretune_checksum"
WAIT = 60.0


class KernelFolder:
    """A kernel folder that is being written, tile by tile.

    Args:
        path: the folder.
        names, shape: block names and array shape (b, n, c, m, d).
        identity: everything that determines the values.

    Attributes:
        plan: sizes that fix the tiles of a kernel that was begun before, else None: `begin` sets them.

    Raises:
        UsageError: the folder belongs to another computation, or is something else.
        StorageError: it cannot be read.
    """

    def __init__(
        self, path: Path, names: Sequence[str], shape: tuple[int, ...], identity: Mapping[str, object]
    ) -> None:
        self.path, self.names, self.shape = path, list(names), tuple(shape)
        self.plan: Mapping[str, Any] | None = None
        self._identity, self._hash = dict(identity), identity_hash(identity)
        before = KERNEL.described(path)
        if before is not None:
            self._adopt(before)
        sweep(path)
        if self.finished:
            _drop_tiles(path)
        else:
            refuse_foreign_parts(path / "tiles")

    def _adopt(self, before: Mapping[str, Any]) -> None:
        """Go on with the kernel that was begun here, if it is this one."""
        then, now = before["identity"], self._identity
        array = ("names", "shape")
        KERNEL.refuse_other(
            self.path,
            {**then, **{name: before[name] for name in array}},
            {**now, **{name: getattr(self, name) for name in array}},
        )
        self.plan = before["plan"]
        if not self.finished and before["threads"] != torch.get_num_threads():
            warnings.warn(
                f"{self.path} was begun with {before['threads']} threads and goes on with {torch.get_num_threads()}: the "
                "last digits of the new tiles may depend on that. Set OMP_NUM_THREADS to have the same bits.",
                stacklevel=3,
            )

    def begin(self, plan: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write the description of a new kernel; returns its plan, which is that of another process that came first.

        Raises:
            UsageError: another process has begun another kernel here.
            StorageError: the disk is full or the folder cannot be written.
        """
        with held(self.path, wait=WAIT):
            before = KERNEL.described(self.path)
            if before is not None:
                self._adopt(before)
            else:
                self.plan = dict(plan)
                array = {"names": self.names, "shape": list(self.shape)}
                others = {**array, "plan": self.plan, "threads": torch.get_num_threads()}
                KERNEL.describe(self.path, self._identity, others)
        return self.plan or plan

    @property
    def finished(self) -> bool:
        """Whether all values are on the disk."""
        return is_finished(self.path)

    def tile(self, name: str) -> np.ndarray | None:
        """A tile that is on the disk already, or None; a damaged one is named and counts as missing."""
        file = self.path / "tiles" / f"{name}.npy"
        if not file.exists():
            return None
        try:
            return read_array(file, self._tile_identity(name))
        except DamagedError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
            return None

    def has_tile(self, name: str) -> bool:
        """Whether a tile is on the disk, whole or damaged."""
        return (self.path / "tiles" / f"{name}.npy").exists()

    def write_tile(self, name: str, values: np.ndarray) -> None:
        """Write one tile.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        write_array(self.path / "tiles" / f"{name}.npy", values, self._tile_identity(name))

    def _tile_identity(self, name: str) -> str:
        return identity_hash({"kernel": self._hash, "plan": self.plan, "tile": name})

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
        with new_folder(self.path / "kernel.zarr") as temporary:
            stored = zarr.create_array(
                temporary,
                shape=array.shape,
                chunks=chunks,
                dtype="float64",
                dimension_names=_AXES,
                overwrite=True,
                attributes={_CHECKSUM: _array_checksum(array)},
            )
            stored[:] = array
        _drop_tiles(self.path)

    def read(self) -> np.ndarray:
        """The finished array.

        Raises:
            DamagedError: it is not what was written.
        """
        return _stored_array(self.path, self.shape)


def _array_checksum(array: np.ndarray) -> str:
    return checksum(bytes_of(array))


def _drop_tiles(path: Path) -> None:
    """Remove the tiles of a finished kernel, and nothing else that may stand there."""
    tiles = path / "tiles"
    sweep(tiles)
    with contextlib.suppress(OSError):
        own, foreign = parts(tiles)
        for file in own:
            file.unlink(missing_ok=True)
        for file in foreign:
            warnings.warn(f"{file} is not a tile that foretune wrote, and stays.", stacklevel=3)
        tiles.rmdir()


def _stored_array(path: Path, shape: Sequence[int]) -> np.ndarray:
    """The array of a finished kernel; chunks that are missing would be read as zeros, which the checksum tells."""
    import zarr

    stored = path / "kernel.zarr"

    def read() -> np.ndarray:
        for file in stored.rglob("*"):
            if not file.is_dir():
                refuse_streams(file)
        found = whole(stored, lambda: zarr.open_array(stored, mode="r"))
        if (found.shape, str(found.dtype)) != (tuple(shape), "float64"):
            raise DamagedError(stored, f"it is {found.dtype} of shape {found.shape}, expected float64 {tuple(shape)}")
        array = whole(stored, lambda: np.asarray(found[:]))
        if found.attrs.get(_CHECKSUM) != _array_checksum(array):
            raise DamagedError(stored, "a part is missing or its checksum does not fit its values")
        return array

    return KERNEL.whole(path, read)


def read_description(path: Path) -> dict[str, Any]:
    """The description of a kernel folder.

    Raises:
        UsageError, KernelFolderError: there is none.
        StorageError: this version cannot read it.
    """
    if (path / FEATURES_FILE).is_file() and not KERNEL.is_in(path):
        raise KernelFolderError(
            f"{path} holds kernels as features: it has no {KERNEL.file} but {FEATURES_FILE}. `foretune.read_features` "
            "reads it in Python, `foretune solve` and `foretune show` read the folder of the run."
        )
    description = KERNEL.described(path)
    if description is None:
        raise KernelFolderError(
            f"{path} is not a kernel folder: it has no {KERNEL.file}. Make one with `foretune kernel`."
        )
    return description


def is_finished(path: Path) -> bool:
    """Whether all values of a kernel folder are on the disk."""
    return (path / "kernel.zarr").exists()


def read_folder(path: Path) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """Names, array and identity of a finished kernel folder.

    Raises:
        UsageError, KernelFolderError: no kernel there, or an unfinished one.
        StorageError: it is damaged.
    """
    description = read_description(path)
    if not is_finished(path):
        raise KernelFolderError(f"{path} is unfinished. Repeat the command that made it: it goes on where it stopped.")
    return description["names"], _stored_array(path, description["shape"]), description["identity"]


def write_folder(path: Path, names: Sequence[str], array: np.ndarray, identity: Mapping[str, object]) -> None:
    """Write a finished kernel.

    Raises:
        UsageError: the folder holds another computation.
        StorageError: it cannot be written.
    """
    values = _array_checksum(array)
    folder = KernelFolder(path, names, array.shape, identity or {"values": values})
    if not folder.finished:
        folder.begin({})
        folder.finish(array)
