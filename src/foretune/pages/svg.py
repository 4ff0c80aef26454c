"""Figures as SVG, by matplotlib: text stays text, and one figure always gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from foretune.naming import one_line
from foretune.page import Figure

_SIZE = (6.4, 4.0)
_MARKED = 32  # longer lines have no markers
_LEVEL = 6  # more names on an axis are slanted
_LONGEST = 90  # characters of a title or a name
_OPTIONS: Any = {"svg.fonttype": "none", "svg.hashsalt": "foretune"}


def svg(figure: Figure) -> str:
    """The figure as the text of an .svg file."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    with matplotlib.rc_context(_OPTIONS):
        drawing = Drawing(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.add_subplot()
        _draw(axes, figure)
        axes.set_title(_literal(figure.title), fontsize=10, wrap=True)
        axes.set_xlabel(_literal(figure.x_label))
        axes.set_ylabel(_literal(figure.y_label))
        if figure.logarithmic:
            axes.set_yscale("log", nonpositive="mask")
        if figure.curves:
            axes.legend(fontsize=8)
        made = io.StringIO()
        drawing.savefig(made, format="svg", metadata={"Date": None})
    return made.getvalue()


def _draw(axes: Any, figure: Figure) -> None:
    for curve in figure.curves:
        x = _places(curve.x, curve.y)
        if figure.points:
            axes.plot(x, curve.y, "o", label=_literal(curve.name))
        else:
            axes.plot(x, curve.y, "o-" if len(x) <= _MARKED else "-", markersize=3, label=_literal(curve.name))
    if figure.ticks:
        slanted = 45 if len(figure.ticks) > _LEVEL else 0
        axes.set_xticks(range(1, len(figure.ticks) + 1), map(_literal, figure.ticks), rotation=slanted)
    if figure.diagonal:
        axes.axline((0, 0), slope=1, color="grey", linewidth=1, linestyle="--")
        axes.set(xlim=(0, 1), ylim=(0, 1))


def _places(x: np.ndarray | None, y: np.ndarray) -> np.ndarray:
    return np.arange(1.0, len(y) + 1) if x is None else np.asarray(x)


def _literal(text: str) -> str:
    """Text on one line in which a dollar begins no formula; its end is left out where the picture has no room for it."""
    shown = one_line(text)
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
    return shown.replace("$", r"\$")
