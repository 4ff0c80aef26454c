"""What the pages on linear probing then fine-tuning share: cells with a random classifier, notes, the poster's figures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from foretune.experiment.data import usual_sample
from foretune.experiment.sample import Sample
from foretune.experiment.setting import RANDOM_HEAD
from foretune.page import Quantity, Table
from foretune.papers.lpft.measures import AUTHORS
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Defaults, Study
from foretune.papers.sections import SectionedRecipe, TaskGroup

Found = TypeVar("Found")


class HeadPage(SectionedRecipe[Found]):
    """A page of the poster, of models with a classifier that starts at random."""

    authors: ClassVar[str] = AUTHORS
    defaults: ClassVar[Defaults] = Defaults("minilm", ("rte", "cb"), ks=(64,))

    output: ClassVar[str] = RANDOM_HEAD

    def sample(self, study: Study, task: str, k: int | None) -> Sample | None:
        """k examples per label, or the whole task where a label is too rare for that.

        Raises:
            UsageError, DataError: see `usual_sample`.
        """
        return None if k is None else usual_sample(study.source(task), k)

    def notes(self, study: Study, groups: Sequence[TaskGroup[Found]]) -> tuple[str, ...]:
        """Settings, what differs from the poster, and the recipe's own remarks."""
        return (
            f"Source: {self.source}.",
            *study.notes,
            "The poster trains a language model that it does not name on full data. Here k examples per label are used, "
            "and the whole task where a label has fewer than 2 k.",
            "The classifier starts at random, N(0, 1 / features) (N(0, 0.02^2) by the poster's norms), on mean features "
            "(the last token's of a causal model); two classes have one output, f1 - f0. AdamW at a constant rate without "
            "clipping (the published code has the defaults of transformers: a linear decay, clipping at 1); the best "
            "checkpoint and the best point of a grid by validation.",
            "LP keeps a grid of learning rates of its own (1e-4, 1e-3, 1e-2); LP-FT and LP-LoRA begin with LP at 1e-3, for "
            "as many steps as their second stage.",
            *self.remarks(study, groups),
        )

    @abstractmethod
    def remarks(self, study: Study, groups: Sequence[TaskGroup[Found]]) -> tuple[str, ...]:
        """How the numbers of this page are made."""


def one_seed_note(study: Study) -> tuple[str, ...]:
    """What a page of a single seed says of its comparisons; nothing where there are several."""
    if len(study.seeds) > 1:
        return ()
    return ("One seed: no interval and no noise floor. A comparison below describes this seed only.",)


def three_digits(value: float) -> Quantity:
    """A number as the poster has it, as a cell; a dash for what is not a number."""
    return Quantity(float(value), ".3g", missing="-")


def poster_table(name: str, tasks: Sequence[str], columns: Sequence[str]) -> list[Table]:
    """The poster's table of these tasks; none where it has none of them."""
    printed = printed_figures("tomihari")[name]
    known = [task for task in tasks if task in printed["tasks"]]
    if not known:
        return []
    rows = tuple(
        (
            method,
            *(
                value if isinstance(value, str) else three_digits(value)
                for task in known
                for value in printed["tasks"][task][method]
            ),
        )
        for method in printed["tasks"][known[0]]
    )
    header = ("Method", *(f"{task}: {column}" for task in known for column in columns))
    return [Table(header, rows, "The poster's own figures, of its model on full data")]
