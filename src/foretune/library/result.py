"""Results as objects: a page and the numbers behind it, as the commands print and write them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import foretune
from foretune.cli.show import kept_page
from foretune.errors import UsageError
from foretune.page import Figure, Page
from foretune.pages.console import PlainConsole
from foretune.pages.html import fragment
from foretune.pages.json import document
from foretune.pages.svg import svg
from foretune.pages.terminal import print_page
from foretune.store.atomic import write_text

if TYPE_CHECKING:
    import pandas

_WIDTH = 80
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Plot:
    """A figure: an SVG that notebooks show.

    Attributes:
        figure: what is drawn: title, axes with their units, curves as arrays.
    """

    figure: Figure

    @cached_property
    def svg(self) -> str:
        """The text of an .svg file."""
        return svg(self.figure)

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.svg

    def save(self, file: str | Path) -> None:
        """Write the .svg file; a file of that name is replaced.

        Raises:
            UsageError: the name does not end in .svg, or is that of a folder.
            StorageError: the file cannot be written.
        """
        if Path(file).suffix != ".svg":
            raise UsageError(f"{file} does not end in .svg. Choose such a name: {file}.svg")
        write_text(Path(file), self.svg)


@dataclass(frozen=True, repr=False)
class Result:
    """What a function of the library gives back.

    `print(result)` shows the first screen of the command, a notebook the answer with its tables.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: where it was written, or read from; None where it is in memory only.
    """

    page: Page
    folder: Path | None = None
    _command: str = field(default="", kw_only=True)

    kind: ClassVar[str] = ""
    """Of its document, such as `forecast`."""

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """Every number, not rounded, as `--json` writes them; `foretune schema KIND` says what the fields mean."""
        return document(self.page, foretune.__version__, self._command)

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        return self.page.answer

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the rest."""
        return self.page.notes

    def plot(self, number: int = 0) -> Plot:
        """One of the figures.

        Args:
            number: of the figure, from 0; `[figure.title for figure in result.page.figures]` lists them.

        Raises:
            UsageError: there is no such figure.
        """
        return Plot(numbered("figure", self.page.figures, number))

    def to_frame(self) -> pandas.DataFrame:
        """The rows of the result as a table of pandas."""
        raise NotImplementedError

    @classmethod
    def load(cls, place: str | Path) -> Self:
        """A result that was written to a folder, or to a file by `--json`.

        Args:
            place: the folder, or the file.

        Raises:
            UsageError: there is none, or it is of another kind.
            StorageError, KernelFolderError: the folder is damaged.
        """
        place = Path(place)
        page = kept_page(place)
        if page.kind != cls.kind:
            raise UsageError(
                f"{place} holds a result of `foretune {page.kind}`; expected one of `foretune {cls.kind}`. "
                f"`foretune show {place}` prints it."
            )
        return cls(page, place if place.is_dir() else None)

    def __str__(self) -> str:
        """The first screen, 80 columns wide."""
        shown = io.StringIO()
        print_page(PlainConsole(file=shown, width=_WIDTH, color_system=None), self.page)
        return shown.getvalue().rstrip()

    def __repr__(self) -> str:
        """The class and the answer, on one line."""
        return f"<{type(self).__name__}: {self.page.answer or self.page.title}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: question, answer, notes and the tables that the screen has."""
        return fragment(self.page)


def numbered(name: str, parts: Sequence[_Part], number: int) -> _Part:
    """A table or figure of a result by its number, from 0.

    Raises:
        UsageError: there is no such one.
    """
    if not 0 <= number < len(parts):
        raise UsageError(f"There is no {name} {number}: this result has {len(parts)}, counted from 0.")
    return parts[number]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The single values of a part of a record; those of its parts by names such as `score.low`, lists left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        elif not isinstance(value, list):
            found[f"{before}{name}"] = value
    return found


def frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows as a table of pandas."""
    import pandas

    return pandas.DataFrame(list(rows))
