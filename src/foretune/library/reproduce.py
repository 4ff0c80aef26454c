"""`reproduce` as a function: a table or figure of a paper, measured on a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

import foretune
from foretune.cli.reproduce import made_reproduction
from foretune.errors import UsageError
from foretune.library.calm import calm
from foretune.library.given import groups_of, model_given, told
from foretune.library.result import Result, frame, numbered
from foretune.page import Cell, Estimate, Quantity, Repeats, Span
from foretune.pages.folder import page_folder, write_page

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Reproduction(Result):
    """A table or figure of a paper, measured here: what `ft.reproduce` gives back, and what its folder holds.

    Attributes:
        page: the tables, figures and findings as data.
        folder: folder of the page.
    """

    kind: ClassVar[str] = "reproduce"

    @property
    def findings(self) -> tuple[str, ...]:
        """What the numbers say, in sentences."""
        return self.page.findings

    def to_frame(self, number: int = 0) -> pandas.DataFrame:
        """One of the tables, with numbers that are not rounded.

        A cell measured for several seeds becomes two columns: `HEADING`, the mean of the seeds whose run did not fail, and
        `HEADING.values`, a tuple with the number of each seed (NaN for a run that failed). A cell with an interval has
        `HEADING.low` and `HEADING.high` beside it.

        Args:
            number: of the table, from 0; `[table.caption for table in result.page.tables]` lists them.

        Raises:
            UsageError: there is no such table.
        """
        table = numbered("table", self.page.tables, number)
        headings = [column.heading for column in table.columns]
        return frame(
            [
                {
                    name: value
                    for heading, cell in zip(headings, row, strict=True)
                    for name, value in _named(heading, cell)
                }
                for row in table.rows
            ]
        )

    def save(self, folder: str | Path) -> None:
        """Write page.md, page.json, report.html, a .csv file per table and an .svg file per figure.

        Args:
            folder: a new or empty one, or that of the same page, which is replaced.

        Raises:
            UsageError: the folder holds something else.
            StorageError: it cannot be written.
        """
        place = Path(folder)
        if page_folder(place.parent, place.name, self._command) != place:
            raise UsageError(f"{place} holds the page of another command. Choose another folder.")
        write_page(place, self.page, self._command, foretune.__version__)


def _named(heading: str, cell: Cell) -> list[tuple[str, Any]]:
    """The columns that a cell of a page fills, with their values."""
    if isinstance(cell, Repeats):
        values = tuple(map(float, cell.values))
        finite = [value for value in values if np.isfinite(value)]
        return [(heading, float(np.mean(finite)) if finite else float("nan")), (f"{heading}.values", values)]
    if isinstance(cell, Estimate):
        return [(heading, cell.estimate), (f"{heading}.low", cell.low), (f"{heading}.high", cell.high)]
    if isinstance(cell, Span):
        return [(f"{heading}.low", cell.low), (f"{heading}.high", cell.high)]
    return [(heading, cell.value if isinstance(cell, Quantity) else cell)]


@told("reproduce")
def reproduce(
    table: str,
    model: Any = None,
    *,
    tokenizer: Any = None,
    device: str = "cpu",
    tasks: str | Sequence[str] | None = None,
    k: str | int | Sequence[int] | None = None,
    seeds: str | int | Sequence[int] | None = None,
    test: int | None = None,
    data: str | Path | None = None,
    words: str | Mapping[str, str] | None = None,
    first_piece: bool = False,
    steps: int | None = None,
    evaluate_every: int | None = None,
    batch_sizes: str | int | Sequence[int] | None = None,
    sgd_rates: str | float | Sequence[float] | None = None,
    adam_rates: str | float | Sequence[float] | None = None,
    memory: str = "2GiB",
    out: str | Path = "runs/reproduce",
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    progress: bool = False,
) -> Reproduction:
    """Measure a table or figure of a paper, and write its page to a folder.

    What is left out is as in the paper: on a CPU the papers' full grids take days. Cuts are listed in the notes of the
    result. A stopped call goes on where it stopped when it is repeated.

    Args:
        model: see `ft.forecast`; None for the table's stand-in.
        tokenizer: of a model in memory.
        progress: show on standard error how far the work is.

    Raises:
        UsageError: an unknown table or task, or an option that cannot be meant as it stands.
        DataError: rows that cannot be used.
        ModelError: a model that cannot be loaded, or without what the table needs.
        StorageError: the folder cannot be written.
    """
    given = dict(locals())
    del given["tokenizer"], given["progress"]
    with calm(model):
        if model is not None:
            given["model"] = model_given(model, tokenizer, {"device": device})
        made = made_reproduction(**groups_of("reproduce", given, progress=progress))
    return Reproduction(made.page, made.folder, _command=made.command)
