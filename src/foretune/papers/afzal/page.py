"""What the pages on Rahimi Afzal et al. share: source, cells, notes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from foretune.experiment.setting import RANDOM_HEAD
from foretune.papers.afzal.runs import single_training
from foretune.papers.recipe import Study
from foretune.papers.sections import SectionedRecipe, TaskGroup

Found = TypeVar("Found")

SOURCE = (
    "Rahimi Afzal, Esmaeilbeig, Soltanalian and Ohannessian 2024, Can the Spectrum of the Neural Tangent Kernel Anticipate "
    "Fine-Tuning Performance?,"
)


class AfzalPage(SectionedRecipe[Found]):
    """A table or figure of Rahimi Afzal et al."""

    authors: ClassVar[str] = "Rahimi Afzal et al."
    output: ClassVar[str] = RANDOM_HEAD

    def notes(self, study: Study, groups: Sequence[TaskGroup[Found]]) -> tuple[str, ...]:
        """The source, and the recipe's own remarks."""
        return (f"Source: {self.source}.", *self.remarks(study, groups))

    @abstractmethod
    def remarks(self, study: Study, groups: Sequence[TaskGroup[Found]]) -> tuple[str, ...]:
        """Settings, how the numbers are made, and what differs from the paper."""


class PlacementsPage(AfzalPage[Found]):
    """A page on LoRA on attention projections, one real run for each placement."""

    def check(self, study: Study) -> None:
        """Refuse a grid of runs.

        Raises:
            UsageError: several batch sizes or learning rates.
        """
        single_training(study.budget)
