"""Where a measurement is made: a model, a task, a sample of its data, and how the model is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foretune.text.builtin import load_data, load_task
from foretune.text.example import Example
from foretune.text.split import Split, few_shot_split, full_split, sampled_split
from foretune.text.task import Task


@dataclass(frozen=True)
class Sample(ABC):
    """How many examples, and which."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for folders and tables."""

    @abstractmethod
    def split(
        self,
        examples: list[Example],
        labels: Sequence[str],
        seed: int,
        test: int,
        others: list[Example] | None,
        validation: list[Example] | None = None,
    ) -> Split:
        """Training, validation and test examples."""


@dataclass(frozen=True)
class FewShot(Sample):
    """K examples per label for training, and for validation. See `few_shot_split`."""

    k: int = 16

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"k{self.k}"

    def split(
        self,
        examples: list[Example],
        labels: Sequence[str],
        seed: int,
        test: int,
        others: list[Example] | None,
        validation: list[Example] | None = None,
    ) -> Split:
        """Training, validation and test examples."""
        return few_shot_split(examples, labels, self.k, seed, test, others, validation)


@dataclass(frozen=True)
class Sampled(Sample):
    """N examples for training, and for validation, labels as frequent as they come. See `sampled_split`."""

    n: int = 128

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"n{self.n}"

    def split(
        self,
        examples: list[Example],
        labels: Sequence[str],
        seed: int,
        test: int,
        others: list[Example] | None,
        validation: list[Example] | None = None,
    ) -> Split:
        """Training, validation and test examples."""
        return sampled_split(examples, labels, self.n, seed, test, others, validation)


@dataclass(frozen=True)
class Full(Sample):
    """All examples for training but some for validation. See `full_split`."""

    validation: int = 32

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "full"

    def split(
        self,
        examples: list[Example],
        labels: Sequence[str],
        seed: int,
        test: int,
        others: list[Example] | None,
        validation: list[Example] | None = None,
    ) -> Split:
        """Training, validation and test examples."""
        return full_split(examples, labels, self.validation, seed, test, others, validation)


@dataclass(frozen=True)
class Setting:
    """One model on one sample of one task.

    Attributes:
        task: name of a task.
        sample: how many examples.
        seed: of the sample, and of a random head.
        test: at most this many test examples.
        output: `prompt`, `probed head` (starts from the linear-probing solution) or `random head`.
        prompt: name of the task's prompt; None for its own.
        pooling: of a head's features, on models that are not causal.
        words: (label, word) pairs that answer in the place of the task's own words, in tasks that have the label.
        first_piece: a word of several tokens answers with its first.
    """

    task: str
    sample: Sample
    seed: int
    test: int
    output: str = "prompt"
    prompt: str | None = None
    pooling: str = "mean"
    words: tuple[tuple[str, str], ...] = ()
    first_piece: bool = False

    @property
    def folder(self) -> Path:
        """Where its results stand, below the model's folder."""
        pooling = [] if self.pooling == "mean" else [self.pooling]
        prompt = [] if self.prompt is None else [self.prompt]
        asked = "-".join([self.output.replace(" ", "-"), *pooling, *prompt])
        return Path(self.task) / asked / f"{self.sample.label}-seed{self.seed}-test{self.test}"


def sampled_data(setting: Setting, data: Path | None) -> tuple[Task, Split]:
    """The task of a setting with its data.

    Args:
        setting: what is asked for.
        data: a folder with one folder a task, each with `train.*` and perhaps `test.*`; the tasks' own sources without.

    Raises:
        UsageError, DataError: no such task, prompt or folder, or too few rows.
    """
    task = load_task(setting.task)
    if setting.prompt is not None:
        task = task.prompted(setting.prompt)
    words = {label: word for label, word in setting.words if label in task.labels}
    if words:
        task = replace(task, words={**task.words, **words})
    found = load_data(task if data is None else data / task.name, task)
    examples = task.examples(found.train)
    others, validation = (None if rows is None else task.examples(rows) for rows in (found.test, found.validation))
    task.check_labels([*examples, *(others or []), *(validation or [])])
    return task, setting.sample.split(examples, task.labels, setting.seed, setting.test, others, validation)
