"""Results as JSON: numbers unrounded, infinities as strings, NaN as null."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foretune.store.atomic import names_in, write_text


def plain(value: object) -> object:
    """`value` as JSON types: dataclasses become objects without their functions, arrays lists, infinities strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: plain(item) for name, item in fields.items() if not callable(item)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def is_written_json(path: Path) -> bool:
    """Whether a file is one that `--json` wrote, and so may be replaced; an empty one is nothing yet.

    Such a file is a JSON object that says of which version it is. What a result folder keeps has a checksum, too.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - never an error; a pipe would be waited for
        return False
    try:
        with path.open("rb") as opened:
            start = opened.read(1)
            if not start:
                return True
            if start != b"{":
                return False
            found = json.loads(start + opened.read())
    except (OSError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(found, dict) and isinstance(found.get("foretune"), str) and "checksum" not in found


def strangers_in(folder: Path) -> list[str]:
    """The names in a folder, but for what `--json` wrote: an estimate of the work to come may stand there before it.

    Raises:
        StorageError: it is a file, or cannot be read.
    """
    return [name for name in names_in(folder) if not (name.endswith(".json") and is_written_json(folder / name))]


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all.

    Raises:
        UsageError: `path` is a folder.
        StorageError: the disk is full or the folder cannot be written.
    """
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """The text of a JSON file."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
