"""Folders of tangent features: one file for each chunk of examples, written whole, and one readable description.

    features.json           names and widths of the blocks, numbers of examples and outputs, and everything that determines
                            the values, with its hash; once all chunks are there, which parameters had no factor rule
    chunks/START-STOP.npy   float32 of examples START to STOP - 1, block after block (examples, c, width of the block) in
                            one row, with a checksum; `np.load` reads it

A run that is killed goes on with the missing chunks. A damaged one is named and computed again; beside a file that was
never one (`store.arrays.parts`) the folder is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foretune.errors import KernelFolderError
from foretune.kernels.features import Chunk, TangentFeatures
from foretune.kernels.folder import FEATURES_FILE, WAIT
from foretune.kernels.passing import chunks_of
from foretune.shapes import Float32
from foretune.store.arrays import check_array, refuse_foreign_parts, write_array
from foretune.store.kept import DamagedError, FolderKind, identity_hash
from foretune.store.lock import held
from foretune.store.workspace import sweep

FEATURES = FolderKind(
    "feature",
    FEATURES_FILE,
    3,
    "Make the features again in a new folder: `foretune forecast MODEL DATA --features sketched --out NEW`.",
    folders=("chunks",),
)
_FINISHED = "direct"
"""Of a description: which parameters had no factor rule, as soon as all chunks are there."""


class FeatureFolder:
    """A folder of features that is being written, chunk by chunk.

    Args:
        path: the folder.
        identity: everything that determines the values.
        others: what else the description says.

    Raises:
        UsageError: the folder belongs to another computation, or is something else.
        StorageError: it cannot be read or written, or a file of somebody else stands under the name of a chunk.
    """

    def __init__(self, path: Path, identity: Mapping[str, object], others: Mapping[str, object]) -> None:
        self.path, self._hash = path, identity_hash(identity)
        self._identity, self._others = identity, others
        with held(path, wait=WAIT):
            before = FEATURES.described(path)
            if before is None:
                FEATURES.describe(path, identity, others)
            else:
                FEATURES.refuse_other(path, before["identity"], identity)
        sweep(path / "chunks")
        refuse_foreign_parts(path / "chunks")

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
            check_array(file, self._of(places, kinds))
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
        return _chunk_file(self.path, places)

    def finish(self, kinds: str) -> None:
        """Write that all chunks are there.

        Args:
            kinds: which parameters had no factor rule.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        if FEATURES.present(self.path).get(_FINISHED) != kinds:
            FEATURES.describe(self.path, self._identity, {**self._others, _FINISHED: kinds})

    def _of(self, places: range, kinds: str) -> str:
        return _chunk_hash(self._hash, places, kinds)


def _chunk_hash(features: str, places: range, kinds: str) -> str:
    return identity_hash({"features": features, "places": [places.start, places.stop], "direct": kinds})


def has_features(path: Path) -> bool:
    """Whether a folder has all chunks of some features."""
    return FEATURES.is_in(path) and _FINISHED in FEATURES.present(path)


def read_features(folder: str | Path) -> dict[str, TangentFeatures]:
    """The tangent features of a folder; every chunk is read once, to see that it is whole, and again when it is used.

    Args:
        folder: one with features.json: `DIR/kernels/features` of `foretune forecast --out DIR`.

    Returns:
        Label of the kernel (`sgd`, `lora-r4`) -> its features.

    Raises:
        UsageError, KernelFolderError: there are none, or not all.
        StorageError: a chunk is damaged, or this version cannot read the folder.
    """
    path = Path(folder)
    described = FEATURES.described(path)
    if described is None:
        raise KernelFolderError(
            f"{path} is not a feature folder: it has no {FEATURES.file}. Make one with `foretune forecast MODEL DATA "
            "--features sketched --out NEW`."
        )
    if _FINISHED not in described:
        raise KernelFolderError(f"{path} is unfinished. Repeat the command that made it: it goes on where it stopped.")
    identity, c = described["identity"], described["outputs"]
    files = [(places, _chunk_file(path, places)) for places in chunks_of(described["examples"], identity["chunk"])]

    def checked() -> None:
        for places, file in files:
            check_array(file, _chunk_hash(described["hash"], places, described[_FINISHED]))

    FEATURES.whole(path, checked)
    chunks = [Chunk(file, len(places), c) for places, file in files]
    common = {name: value for name, value in identity.items() if name != "formulas"}
    starts, first, found = np.cumsum([0, *described["widths"]]).tolist(), 0, {}
    for (label, names), formula in zip(described["blocks"].items(), identity["formulas"], strict=True):
        own = tuple(starts[first : first + len(names) + 1])
        about = {**common, "formula": formula}
        found[label] = TangentFeatures(tuple(names), chunks, own, first, described["n"], about)
        first += len(names)
    return found


def _chunk_file(path: Path, places: range) -> Path:
    return path / "chunks" / f"{places.start}-{places.stop}.npy"
