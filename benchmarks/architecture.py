"""The picture of `docs/architecture.md`: the rooms of the package floor by floor, as an SVG.

PYTHONPATH=src python -m benchmarks.architecture       # writes docs/architecture.svg
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FLOORS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("cli", "commands, their options, what they refuse"),),
    (("pages", "pages as text, Markdown, CSV, SVG and JSON"),),
    (("handover", "the run that a forecast recommends, as files that run"),),
    (
        ("forecasting", "what training would reach"),
        ("labelling", "labels: wrong, enough, next"),
        ("regime", "what training did"),
        ("validation", "whether scores rank"),
        ("reproduce", "the papers' tables"),
    ),
    (("candidates", "what could be trained: evidence, scores, search, resampling"),),
    (("experiment", "a model asked a task on a sample, with a folder that keeps the results"),),
    (("finetune", "methods, training, runs"),),
    (("analysis", "arithmetic on kernels: spectra, solvers, dynamics, bounds, calibration"),),
    (("kernels", "formulas by parameter block, tile by tile, stored"),),
    (("gradients", "per-example gradients as short sums of outer products"),),
    (("model", "a model as a function f(theta, batch) of its parameters"),),
    (("text", "rows, tasks, templates, splits"),),
    (("store", "files that are whole or not there"), ("errors, shapes, naming, page, progress", "the ground floor")),
)
"""From the top floor down: rooms and what is in them. A module imports from lower floors or its own room."""

WIDTH, HEIGHT, GAP = 880, 44, 8
BOX = 'fill="#eef3fa" stroke="#5a7aa5"'


def picture() -> str:
    """The SVG."""
    total = len(FLOORS) * (HEIGHT + GAP) + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{total}" fill="white"/>',
    ]
    for floor, rooms in enumerate(FLOORS):
        width = (WIDTH - GAP) / len(rooms)
        for place, (name, purpose) in enumerate(rooms):
            x, y = GAP + place * width, GAP + floor * (HEIGHT + GAP)
            middle = x + (width - GAP) / 2
            lines += [
                f'<rect x="{x:g}" y="{y}" width="{width - GAP:g}" height="{HEIGHT}" rx="5" {BOX}/>',
                f'<text x="{middle:g}" y="{y + 18}" text-anchor="middle" font-size="14" font-weight="bold">'
                f"{escape(name)}</text>",
                f'<text x="{middle:g}" y="{y + 35}" text-anchor="middle" font-size="12">{escape(purpose)}</text>',
            ]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path("docs/architecture.svg").write_text(picture(), encoding="utf-8")
