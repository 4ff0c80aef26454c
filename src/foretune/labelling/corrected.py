"""A copy of a file with the likely labels instead of the suspicious ones."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foretune.errors import UsageError
from foretune.experiment.data import Found
from foretune.store.atomic import check_file, write_text
from foretune.store.json import plain
from foretune.text.cells import label_name

if TYPE_CHECKING:
    from foretune.labelling.suspicious import Suspicion

FORMATS = (".csv", ".tsv", ".jsonl")


def refuse_copy(file: Path, found: Found) -> None:
    """See, before the work, that a corrected copy can be written, and replaces nothing.

    Raises:
        UsageError: something stands there, the name has another ending, or rows are in several files.
        StorageError: the place cannot be written.
    """
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"--write {file}: expected a name that ends in {', '.join(FORMATS)}, clean.jsonl for example.")
    if os.path.lexists(file):
        raise UsageError(
            f"--write {file}: this file already exists and would be overwritten. Choose another name: --write "
            f"{shlex.quote(str(file.with_stem(f'{file.stem}-corrected')))}"
        )
    sources = [rows.source for rows in found.read.parts.values()]
    if len(sources) > 1:
        raise UsageError(
            f"--write makes a copy of one file, and the rows are in {' and '.join(sources)}. Name one of them as DATA."
        )
    check_file(file)


def write_copy(file: Path, found: Found, result: Suspicion) -> int:
    """Write all rows as they were read, those that are suspicious with their likely label.

    Args:
        file: a new one.
        found: the rows.
        result: what is suspicious.

    Returns:
        How many labels were changed.

    Raises:
        UsageError, StorageError: as in `refuse_copy`.
    """
    refuse_copy(file, found)
    changed = {row.row: row.likely for row in result.suspicious}
    rows, column = found.read.train, found.task.label
    as_written = {label_name(row[column]): row[column] for row in rows if row.get(column) is not None}
    copied = [
        {**row, column: as_written.get(changed[place], changed[place])} if place in changed else row
        for place, row in enumerate(rows)
    ]
    write_text(file, _text(file, copied, rows.columns))
    return len(changed)


def _text(file: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    if file.suffix.lower() == ".jsonl":
        return "".join(json.dumps(plain(dict(row)), ensure_ascii=False) + "\n" for row in rows)
    made = io.StringIO()
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    writer = csv.DictWriter(made, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()
