"""The sample of a task's rows that a model sees: k examples per label, n examples, or all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.text.example import Example
from foretune.text.split import Split, few_shot_split, full_split, sampled_split


@dataclass(frozen=True)
class Parts:
    """Examples by what they are for.

    Attributes:
        train: examples for training, and for what has none of its own.
        validation, test: examples from files of their own; None where there are none.
    """

    train: list[Example]
    validation: list[Example] | None = None
    test: list[Example] | None = None


@dataclass(frozen=True)
class Sample(ABC):
    """How many examples, and which."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for folders and tables."""

    @abstractmethod
    def split(self, parts: Parts, labels: Sequence[str], seed: int, test: int | None) -> Split:
        """Training, validation and test examples.

        Args:
            parts: what there is.
            labels: the labels to draw examples of.
            seed: any integer.
            test: at most this many test examples; None for all.

        Raises:
            UsageError, DataError: too few examples.
        """


@dataclass(frozen=True)
class FewShot(Sample):
    """k examples per label for training, and for validation. See `few_shot_split`."""

    k: int = 16

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"k{self.k}"

    def split(self, parts: Parts, labels: Sequence[str], seed: int, test: int | None) -> Split:
        """Training, validation and test examples."""
        return few_shot_split(parts.train, labels, self.k, seed, test, parts.test, parts.validation)


@dataclass(frozen=True)
class Sampled(Sample):
    """n examples for training, and for validation, labels as frequent as they come. See `sampled_split`."""

    n: int = 128

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"n{self.n}"

    def split(self, parts: Parts, labels: Sequence[str], seed: int, test: int | None) -> Split:
        """Training, validation and test examples."""
        return sampled_split(parts.train, labels, self.n, seed, test, parts.test, parts.validation)


@dataclass(frozen=True)
class Full(Sample):
    """All examples for training but some for validation, at most so many per label. See `full_split`."""

    validation: int = 32

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "full"

    def split(self, parts: Parts, labels: Sequence[str], seed: int, test: int | None) -> Split:
        """Training, validation and test examples."""
        return full_split(parts.train, labels, self.validation, seed, test, parts.test, parts.validation)
