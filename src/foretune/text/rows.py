"""Rows from a file, whatever its format, or from a dataset of the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from foretune.errors import DataError, UsageError, nearest
from foretune.store.hub import hub_answers, local_copies_only
from foretune.text.example import Rows
from foretune.text.files.arrow import arrow_rows, parquet_rows, saved_rows
from foretune.text.files.content import Reading, broken_link
from foretune.text.files.records import json_line_rows, json_rows
from foretune.text.files.tables import header_hint, table_rows

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
SUFFIXES = (*FORMATS, *(f"{suffix}.gz" for suffix in FORMATS[:5]))
"""Ends of the names of files of rows; those of text may be packed."""

_EXPECTED = f"{', '.join(FORMATS)} (those of text also as .gz)"
_REMEDIES = {
    ".txt": "A plain text file has no columns: write a .csv or .jsonl file with a text and a label in each row.",
    ".xlsx": "Save the sheet as CSV UTF-8.",
    ".xls": "Save the sheet as CSV UTF-8.",
    ".ods": "Save the sheet as CSV UTF-8.",
    ".pkl": "Pickle files are never opened: save the rows as Parquet or CSV.",
    ".pickle": "Pickle files are never opened: save the rows as Parquet or CSV.",
    ".pt": "Pickle files are never opened: save the rows as Parquet or CSV.",
    ".zip": "Unpack it first.",
    ".tar": "Unpack it first.",
    ".tgz": "Unpack it first.",
    ".gz": "Unpack it first, or give it the name of what is inside, such as rows.csv.gz.",
    ".bz2": "Unpack it first.",
    ".xz": "Unpack it first.",
    ".zst": "Unpack it first.",
}
_OTHER_SHAPES = {
    "for generation": (
        {"prompt", "completion"},
        {"instruction", "output"},
        {"input", "output"},
        {"chosen", "rejected"},
    ),
    "of conversations": ({"messages"}, {"conversations"}, {"conversation"}),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w. -]+)?")


def read_rows(
    source: str | Path, split: str = "train", revision: str | None = None, reading: Reading | None = None
) -> Rows:
    """The rows of a file, or of a hub dataset.

    Args:
        source: path of a file (see `FORMATS`), or a hub dataset id (`owner/name`, or `owner/name:configuration`).
        split: the split of a hub dataset.
        revision: branch, tag or commit of a hub dataset.
        reading: how a file of text is read.

    Raises:
        UsageError: there is no such file, and it cannot be a dataset id either.
        DataError: the file is empty, damaged or of an unknown kind.
    """
    name = str(source)
    _refuse_no_name(source, name)
    path = Path(source)
    broken = broken_link(path)
    if broken is not None:
        raise UsageError(broken)
    if _there(path):
        rows, notes = file_rows(path, reading or Reading())
    elif suffix_of(path) in SUFFIXES or path.is_absolute() or not _HUB_ID.fullmatch(name):
        remedy = _REMEDIES.get(path.suffix.lower(), "")
        raise UsageError(
            f"{_short(name)}: this file does not exist. Expected a file ({_EXPECTED}), a hub dataset id (owner/name), or a "
            f"task name: `foretune tasks` lists them. {remedy}".rstrip()
        )
    else:
        rows, notes = _hub_rows(name, split, revision)
    if not rows:
        raise DataError(f"{source} holds no rows. Expected one labelled text per row.")
    return Rows(tuple(rows), name, tuple(notes))


def suffix_of(path: Path) -> str:
    """The end of a file's name that tells its format, with `.gz` where it is packed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def file_rows(
    path: Path, reading: Reading, names: Mapping[str, list[str]] | None = None
) -> tuple[list[dict[str, object]], list[str]]:
    """The rows of a file, and notes on how it was read.

    Args:
        path: the file.
        reading: delimiter and encoding.
        names: of class numbers, where a Parquet file has none itself.

    Raises:
        UsageError: an unknown kind of file, a folder, a pipe or a device.
        DataError: it is damaged.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        if path.is_dir():
            raise UsageError(f"{path}: this file is a folder. Expected a file ({_EXPECTED}).")
        remedy = _REMEDIES.get(path.suffix.lower(), "")
        shown = suffix or "(no suffix)"
        raise UsageError(f"{path}: unknown kind of file {shown!r}. Expected {_EXPECTED}. {remedy}".rstrip())
    kind = suffix.removesuffix(".gz")
    _refuse_other_options(path, kind, reading)
    if kind in (".csv", ".tsv"):
        return table_rows(path, reading, tabs=kind == ".tsv")
    if kind == ".parquet":
        return parquet_rows(path, names), []
    if kind in (".arrow", ".feather"):
        return arrow_rows(path), []
    return (json_rows if kind == ".json" else json_line_rows)(path, reading), []


def saved_folder(folder: Path) -> Rows:
    """The rows of a folder that `datasets.Dataset.save_to_disk` wrote.

    Raises:
        DataError: a file is missing or damaged, or there are no rows.
    """
    rows = saved_rows(folder)
    if not rows:
        raise DataError(f"{folder} holds no rows. Expected one labelled text per row.")
    return Rows(tuple(rows), str(folder))


def require_columns(rows: Rows, names: Iterable[str]) -> None:
    """Check that there are columns of these names.

    Raises:
        UsageError: a column is missing; the message names the columns there are.
    """
    for name in names:
        if name not in rows.columns:
            others = list(map(str, rows.columns))
            shown = ", ".join(map(repr, others[:20])) + (f" and {len(others) - 20} more" if len(others) > 20 else "")
            raise UsageError(
                f"{rows.source} has no column {name!r}. Its columns are {shown}."
                f"{nearest(name, others)}{_other_shape(others)} Name them with --text, --text2 and --label."
                f"{header_hint(rows)}{_nested_hint(rows)}"
            )


def _other_shape(columns: Iterable[str]) -> str:
    """What to say of columns that are not for classification."""
    present = set(columns)
    for what, shapes in _OTHER_SHAPES.items():
        if any(shape <= present for shape in shapes):
            return f" These look like data {what}; foretune is for classification only: one text and one label per row."
    return ""


def _nested_hint(rows: Rows) -> str:
    nested = next((name for name in rows.columns if isinstance(rows[0].get(name), dict)), None)
    if nested is None:
        return ""
    return f" Column {nested!r} holds objects: write their parts as columns, with pandas.json_normalize for example."


def _refuse_no_name(source: object, name: str) -> None:
    """See that a source can be the name of a file.

    Raises:
        UsageError: it is empty, an address of the web, or rows themselves.
    """
    if not isinstance(source, str | Path):
        raise UsageError(
            f"Rows are read from a file, a task or a hub dataset; this is {type(source).__name__}. Rows in memory need no "
            "reading: task.few_shot(rows, k=16)."
        )
    if not name.strip():
        raise UsageError("DATA is empty. Expected a file, a folder, a task or a hub dataset id.")
    if re.match(r"[a-zA-Z][\w+.-]*://", name):
        raise UsageError(
            f"{_short(name)} is an address. Fetch the file first, with `curl -LO` for example, and pass its name."
        )


def _refuse_other_options(path: Path, kind: str, reading: Reading) -> None:
    """See that options that are given have something to do.

    Raises:
        UsageError: a delimiter for a file that has none, or an encoding for one that is not text.
    """
    if reading.delimiter is not None and kind not in (".csv", ".tsv"):
        raise UsageError(f"--delimiter is for .csv and .tsv files; {path} is a {kind} file. Leave it out.")
    if reading.encoding is not None and kind in (".parquet", ".arrow", ".feather"):
        raise UsageError(f"--encoding is for files of text; {path} is a {kind} file. Leave it out.")


def _there(path: Path) -> bool:
    """Whether something stands at a path, also what is not a regular file.

    Raises:
        DataError: nobody may look.
    """
    try:
        return path.exists()
    except PermissionError as error:
        raise DataError(f"Cannot look at {path}: a folder above it may not be entered ({error.strerror}).") from error
    except OSError:  # a name that is too long, for example
        return False


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:100]}... ({len(name):,} characters)"


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the hub client's lines on every attempt: the error says what happened."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _hub_rows(name: str, split: str, revision: str | None) -> tuple[list[dict[str, object]], list[str]]:
    """The rows of a dataset of the hub, and a note where they come from an older copy."""
    import datasets

    dataset_id, _, configuration = name.partition(":")
    online = hub_answers()
    try:
        with _quiet_hub(), nullcontext() if online else local_copies_only():
            dataset: Any = datasets.load_dataset(dataset_id, configuration or None, split=split, revision=revision)
    except Exception as error:  # the hub client raises many kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if not online and isinstance(error, ConnectionError):
            first = "the hub cannot be reached, and the local cache of datasets has no copy."
        raise DataError(
            f"Cannot load the hub dataset {name!r}, split {split!r}: {first} Offline, use a local file ({_EXPECTED}), a "
            "folder with train.* and test.* (`reproduce` and `validate`: --data DIR with one such folder per task), or the "
            "built-in rows of the task movies."
        ) from error
    labels = {
        column: feature.int2str
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    rows: list[dict[str, object]] = [
        {
            column: value if column not in labels or value is None else labels[column](value) if value >= 0 else None
            for column, value in row.items()
        }
        for row in dataset
    ]
    if online:
        return rows, []
    asked = "" if revision is None else f", which may be of another revision than {revision}"
    return rows, [f"The hub cannot be reached: {name} is the copy in the local cache{asked}."]
