"""The picture of `docs/architecture.md`: the rooms of the package floor by floor, as an SVG.

PYTHONPATH=src python -m benchmarks.architecture       # writes docs/architecture.svg
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

FLOORS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("library", "commands as functions: their options in Python, results as objects"),),
    (("cli", "commands, their options, what they refuse"),),
    (("pages", "pages as text, Markdown, CSV, SVG and JSON"),),
    (("handover", "the run that a forecast recommends, as files that run"),),
    (
        ("forecasting", "what training would reach"),
        ("labelling", "labels: wrong, enough, next"),
        ("regime", "what training did"),
        ("validation", "whether scores rank"),
        ("papers", "the papers' tables"),
    ),
    (("candidates", "what could be trained: evidence, scores, search, resampling"),),
    (("experiment", "a model asked a task on a sample, with a folder that keeps the results"),),
    (("finetune", "methods, training, runs"),),
    (("analysis", "arithmetic on kernels: spectra, solvers, dynamics, bounds, calibration"),),
    (("kernels", "formulas by parameter block, tile by tile, stored"),),
    (("gradients", "per-example gradients as short sums of outer products"),),
    (("model", "a model as a function f(theta, batch) of its parameters"),),
    (("text", "rows, tasks, templates, splits"),),
    (("work", "work items, and who carries them out: this process, processes, Ray"),),
    (("store", "files that are whole or not there"), ("errors, shapes, naming, page, progress", "the ground floor")),
)
"""From the top floor down: rooms and what is in them. A module imports from lower floors or its own room."""

SOURCE = Path(__file__).parent.parent / "src" / "foretune"
GROUND = ("errors", "shapes", "naming", "page", "progress")
"""The modules on the ground floor, which every room may use; they have no arrows in the picture."""
WIDTH, GAP, LINE = 880, 8, 13
BOX = 'fill="#eef3fa" stroke="#5a7aa5"'
_CHARACTER = 5.2
"""Width of a character of the small print."""


def rooms_used() -> dict[str, tuple[str, ...]]:
    """Room of the package -> the other rooms that its modules import, in alphabetical order."""
    used: dict[str, set[str]] = {}
    for file in sorted(SOURCE.glob("*/**/*.py")):
        room = file.relative_to(SOURCE).parts[0]
        modules = used.setdefault(room, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foretune."):
                modules.add((node.module or "").split(".")[1])
    return {room: tuple(sorted(modules - {room, *GROUND})) for room, modules in used.items()}


def picture(used: Mapping[str, Sequence[str]]) -> str:
    """The SVG: a box for each room, with its purpose and the rooms that it uses.

    Args:
        used: as `rooms_used`.
    """
    lines, y = [], GAP
    for rooms in FLOORS:
        width = (WIDTH - GAP) / len(rooms)
        small_prints = [_small_print(used.get(name, ()), width) for name, _ in rooms]
        height = 44 + LINE * max(map(len, small_prints))
        for place, ((name, purpose), small) in enumerate(zip(rooms, small_prints, strict=True)):
            x = GAP + place * width
            middle = x + (width - GAP) / 2
            lines.append(f'<rect x="{x:g}" y="{y}" width="{width - GAP:g}" height="{height}" rx="5" {BOX}/>')
            texts = [(18, 'font-size="14" font-weight="bold"', name), (35, 'font-size="12"', purpose)]
            texts += [(50 + LINE * number, 'font-size="10" fill="#456"', text) for number, text in enumerate(small)]
            lines += [
                f'<text x="{middle:g}" y="{y + down}" text-anchor="middle" {style}>{escape(text)}</text>'
                for down, style, text in texts
            ]
        y += height + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="white"/>', *lines, "</svg>"]) + "\n"


def _small_print(used: Sequence[str], width: float) -> list[str]:
    """The rooms that a room uses, in lines that fit into its box."""
    return textwrap.wrap(f"uses {', '.join(used)}", int((width - 2 * GAP) / _CHARACTER)) if used else []


if __name__ == "__main__":
    Path("docs/architecture.svg").write_text(picture(rooms_used()), encoding="utf-8")
