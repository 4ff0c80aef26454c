"""What a study says: tables and figures as plain data, drawn elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foretune.shapes import Float64


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Attributes:
        header: of the columns.
        rows: as long as the header.
        caption: above it; may be empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a figure; without x, the numbers 1, 2, ..."""

    name: str
    y: Float64[np.ndarray, "k"]
    x: Float64[np.ndarray, "k"] | None = None


@dataclass(frozen=True)
class Figure:
    """Curves in one picture.

    Attributes:
        name: of its file, without an ending.
        title, x_label, y_label: texts; units in brackets.
        curves: what is drawn.
        logarithmic: the vertical axis.
        diagonal: a line y = x, for a reliability diagram.
        points: markers in the place of lines, for a scatter plot.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    logarithmic: bool = False
    diagonal: bool = False
    points: bool = False


@dataclass(frozen=True)
class Page:
    """The result of a study.

    Attributes:
        title: of the page.
        notes: what stands on top: settings, and what differs from the source.
        tables, figures: the results.
        findings: what they say, in sentences made from the numbers.
    """

    title: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = field(default=())
    findings: tuple[str, ...] = field(default=())


def mean_and_spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """`76.2 (1.3)`: mean and standard deviation (n - 1) over seeds; no bracket for one value, a dash for none.

    Values that are not numbers (a run that failed) are left out and counted: `76.2 (1.3), 1 failed`.
    """
    finite = [scale * value for value in values if np.isfinite(value)]
    failed = f", {len(values) - len(finite)} failed" if len(finite) < len(values) else ""
    if not finite:
        return f"-{failed}" if failed else "-"
    spread = f" ({np.std(finite, ddof=1):.{digits}f})" if len(finite) > 1 else ""
    return f"{np.mean(finite):.{digits}f}{spread}{failed}"
