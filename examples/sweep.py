"""What the examples share: command-line options, slopes of power laws, and a printed table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PICTURES = Path(__file__).parent.parent / "docs" / "results" / "pictures"


@dataclass(frozen=True)
class Options:
    """How large a sweep runs, and the folder of its picture."""

    quick: bool
    out: Path


@dataclass(frozen=True)
class Law:
    """A power law `quantity ~ x^expected` and the slopes that were fitted, one for each setting of what else varies.

    Attributes:
        quantity: what was measured.
        against: x.
        expected: the exponent, in words where it is a bound.
        slopes: of log quantity against log x.
    """

    quantity: str
    against: str
    expected: str
    slopes: np.ndarray

    @property
    def cells(self) -> list[str]:
        """The row of a table."""
        spread = f"{self.slopes.min():.2f} to {self.slopes.max():.2f}" if self.slopes.size > 1 else "-"
        return [self.quantity, self.against, self.expected, f"{self.slopes.mean():.2f}", spread]


def options(about: str) -> Options:
    """Options from the command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a small sweep, in seconds")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the picture")
    found = parser.parse_args()
    found.out.mkdir(parents=True, exist_ok=True)
    return Options(found.quick, found.out)


def slopes(x: Sequence[float] | np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes of log y against log x along the last axis of y, with shape (..., x) -> (...)."""
    centred = np.log(x) - np.log(x).mean()
    return np.asarray((np.log(y) * centred).sum(-1) / (centred**2).sum())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def law_table(laws: Sequence[Law]) -> str:
    """The fitted slopes as a table."""
    return table(["quantity", "against", "expected", "slope", "from - to"], [law.cells for law in laws])
