"""What a command says, as plain data: an answer first, then facts, notes, tables and figures. `pages` draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foretune.shapes import Float64


@dataclass(frozen=True)
class Quantity:
    """A number that has a format of its own, apart from those in its column.

    Attributes:
        value: unrounded; None or NaN where there is none.
        form: format of Python that rounds it, such as `.3f`, or `count` for three digits and a unit of thousands.
        unit: written behind it; empty for none.
        missing: what is shown where there is no number.
    """

    value: float | None
    form: str = ".3f"
    unit: str = ""
    missing: str = ""

    @property
    def text(self) -> str:
        """The number as it is shown."""
        if self.value is None or math.isnan(self.value):
            return self.missing
        return f"{rounded(self.value, self.form)}{f' {self.unit}' if self.unit else ''}"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Span:
    """An interval, shown as `0.34 - 0.74`.

    Attributes:
        low: lower end of the interval.
        high: upper end of the interval.
        form: format of Python that rounds both.
    """

    low: float
    high: float
    form: str = ".2f"

    @property
    def text(self) -> str:
        """The interval as it is shown."""
        return f"{rounded(self.low, self.form)} - {rounded(self.high, self.form)}"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, shown as `0.62 (0.41 to 0.80)`; a dash where there is none.

    Attributes:
        estimate: unrounded; None or NaN where there is none.
        low: lower end of the interval.
        high: upper end of the interval.
        form: format of Python that rounds all three.
    """

    estimate: float | None
    low: float | None
    high: float | None
    form: str = ".2f"

    @property
    def text(self) -> str:
        """The number and its interval as they are shown."""
        if self.estimate is None or self.low is None or self.high is None or math.isnan(self.estimate):
            return "-"
        low, high = rounded(self.low, self.form), rounded(self.high, self.form)
        return f"{rounded(self.estimate, self.form)} ({low} to {high})"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Repeats:
    """One number for each seed, shown as mean and standard deviation (n - 1): `76.2 (1.3)`.

    There is no bracket for one value and a dash for none. Values that are not numbers (a run that failed) are left out and
    counted: `76.2 (1.3), 1 failed`.

    Attributes:
        values: unrounded; NaN for a run that failed.
        scale: by which they are multiplied before they are shown, 100 for percents.
        digits: behind the point.
    """

    values: Sequence[float]
    scale: float = 100.0
    digits: int = 1

    @property
    def text(self) -> str:
        """Mean and spread as they are shown."""
        finite = [self.scale * value for value in self.values if np.isfinite(value)]
        failed = f", {len(self.values) - len(finite)} failed" if len(finite) < len(self.values) else ""
        if not finite:
            return f"-{failed}" if failed else "-"
        spread = f" ({np.std(finite, ddof=1):.{self.digits}f})" if len(finite) > 1 else ""
        return f"{np.mean(finite):.{self.digits}f}{spread}{failed}"

    def __str__(self) -> str:
        return self.text


Cell = str | float | int | Quantity | Estimate | Span | Repeats | None
"""What stands in a table: text, a number that the column's format rounds, or one that brings its own; None for nothing."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: text on top of the column.
        form: format of Python that rounds its plain numbers, or `count`; empty for text.
        words: whether it holds words, which may be folded; None to see from its cells.
        drop: how early it is left out where there is no room: the highest first, 0 never.
    """

    heading: str
    form: str = ""
    words: bool | None = None
    drop: int = 0


