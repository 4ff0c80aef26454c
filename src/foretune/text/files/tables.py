"""Delimited files (.csv, .tsv): a header, one record a row, and quotes that may or may not be quotes.

In a .csv file quotes are read as RFC 4180 and spreadsheets write them. A .tsv file is often written without quoting (GLUE,
LM-BFF): there `"` is a character of the text, and reading it as a quote lays rows together. It is read with quotes only
where they are consistent: every field that starts with one ends with one, those inside are doubled, and quotes are needed
(a field holds a quote, a tab or a line end) or stand around a whole column.

A quoted field that spans lines is refused where two of them look like rows: it holds the labels of other rows. A text of
two lines may have the form of two rows, the first with a label that occurs nowhere else: no rule tells them apart, so that
the lines of texts of several lines are always said.
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
from foretune.text.files.classes import Rows
from foretune.text.files.content import Reading, file_text

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
    _refuse_rows_in_header(path, records[0], delimiter)
    names = _names(path, records[0][2], delimiter)
    for first, _, fields in records[1:]:
        if [field.removeprefix("\ufeff") for field in fields] == records[0][2]:
            raise DataError(
                f"{path}, line {first} repeats the header, as in files that were joined with their first lines. Delete "
                "that line."
            )
        if len(fields) != len(names):
            count = "1 field does" if len(fields) == 1 else f"{len(fields)} fields do"
            raise DataError(
                f"{path}, line {first}: {count} not fit the header, which has {len(names)} "
                f"({', '.join(map(repr, names))}). Check the quotes and the delimiter of that line."
            )
    merged = _merged(text, records, delimiter)
    if merged is not None:
        first, last = merged
        raise DataError(
            f"{path}, lines {first} to {last}: a quote opens in line {first} and closes in line {last}, and the lines "
            'between look like rows. If quotes are characters of the texts, double them ("he said ""no"""), write a .tsv '
            "file without quoting, or write JSON lines; if these lines are one text, write JSON lines."
        )
    spaced = len(names) > 1 and all(name[:1] == " " for name in names[1:])
    stripped = [name.strip() for name in names]
    return [dict(zip(stripped, fields, strict=True)) for _, _, fields in records[1:]], [
        *notes,
        *(_several_lines(records) if delimiter != "\t" else []),
        *(["Blanks around the names of columns were dropped."] if spaced or stripped != names else []),
    ]


def _refuse_rows_in_header(path: Path, header: Record, delimiter: str) -> None:
    """See that no quote in the header swallows rows.

    Raises:
        DataError: the name of a column has lines with delimiters in them.
    """
    first, last, names = header
    if any(delimiter in name and ("\n" in name or "\r" in name) for name in names):
        raise DataError(
            f"{path}, lines {first} to {last}: a quote opens in the header and closes in line {last}, so that lines of "
            "rows are read as the name of a column. Close the quote in the header, or write JSON lines."
        )


def _several_lines(records: Sequence[Record]) -> list[str]:
    """A note on texts of several lines, where there are any: rows that a quote lays together may look the same."""
    found = [(first, last) for first, last, _ in records[1:] if last > first]
    if not found:
        return []
    first, last = found[0]
    count = "1 text has" if len(found) == 1 else f"{len(found)} texts have"
    where = f"lines {first} to {last} of the file" + (", for example" if len(found) > 1 else "")
    return [f"{count} several lines ({where}). If these are rows, a quote in line {first} joins them."]


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
    width = len(plain[0][2])
    ragged = next(((first, len(fields)) for first, _, fields in plain if len(fields) != width), None)
    if ragged is not None:  # a field has tabs or line ends, which only quotes can hold, or a line is wrong
        try:
            records = _records(text, "\t", csv.QUOTE_MINIMAL)
            reason = "" if _merged(text, records, "\t") is None else "they join rows"
        except csv.Error as error:
            records, reason = [], str(error)
        if not reason:
            return records, []
        line, count = ragged
        raise DataError(
            f"{path}, line {line}: {count} field{'s' * (count != 1)} where the header has {width}, and quotes do not "
            f"explain it: read as quotes, {reason} (line {_first_quote(plain)} has the first). Mend the line; or, if "
            "quotes enclose texts with tabs or line ends, close each and double those inside; or write JSON lines."
        )
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


def _merged(text: str, records: Sequence[Record], delimiter: str) -> tuple[int, int] | None:
    """The first and the last line of the first quoted stretch that holds whole rows; None where there is none.

    A record of several lines holds rows where two of its lines look like one: the values that other records have in some
    column stand there, counted from the left or from the right. In a file with tabs, which texts rarely hold, the number
    of fields is enough; with other delimiters it is where each short field is written as in the other records.
    """
    long = [record for record in records[1:] if record[1] > record[0]]
    if not long:
        return None
    width, lines = len(records[0][2]), re.split(r"\r\n|\r|\n", text)
    known: list[set[str]] = [set() for _ in range(width)]
    for _, _, fields in records[1:]:
        for values, field in zip(known, fields, strict=False):
            if field and "\n" not in field and "\r" not in field:
                values.add(field)
    for first, last, _ in long:
        parts = [line.split(delimiter) for line in lines[first - 1 : last] if line]
        shaped = sum(_shaped(part, known, delimiter) for part in parts)
        named = max(sum(_has_known(part, place, known) for part in parts) for place in range(width)) if width > 1 else 0
        if max(shaped, named) > 1:
            return first, last
    return None


def _has_known(part: Sequence[str], place: int, known: Sequence[set[str]]) -> bool:
    """Whether a line has a value of other records in one column; a line with more fields from either end."""
    width = len(known)
    return len(part) >= width and (part[place] in known[place] or part[place - width] in known[place])


def _shaped(part: Sequence[str], known: Sequence[set[str]], delimiter: str) -> bool:
    """Whether a line has the fields of a row, whatever labels stand in it."""
    width = len(known)
    if len(part) != width or width < 2 or not all(part):
        return False
    if delimiter == "\t":
        return True
    short = [place for place in range(width) if known[place] and not any(" " in value for value in known[place])]
    return len(short) > 1 and all(_alike(part[place], known[place]) for place in short)


def _alike(value: str, known: set[str]) -> bool:
    """Whether a value is written as those of a column: one word, a number where all are."""
    digits = all(other.isdecimal() for other in known)
    return value.isdecimal() == digits and " " not in value and len(value) <= max(map(len, known))


def _first_quote(plain: Sequence[Record]) -> int:
    """The first line with a quote."""
    return next(first for first, _, fields in plain if any('"' in field for field in fields))


def header_hint(rows: Sequence[Mapping[str, object]]) -> str:
    """A hint for a file whose first line seems to be a row and not the names of columns; empty where it does not."""
    names = list(rows[0]) if rows else []
    seen = any(name and any(row.get(name) == name for row in rows[:200]) for name in names)
    prose = any(name.count(" ") >= 3 or name.replace(".", "", 1).lstrip("-").isdigit() for name in names)
    if not seen and not prose:
        return ""
    return " The first line is read as the names of columns; if it is a row, put a line such as text,label on top."
