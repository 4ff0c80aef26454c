"""One cell of a row as a text, and one column of cells as labels: the same rule for every format and container.

A label is a name. Numbers that are equal are one label (`0`, `0.0`, `-0`), and so are names that look alike: blanks
around a name, their number inside it, characters without width and compatible forms of letters (Unicode NFKC) do not
count. A number with zeros in front (`007`) is a name. What marks a row
without a label (nothing, blanks, NaN, `None`, -1 or -100 beside class numbers or names) makes no class: the row is left
out and counted. Lists, mappings and bytes are neither texts nor labels.
"""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

from foretune.errors import DataError, nearest
from foretune.naming import shown

_NOTHING = frozenset({"", "nan", "NaN", "NAN", "None", "null", "NULL", "NaT", "<NA>", "N/A", "#N/A"})
_MARKS = frozenset({"-1", "-100"})
"""Numbers that mark rows without a label beside class numbers or names: of datasets, and of losses."""
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_NO_WIDTH = re.compile(
    "[\u00ad\u180e\u200b\u2060-\u2064\ufe00-\ufe0f\ufeff]|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0001-\U000e007f]+"
)
"""Characters that are not seen; in the flags of countries such as Scotland those behind the black flag are."""
_LATIN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7\u03bf",
    "aeopcyxijsABEKMHOPCTXIABEZHIKMNOPTXo",
)
"""Cyrillic and Greek letters that look like Latin ones."""
_JOINERS = " \u200c\u200d\u200e\u200f"
"""Without width too, but inside a name they may mean something."""
_MOST_DIGITS = 30
_PLAIN_NUMBER = re.compile(r"-?\d+")
Where = Callable[[int], str]


@dataclass(frozen=True)
class LabelColumn:
    """The labels of a column of cells.

    Attributes:
        names: the label of each row; None for a row without one.
        unlabelled: how rows without a label were marked, as shown to people, and how many.
        notes: what was done to labels, in sentences.
    """

    names: tuple[str | None, ...]
    unlabelled: Mapping[str, int]
    notes: tuple[str, ...]


def text_of(value: object, where: Where, place: int) -> str:
    """A cell as a text.

    Args:
        value: the cell; a number is written out.
        where: the place of a cell -> its file, row and column, for messages.
        place: of this cell.

    Raises:
        DataError: there is none, it holds half a character, or it is a list, a mapping or bytes.
    """
    if _missing(value):
        raise DataError(f"{where(place)} has no value. Fill it in or drop the row.")
    return _writable(str(_scalar(value, where, place, "text")).removeprefix("\ufeff"), where, place)


def label_name(value: object) -> str:
    """What a label is called: one name for all that look alike, one for all numbers that are equal."""
    name = _NO_WIDTH.sub("", unicodedata.normalize("NFKC", str(value)))
    name = " ".join(name.split()).strip(_JOINERS)
    number = name.replace("\u2212", "-", 1)
    return _written_number(number) if _NUMBER.fullmatch(number) else name


def _written_number(text: str) -> str:
    """A number in the shortest way that is exact."""
    value = Decimal(text)
    if not value:
        return "0"
    with localcontext() as context:
        context.prec = len(text) + 1
        value = value.normalize()
    return f"{value:f}" if abs(value.adjusted()) < _MOST_DIGITS else str(value)


def label_column(values: Sequence[object], known: Iterable[str] | None, where: Where) -> LabelColumn:
    """A column of cells as labels.

    Args:
        values: the cells.
        known: the labels there are, where somebody has named them: then none of them marks a row without a label.
        where: the place of a cell -> its file, row and column, for messages.

    Raises:
        DataError: a cell is a list, a mapping, bytes or infinite; truth values stand beside numbers; labels differ in case
            alone; or -1 stands beside 0 and 1, where it may be a label or mark a row without one.
    """
    listed = None if known is None else set(known)
    spelt = [None if _missing(value) else _scalar(value, where, place, "label") for place, value in enumerate(values)]
    names = [None if value is None else label_name(value) for value in spelt]
    for place, name in enumerate(names):
        _writable(name or "", where, place)
    marks: Counter[str] = Counter()
    kept: list[str | None] = []
    marking = _marking_numbers(names, listed, where)
    for value, name in zip(values, names, strict=True):
        if name is None or (name in _NOTHING and name not in (listed or ())) or name in marking:
            marks["empty" if value is None or name == "" else str(value).strip()] += 1
            kept.append(None)
        else:
            kept.append(name)
    if listed is None:
        _refuse_mixed(spelt, kept, where)
    return LabelColumn(tuple(kept), marks, _spellings(spelt, kept))


