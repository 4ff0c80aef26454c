"""Folders of tangent features: one file for each chunk of examples, written whole, and one readable description.

    features.json           names of the blocks, numbers per block, and everything that determines the values, with its hash
    chunks/START-STOP.npy   float32 of examples START to STOP - 1, block after block (examples, c, width of the block) in
                            one row, with a checksum; `np.load` reads it

A run that is killed goes on with the missing chunks. A damaged one is named and computed again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foretune.kernels.folder import WAIT
from foretune.shapes import Float32
from foretune.store.kept import DamagedError, FolderKind, identity_hash, read_array, write_array
from foretune.store.lock import held
from foretune.store.workspace import sweep

FEATURES = FolderKind(
    "feature",
    "features.json",
    2,
    "Make the features again in a new folder: `foretune forecast MODEL DATA --features sketched --out NEW`.",
    folders=("chunks",),
)


class FeatureFolder:
    """A folder of features that is being written, chunk by chunk.

    Args:
        path: the folder.
        identity: everything that determines the values.
        others: what else the description says.

    Raises:
        UsageError: the folder belongs to another computation, or is something else.
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, object], others: Mapping[str, object]) -> None:
        self.path, self._hash = path, identity_hash(identity)
        with held(path, wait=WAIT):
            before = FEATURES.described(path)
            if before is None:
                FEATURES.describe(path, identity, others)
            else:
                FEATURES.refuse_other(path, before["identity"], identity)
        sweep(path / "chunks")

    def chunk(self, places: range, kinds: str) -> Path | None:
        """The file of a chunk that is on the disk already; None where it is missing, or damaged, which is said.

        Args:
            places: of its examples.
            kinds: which parameters had no factor rule.
        """
        file = self.file(places)
        if not file.exists():
            return None
        try:
            read_array(file, self._of(places, kinds))
        except DamagedError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
            return None
        return file

    def write(self, places: range, kinds: str, values: Float32[np.ndarray, " _"]) -> Path:
        """Write one chunk; its file.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        write_array(self.file(places), values, self._of(places, kinds))
        return self.file(places)

    def file(self, places: range) -> Path:
        """Where the chunk of these examples is, or will be."""
        return self.path / "chunks" / f"{places.start}-{places.stop}.npy"

    def _of(self, places: range, kinds: str) -> str:
        return identity_hash({"features": self._hash, "places": [places.start, places.stop], "direct": kinds})