@dataclass(frozen=True)
class Table:
    """Values in rows and columns; their formats stand in the columns, and who draws the table rounds.

    Attributes:
        header: the columns; a text is a column with that heading.
        rows: as long as the header.
        caption: above it; may be empty.
        few: places of the rows that a terminal shows; None for all.
        details: whether only a view with all details shows it.
        headings: whether the headings are shown.
    """

    header: tuple[str | Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    few: tuple[int, ...] | None = field(default=None, kw_only=True)
    details: bool = field(default=False, kw_only=True)
    headings: bool = field(default=True, kw_only=True)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The header, each a column that knows whether it holds words."""
        return tuple(self._column(place) for place in range(len(self.header)))

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The rows as they are shown."""
        forms = [head.form if isinstance(head, Column) else "" for head in self.header]
        return tuple(tuple(map(cell_text, row, forms)) for row in self.rows)

    def _column(self, place: int) -> Column:
        head = self.header[place]
        column = head if isinstance(head, Column) else Column(head)
        if column.words is not None:
            return column
        cells = [row[place] for row in self.rows]
        numbers = any(not isinstance(cell, str) or any(map(str.isdigit, cell)) for cell in cells if cell is not None)
        return Column(column.heading, column.form, place == 0 or not (numbers or column.form), column.drop)


@dataclass(frozen=True)
class Curve:
    """One line of a figure; without x, the numbers 1, 2, ...

    Attributes:
        name: name in the legend.
        y: heights of the points.
        x: places; None for 1, 2, ...
    """

    name: str
    y: Float64[np.ndarray, " k"]
    x: Float64[np.ndarray, " k"] | None = None


@dataclass(frozen=True)
class Figure:
    """Curves in one picture.

    Attributes:
        name: name of its file, without an ending.
        title: above the picture.
        x_label: label of the horizontal axis, its unit in brackets.
        y_label: label of the vertical axis, its unit in brackets.
        curves: what is drawn.
        logarithmic: whether the vertical axis is logarithmic.
        diagonal: whether a line y = x is drawn, for a reliability diagram.
        points: whether markers are drawn instead of lines, for a scatter plot.
        ticks: names of the places 1, 2, ... on the horizontal axis; empty for numbers.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    logarithmic: bool = False
    diagonal: bool = False
    points: bool = False
    ticks: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeatMap:
    """Numbers that belong to two names each, drawn as a table of shaded cells.

    Attributes:
        title: title above it.
        note: what a number says, in a sentence.
        rows: names of the rows.
        columns: names of the columns.
        values: one number per column for each row; None where there is none.
        form: format of Python that rounds them.
    """

    title: str
    note: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    form: str = ".2f"


@dataclass(frozen=True)
class Fact:
    """A name and what stands beside it: `Will it work?` and its answer.

    Attributes:
        name: name in front of the text.
        text: beside it; short, its most important word first.
        lines: at most this many lines of a narrow terminal are for it; its end is left out where it has more.
    """

    name: str
    text: str
    lines: int = 2


@dataclass(frozen=True)
class Listing:
    """Text that is copied as it stands, such as Python.

    Attributes:
        title: title above it.
        text: what is copied.
        language: language of the text; empty for none.
    """

    title: str
    text: str
    language: str = ""


@dataclass(frozen=True)
class Page:
    """The result of a command.

    Attributes:
        title: title of the page.
        notes: what a reader must know before believing the rest; the most important first.
        tables: the results as tables.
        figures: the results as pictures.
        maps: numbers by two names, as shaded tables; only the page in HTML draws them.
        findings: what they say, in sentences made from the numbers.
        answer: the result in one sentence; empty where the findings are the answer.
        about: what was read and what was asked: the question that the answer belongs to.
        facts: the answer in parts, a question of the reader each.
        details: sentences that only a view with all details shows.
        listings: texts to be copied; only a view with all details shows them.
        next: commands that go on from here.
        kind: what made it: `forecast`, `plan`, `labels`, `explain`, `kernel`, `solve`, `tune`, `tune-plan`, `behaviour`,
            `tasks`, `task`, `validate` or `reproduce`.
        data: the numbers behind all this, unrounded; its fields are named in the JSON schema of the kind.
    """

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    findings: tuple[str, ...] = ()
    answer: str = field(default="", kw_only=True)
    about: tuple[Fact, ...] = field(default=(), kw_only=True)
    facts: tuple[Fact, ...] = field(default=(), kw_only=True)
    details: tuple[str, ...] = field(default=(), kw_only=True)
    listings: tuple[Listing, ...] = field(default=(), kw_only=True)
    next: tuple[str, ...] = field(default=(), kw_only=True)
    maps: tuple[HeatMap, ...] = field(default=(), kw_only=True)
    kind: str = field(default="", kw_only=True)
    data: object = field(default_factory=dict, kw_only=True)

    @property
    def has_details(self) -> bool:
        """Whether a short view leaves something out."""
        hidden = any(table.details for table in self.tables)
        return bool(hidden or self.details or self.listings)


def cell_text(cell: Cell, form: str = "") -> str:
    """A cell as it is shown.

    Args:
        cell: what stands there.
        form: of plain numbers, `Column.form`.
    """
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, Quantity | Estimate | Span | Repeats):
        return cell.text
    return Quantity(cell, form).text


def rounded(value: float, form: str) -> str:
    """A number in a format of Python, or as a `count`."""
    return short_count(int(value)) if form == "count" else format(value, form)


def short_count(count: int) -> str:
    """Three digits and a unit: `163k`."""
    for unit, size in (("", 1), ("k", 10**3), ("M", 10**6)):
        shown = str(count) if size == 1 else f"{count / size:.3g}"
        if float(shown) < 1000:
            return f"{shown}{unit}"
    return f"{count / 10**9:.3g}B" if count < 999.5 * 10**9 else f"{count / 10**9:,.0f}B"


def mean_and_spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> Repeats:
    """`76.2 (1.3)` as a cell: mean and standard deviation over seeds, the values themselves unrounded in it.

    Args:
        values: one for each seed; NaN for a run that failed.
        scale, digits: see `Repeats`.
    """
    return Repeats(tuple(map(float, values)), scale, digits)
