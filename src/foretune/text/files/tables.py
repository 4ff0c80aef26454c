"""Delimited files (.csv, .tsv): a header, one record a row, and quotes that may or may not be quotes.

In a .csv file quotes are read as RFC 4180 and spreadsheets write them. A .tsv file is often written without quoting (GLUE,
LM-BFF): there `"` is a character of the text, and reading it as a quote lays rows together. It is read with quotes only
where they are consistent: every field that starts with one ends with one, those inside are doubled, and quotes are needed
(a field holds a quote, a tab or a line end) or stand around a whole column.

A quoted field that spans lines which are rows by themselves is refused: it holds the labels of other rows.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from foretune.errors import DataError
from foretune.text.files.content import Reading, file_text

Rows = list[dict[str, object]]
Record = tuple[int, int, list[str]]
"""First and last line of a record, from 1, and its fields."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.S)
_OTHERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


def table_rows(path: Path, reading: Reading, tabs: bool) -> tuple[Rows, list[str]]:
    """The rows of a delimited file, and notes on how it was read.

    Args:
        path: the file.
        reading: delimiter and encoding, where they are not the usual ones.
        tabs: the file's name says that tabs separate its fields.

    Raises:
        DataError: no header or one with a name twice, a record that does not fit it, or quotes that do not close or that
            lay rows together; the message names the line.
    """
    text = file_text(path, reading)
    named = re.match(r'sep=([^"\r\n])\r?\n', text)  # Excel's own line for the delimiter
    text = text if named is None else "\n" + text[named.end() :]  # the numbers of lines stay
    delimiter = reading.delimiter or (named[1] if named is not None else "\t" if tabs else ",")
    with _any_field_length():
        if delimiter == "\t" and '"' in text:
            records, notes = _tab_records(path, text)
        else:
            records, notes = _quoted_records(path, text, delimiter), []
    if not records:
        return [], notes
    names = _names(path, records[0][2], delimiter)
    for first, _, fields in records[1:]:
        if len(fields) != len(names):
            count = "1 field does" if len(fields) == 1 else f"{len(fields)} fields do"
            raise DataError(
                f"{path}, line {first}: {count} not fit the header, which has {len(names)} "
                f"({', '.join(map(repr, names))}). Check the quotes and the delimiter of that line."
            )
    _refuse_merged(path, text, records, delimiter)
    spaced = len(names) > 1 and all(name[:1] == " " for name in names[1:])
    stripped = [name.strip() for name in names]
    return [dict(zip(stripped, fields, strict=True)) for _, _, fields in records[1:]], [
        *notes,
        *(["Blanks around the names of columns were dropped."] if spaced or stripped != names else []),
    ]


@contextmanager
def _any_field_length() -> Iterator[None]:
    """Fields of any length: the csv module refuses those above 131,072 characters."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(text: str, delimiter: str, quoting: Literal[0, 3], *, skip_blanks: bool = False) -> list[Record]:
    """The records of a text, blank lines left out.

    Raises:
        csv.Error: a quote does not close, or something follows one.
    """
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=skip_blanks
    )
    found, line = [], 0
    for fields in reader:
        if fields:
            found.append((line + 1, reader.line_num, fields))
        line = reader.line_num
    return found


def _quoted_records(path: Path, text: str, delimiter: str) -> list[Record]:
    header = re.match(r"[^\r\n]*", text)
    names = [] if header is None else header[0].split(delimiter)
    spaced = len(names) > 1 and all(name[:1] == " " for name in names[1:])
    try:
        return _records(text, delimiter, csv.QUOTE_MINIMAL, skip_blanks=spaced)
    except csv.Error as error:
        line = _failing_line(text, delimiter)
        raise DataError(
            f"{path}, line {line}: the quotes of the record that starts here do not fit ({error}). A text that holds a "
            'quote stands in quotes, with those inside doubled ("he said ""no"""). Mend the line, or write JSON lines.'
        ) from error


