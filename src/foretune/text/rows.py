"""Rows from a file (JSONL, JSON, CSV, TSV, Parquet) or from a dataset of the Hugging Face hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foretune.errors import DataError, UsageError, nearest
from foretune.text.example import Rows

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_rows(source: str | Path, split: str = "train", revision: str | None = None) -> Rows:
    """The rows of a file, or of a hub dataset.

    Args:
        source: path of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, or a hub dataset id (`owner/name`, or
            `owner/name:configuration`).
        split: the split of a hub dataset.
        revision: branch, tag or commit of a hub dataset.

    Raises:
        UsageError: there is no such file, and it cannot be a dataset id either.
        DataError: the file is empty, damaged or of an unknown kind.
    """
    path = Path(source)
    if path.is_file():
        rows = _file_rows(path)
    elif path.suffix.lower() in SUFFIXES or path.is_absolute() or path.exists() or "/" not in str(source):
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f"{source}: this file {what}. Expected a {', '.join(SUFFIXES)} file, a hub dataset id (owner/name), or a "
            "task name: `foretune tasks` lists them."
        )
    else:
        rows = _hub_rows(str(source), split, revision)
    if not rows:
        raise DataError(f"{source} holds no rows. Expected one labelled text a row.")
    return Rows(tuple(rows), str(source))


def require_columns(rows: Rows, names: Iterable[str]) -> None:
    """Check that every row has the named columns.

    Raises:
        UsageError: a column is missing; the message names the columns there are.
    """
    for name in names:
        if name not in rows.columns:
            raise UsageError(
                f"{rows.source} has no column {name!r}. Its columns are {', '.join(map(repr, rows.columns))}."
                f"{nearest(name, rows.columns)} Name them with --text, --text2 and --label."
            )
        for number, row in enumerate(rows, 1):
            if row.get(name) is None:
                raise DataError(f"{rows.source}: row {number} has no value in column {name!r}. Fill it in or drop it.")


def _file_rows(path: Path) -> Sequence[Mapping[str, object]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        if suffix in (".csv", ".tsv"):
            return _csv_rows(path, "\t" if suffix == ".tsv" else ",")
        if suffix == ".json":
            return _mappings(path, json.loads(path.read_text(encoding="utf-8-sig")))
        if suffix == ".jsonl":
            return _jsonl_rows(path)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, ValueError) as error:
        raise DataError(
            f"Cannot read {path}: {error}. Expected a readable {suffix} file in UTF-8; check its permissions and "
            "encoding."
        ) from error
    raise UsageError(f"{path}: unknown kind of file {suffix or '(no suffix)'!r}. Expected {', '.join(SUFFIXES)}.")


def _jsonl_rows(path: Path) -> Sequence[Mapping[str, object]]:
    rows: list[object] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}). Expected one object a line.") from error
    return _mappings(path, rows)


def _mappings(path: Path, rows: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected objects with named fields, such as {{'text': ..., 'label': ...}}.")
    return rows


def _csv_rows(path: Path, delimiter: str) -> Sequence[Mapping[str, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # the signature is dropped; quoted newlines are kept
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(
                f"{path}, record {number}: {len(row)} fields do not fit the header {reader.fieldnames}. Check the "
                "quotes and the delimiter."
            )
    return rows


def _hub_rows(name: str, split: str, revision: str | None) -> Sequence[Mapping[str, object]]:
    import datasets

    dataset_id, _, configuration = name.partition(":")
    try:
        dataset: Any = datasets.load_dataset(dataset_id, configuration or None, split=split, revision=revision)
    except Exception as error:  # the hub client raises many kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"Cannot load the hub dataset {name!r}, split {split!r}: {first} Offline, use a local file "
            f"({', '.join(SUFFIXES)}), a folder with train.* and test.*, or the "
            "built-in rows of the task movies."
        ) from error
    labels = {
        column: feature.int2str
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return [
        {column: labels[column](value) if column in labels and value >= 0 else value for column, value in row.items()}
        for row in dataset
    ]
