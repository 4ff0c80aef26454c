"""Columns on disk: Parquet files, Arrow files, and the folders of `datasets.Dataset.save_to_disk`.

The `datasets` library writes its features beside the values; a `ClassLabel` column holds numbers, and its names are there.
-1 in such a column marks a row without a label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretune.errors import DataError
from foretune.text.files.classes import LabelNames, Rows, class_names, named_classes
from foretune.text.files.content import file_bytes


def parquet_rows(path: Path, names: LabelNames | None = None) -> Rows:
    """The rows of a Parquet file, class numbers as names.

    Args:
        path: the file.
        names: of class numbers, where the file has none itself.

    Raises:
        DataError: the file is damaged or has a column twice.
    """
    import pyarrow.parquet

    def table(source: Any) -> Any:
        file = pyarrow.parquet.ParquetFile(source)
        _refuse_repeated(path, file.schema_arrow.names)
        return file.read()

    return _table_rows(path, table, names or {})


def arrow_rows(path: Path) -> Rows:
    """The rows of an Arrow file or stream, class numbers as names.

    Raises:
        DataError: the file is damaged or has a column twice.
    """
    import pyarrow

    def table(source: Any) -> Any:
        try:
            return pyarrow.ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:
            source.seek(0)
            return pyarrow.ipc.open_stream(source).read_all()

    return _table_rows(path, table, {})


def saved_rows(folder: Path) -> Rows:
    """The rows of a folder that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: a file is missing or damaged.
    """
    state = folder / "state.json"
    try:
        files = [str(item["filename"]) for item in json.loads(file_bytes(state))["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{state} is damaged: {error!r}. Save the dataset again.") from error
    return [row for file in files for row in arrow_rows(folder / Path(file).name)]


def _table_rows(path: Path, read: Any, names: LabelNames) -> Rows:
    import pyarrow

    content = file_bytes(path)
    try:
        table = read(pyarrow.BufferReader(content))
        _refuse_repeated(path, table.column_names)
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {_first_line(error)} Expected a whole {path.suffix} file.") from error
    return named_classes(path, rows, _class_names(table.schema.metadata) or names)


def _refuse_repeated(path: Path, columns: Sequence[str]) -> None:
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has the column {twice!r} twice. Rename one of them.")


def _class_names(metadata: Mapping[bytes, bytes] | None) -> LabelNames:
    """The names that `datasets` keeps in the metadata of a schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: names
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
            if (names := class_names(feature.get("names")))
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