def _missing(value: object) -> bool:
    """Whether a cell holds nothing: None, NaN, or the missing value of pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, numbers.Real) and math.isnan(value)


def _scalar(value: object, where: Where, place: int, what: str) -> object:
    """The cell, if it is one value.

    Raises:
        DataError: it is a list, a mapping or bytes.
    """
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number of numpy or torch
        return value.item()  # pyright: ignore[reportAttributeAccessIssue]
    kind = None
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where(place)} is {value}; expected one {what}. Mend it, or drop the row.")
    if isinstance(value, Mapping):
        kind, remedy = "an object", "Write its parts as columns, with pandas.json_normalize for example"
    elif isinstance(value, bytes | bytearray):
        kind, remedy = "bytes", "Decode them to text first"
    elif isinstance(value, Iterable):
        kind, remedy = (
            "a list",
            "Join its parts" if what == "text" else "foretune gives each text one label: choose one",
        )
    if kind is None:
        return value
    raise DataError(
        f"{where(place)} holds {kind}, {shown(value)}; expected one {what}. {remedy}, or name another column with --{what}."
    )


def _writable(text: str, where: Where, place: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where(place)} holds half a character, {text[error.start]!a} (a lone surrogate), which cannot be encoded. "
            "Repair the file where it was made, or drop the row."
        ) from error
    return text


def _marking_numbers(names: Sequence[str | None], known: set[str] | None, where: Where) -> frozenset[str]:
    """Which of -1 and -100 mark rows without a label: beside names or class numbers from 0, unless they are known labels.

    Raises:
        DataError: -1 stands beside 0 and 1 alone, and nobody has said which are labels.
    """
    found = _MARKS & set(names)
    if known is not None or not found:
        return found - (known or set())
    others = {name for name in names if name is not None and name not in _NOTHING} - _MARKS
    if others == {"0", "1"} and "-1" in found:
        count = sum(name == "-1" for name in names)
        raise DataError(
            f"{where(names.index('-1'))} is -1, beside the labels 0 and 1: it may be a label, or mark a row without one. "
            f"Use --labels 0,1 to leave those {count} rows out, or --labels=-1,0,1 if it is a label."
        )
    if all(_PLAIN_NUMBER.fullmatch(name) for name in others):
        classes = {int(name) for name in others}
        return found if not classes or (min(classes) == 0 and len(classes) > 1) else frozenset()
    return frozenset() if any(_is_number(name) for name in others) else found


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _refuse_mixed(spelt: Sequence[object], names: Sequence[str | None], where: Where) -> None:
    """See that no two labels are probably the same.

    Raises:
        DataError: truth values stand beside numbers, or labels differ in case alone, or in letters that look the same.
    """
    truths = next((place for place, value in enumerate(spelt) if isinstance(value, bool)), None)
    counts = next((place for place, value in enumerate(spelt) if _number(value)), None)
    if truths is not None and counts is not None:
        raise DataError(
            f"{where(truths)} is {spelt[truths]}, {where(counts)} is {spelt[counts]}: truth values and numbers stand in "
            "one column. Write all labels in one way."
        )
    first: dict[str, str] = {}
    alike: dict[str, str] = {}
    for name in names:
        if name is None:
            continue
        twin = alike.setdefault(name.translate(_LATIN), name)
        if twin != name:
            odd = next(
                mark for mark in {**dict.fromkeys(twin), **dict.fromkeys(name)} if mark.translate(_LATIN) != mark
            )
            raise DataError(
                f"Two labels look like {name!r} but have other letters ({where(names.index(name))}): one has a "
                f"{unicodedata.name(odd).lower()}. Write them alike; or, if they are different labels, name all labels "
                "with --labels."
            )
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"The labels {other!r} and {name!r} differ in capital letters alone ({where(names.index(name))}). Write "
                "them alike; or, if they are different labels, name all labels with --labels."
            )


def _number(value: object) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)


def _spellings(spelt: Sequence[object], names: Sequence[str | None]) -> tuple[str, ...]:
    """Notes on labels that are written in several ways."""
    ways: dict[str, set[str]] = {}
    for value, name in zip(spelt, names, strict=True):
        if name is not None:
            ways.setdefault(name, set()).add(str(value))
    several = [f"{' and '.join(map(repr, sorted(found)))}" for name, found in ways.items() if len(found) > 1]
    return tuple(f"{spelling} count as one label." for spelling in several[:5])


def refuse_targets(values: Iterable[object], column: str, source: str) -> None:
    """See that a column holds labels, not numbers to predict.

    Raises:
        DataError: it holds many different numbers with decimals.
    """
    found = {name for value in values if not _missing(value) and (name := label_name(value)) not in _NOTHING}
    decimals = [name for name in found if _is_number(name) and not _PLAIN_NUMBER.fullmatch(name)]
    if len(decimals) > 10 or (len(decimals) > 5 and len(decimals) == len(found)):
        raise DataError(
            f"Column {column!r} of {source} holds {len(found)} different numbers, {sorted(decimals)[0]} for example: that "
            "is a target of regression. foretune is for classification only; expected a few labels. Put the numbers into "
            "classes, or name the label column with --label."
        )


def unknown_label(name: str | None, labels: Sequence[str]) -> DataError:
    """The error for a label that is none of a task's."""
    known = ", ".join(map(repr, labels[:20])) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    return DataError(
        f"The label {name!r} is not one of {known}.{nearest(str(name), labels)} To leave rows with other labels out, "
        f"name the labels with --labels."
    )