def _failing_line(text: str, delimiter: str) -> int:
    """Where the record starts that cannot be read."""
    reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 0
    try:
        for _ in reader:
            line = reader.line_num
    except csv.Error:
        pass
    return line + 1


def _tab_records(path: Path, text: str) -> tuple[list[Record], list[str]]:
    """The records of a text with tabs and quotes, with or without quoting, and what was done."""
    plain = _records(text, "\t", csv.QUOTE_NONE)
    if len({len(fields) for _, _, fields in plain}) > 1:  # a field has tabs or line ends: only quotes can hold them
        return _quoted_records(path, text, "\t"), []
    odd = _odd_quotes(plain)
    if odd is None:
        return _quoted_records(path, text, "\t"), []
    return plain, [f"Quotes are read as characters of the text: line {odd} has one that does not enclose a field."]


def _odd_quotes(plain: Sequence[Record]) -> int | None:
    """The first line with a quote that is not one of consistent quoting; None where there is none."""
    columns = zip(*(fields for _, _, fields in plain[1:]), strict=True)
    whole = [all(_QUOTED.fullmatch(field) for field in column) for column in columns]
    for first, _, fields in plain:
        for place, field in enumerate(fields):
            if '"' not in field:
                continue
            needed = '"' in field[1:-1] or (place < len(whole) and whole[place])
            if not _QUOTED.fullmatch(field) or not needed:
                return first
    return None


def _names(path: Path, names: list[str], delimiter: str) -> list[str]:
    """The header's names, each once.

    Raises:
        DataError: a name stands there twice, or another delimiter was meant.
    """
    if len(names) == 1:
        other = next((mark for mark in _OTHERS if mark != delimiter and mark in names[0]), None)
        if other is not None:
            raise DataError(
                f"{path} has one column only, {names[0]!r}: its fields seem to be separated by "
                f"{'tabs' if other == chr(9) else repr(other)}. Add --delimiter {_OTHERS[other]}."
            )
    stripped = [name.strip() for name in names]
    twice = next((name for name in stripped if name and stripped.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the header names the column {twice!r} twice. Rename one of them in the first line.")
    return names


def _refuse_merged(path: Path, text: str, records: Sequence[Record], delimiter: str) -> None:
    """See that no quoted field holds whole rows.

    A record of several lines is refused where each of its lines has as many fields as the header, and in some column all
    their values stand in other records too: those are labels of rows of their own.

    Raises:
        DataError: one does.
    """
    long = [record for record in records[1:] if record[1] > record[0]]
    if not long:
        return
    width, lines = len(records[0][2]), re.split(r"\r\n|\r|\n", text)
    known: list[set[str]] = [set() for _ in range(width)]
    for first, last, fields in records[1:]:
        if first == last:
            for values, field in zip(known, fields, strict=True):
                values.add(field)
    for first, last, _ in long:
        parts = [line.split(delimiter) for line in lines[first - 1 : last] if line]
        if len(parts) < 2 or any(len(part) != width for part in parts):
            continue
        if any(all(part[place] and part[place] in known[place] for part in parts) for place in range(width)):
            raise DataError(
                f"{path}, lines {first} to {last}: a quote opens in line {first} and closes in line {last}, and each of "
                'these lines is a row by itself. If quotes are characters of the texts, double them ("he said ""no"""), '
                "write a .tsv file without quoting, or write JSON lines."
            )


def header_hint(rows: Sequence[Mapping[str, object]]) -> str:
    """A hint for a file whose first line seems to be a row and not the names of columns; empty where it does not."""
    names = list(rows[0]) if rows else []
    seen = any(name and any(row.get(name) == name for row in rows[:200]) for name in names)
    prose = any(name.count(" ") >= 3 or name.replace(".", "", 1).lstrip("-").isdigit() for name in names)
    if not seen and not prose:
        return ""
    return " The first line is read as the names of columns; if it is a row, put a line such as text,label on top."
