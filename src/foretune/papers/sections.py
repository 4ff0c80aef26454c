"""The one loop of a page that is measured task by task: cells of all seeds, what is measured of them, a section a group.

    tasks x k x seeds -> cells -> Recipe.measure -> Recipe.sections -> tables, figures, findings

A recipe declares its cells, its measurement and how one group is drawn; order, captions and the page are made here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from foretune.experiment.experiment import Experiment
from foretune.experiment.sample import Sample
from foretune.experiment.setting import PROMPT
from foretune.page import Cell, Figure, Page, Table
from foretune.papers.recipe import Recipe, Study

Found = TypeVar("Found")
Item = TypeVar("Item")


@dataclass(frozen=True)
class TaskGroup(Generic[Found]):
    """All seeds of one task at one k.

    Attributes:
        task: name of the task.
        k: examples per label; None for a recipe on whole training sets.
        seeds: one for each cell.
        found: what was measured of the cells.
    """

    task: str
    k: int | None
    seeds: tuple[int, ...]
    found: Found

    @property
    def where(self) -> str:
        """The group in a caption or a sentence."""
        return self.task if self.k is None else f"{self.task}, k = {self.k}"

    @property
    def name(self) -> str:
        """The group in the name of a file."""
        return self.task if self.k is None else f"{self.task}-k{self.k}"

    @property
    def caption(self) -> str:
        """Of a table that shows means with standard deviations."""
        return f"{self.where}: means (standard deviations) over {len(self.seeds)} seed(s)"


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        tables: tables of the section.
        figures: figures of the section.
        findings: sentences made from its numbers.
    """

    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    findings: tuple[str, ...] = ()


class SectionedRecipe(Recipe, Generic[Found]):
    """A table or figure that is measured task by task and k by k.

    Attributes:
        authors: the paper's authors, in front of the page's title.
        output: how the model is asked.
    """

    authors: ClassVar[str]
    output: ClassVar[str] = PROMPT

    def page(self, study: Study) -> Page:
        """Every group measured and drawn; all cells are made first, so that wrong data are refused before long runs.

        Raises:
            UsageError, DataError, ModelError: see `Study.cell`; or a recipe that needs what the model does not have.
        """
        self.check(study)
        places = self._places(study)
        cells = [self.group_cells(study, task, k) for task, k in places]
        groups = [
            TaskGroup(task, k, study.seeds, self.measure(study, of_group))
            for (task, k), of_group in zip(places, cells, strict=True)
        ]
        sections = self.sections(study, groups)
        return Page(
            f"{self.authors}: {self.title}",
            self.notes(study, groups),
            (*(table for section in sections for table in section.tables), *self.printed(study)),
            tuple(figure for section in sections for figure in section.figures),
            tuple(finding for section in sections for finding in section.findings),
        )

    def cells(self, study: Study) -> list[Experiment]:
        """As `Recipe`."""
        self.check(study)
        return [cell for task, k in self._places(study) for cell in self.group_cells(study, task, k)]

    def _places(self, study: Study) -> list[tuple[str, int | None]]:
        """The task and k of every group."""
        return [(task, k) for task in study.tasks for k in study.ks or (None,)]

    def check(self, study: Study) -> None:
        """Refuse what this recipe cannot measure, before anything is computed.

        Raises:
            UsageError: a setting that it does not have.
        """

    def group_cells(self, study: Study, task: str, k: int | None) -> list[Experiment]:
        """The cells of one group, seed by seed.

        Raises:
            UsageError, DataError, ModelError: see `Study.cell`.
        """
        sample, output = self.sample(study, task, k), self.output_of(study)
        return [study.cell(task, sample, seed, output) for seed in study.seeds]

    def sample(self, study: Study, task: str, k: int | None) -> Sample | int | None:
        """The training examples of a group, as `Study.cell` takes them."""
        return k

    def output_of(self, study: Study) -> str:
        """How the model is asked, as `Study.cell` takes it."""
        return self.output

    @abstractmethod
    def measure(self, study: Study, cells: Sequence[Experiment]) -> Found:
        """What is measured of the cells of one group, seed by seed."""

    def sections(self, study: Study, groups: Sequence[TaskGroup[Found]]) -> list[Section]:
        """One section for each group."""
        return [self.section(study, group) for group in groups]

    def section(self, study: Study, group: TaskGroup[Found]) -> Section:
        """The tables, figures and findings of a group."""
        raise NotImplementedError

    @abstractmethod
    def notes(self, study: Study, groups: Sequence[TaskGroup[Found]]) -> tuple[str, ...]:
        """What stands on top: the source, the settings, and what differs from the paper."""

    def printed(self, study: Study) -> Sequence[Table]:
        """The paper's own tables, after all others."""
        return ()


def table_of(columns: Mapping[str, Callable[[Item], Cell]], items: Sequence[Item], caption: str) -> Table:
    """A table with a row for each item.

    Args:
        columns: heading -> an item's cell.
        items: of the rows.
        caption: above the table.
    """
    return Table(tuple(columns), tuple(tuple(column(item) for column in columns.values()) for item in items), caption)


def by_item(found: Sequence[Sequence[Item]]) -> list[tuple[Item, ...]]:
    """The same things measured for each seed, turned round: all seeds of the first thing, of the second, ..."""
    return list(zip(*found, strict=True))
