"""A task: which columns to read, which labels there are, and how a text becomes a question with an answer word.

Templates name `{text}`, `{text2}` and `{mask}`: `"{text} It was {mask}."`. A template without `{mask}` asks for the
answer at its end. A causal language model reads up to the mask; what follows the mask is for masked models only.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from foretune.errors import DataError, UsageError, nearest
from foretune.text.example import Example

METRICS = ("accuracy", "f1")


@dataclass(frozen=True)
class Split:
    """Few-shot data: k examples per label for training, k for validation, the rest (capped) for testing.

    Attributes:
        train, validation, test: disjoint lists of examples.
        duplicates: rows left out because their text stood in an earlier row.
        conflicts: rows left out because the same text came with different labels.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: int = 0
    conflicts: int = 0


@dataclass(frozen=True)
class Task:
    """Template, label words, columns and metric.

    Attributes:
        name: what reports call it.
        labels: label names in the order of the model's outputs; with two, the difference form is `labels[1]` minus
            `labels[0]`.
        template: the prompt, with `{text}`, `{text2}`, `{mask}`.
        words: label -> the word that answers for it; the label itself where it is missing.
        text, text2, label: column names.
        metric: `accuracy` or `f1` (of `labels[1]`).

    Raises:
        UsageError: fewer than two labels, an unknown template field, or a word for an unknown label.
    """

    name: str
    labels: Sequence[str]
    template: str = "{text} It was"
    words: Mapping[str, str] = field(default_factory=dict)
    text: str = "text"
    text2: str | None = None
    label: str = "label"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
        object.__setattr__(self, "words", {label: str(self.words.get(label, label)) for label in self._checked_words()})
        if self.metric not in METRICS:
            raise UsageError(f"Unknown metric {self.metric!r}. Expected one of {', '.join(METRICS)}.")
        pieces = self.pieces
        fields = [name for kind, name in pieces if kind == "field"]
        unknown = set(fields) - {"text", "text2", "mask"}
        if unknown or fields.count("mask") > 1 or "text" not in fields:
            raise UsageError(
                f"Template {self.template!r}: expected {{text}}, and optionally {{text2}} and one {{mask}}"
                + (f"; {', '.join(sorted(unknown))!r} is none of them." if unknown else ".")
            )
        if ("text2" in fields) and self.text2 is None:
            raise UsageError(f"Template {self.template!r} uses {{text2}}, but no text2 column is named (--text2).")

    def _checked_words(self) -> tuple[str, ...]:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise UsageError(
                f"Task {self.name!r} has labels {list(self.labels)}. Expected two or more different labels."
            )
        for label in self.words:
            if label not in self.labels:
                raise UsageError(
                    f"A word is given for the label {label!r}, which is none of {', '.join(self.labels)}."
                    f"{nearest(label, self.labels)}"
                )
        return tuple(self.labels)

    @property
    def pieces(self) -> list[tuple[str, str]]:
        """The template as `("literal", words)` and `("field", name)` pieces; the mask is always one of them."""
        pieces: list[tuple[str, str]] = []
        try:
            for literal, name, _, _ in string.Formatter().parse(self.template):
                if literal:
                    pieces.append(("literal", literal))
                if name is not None:
                    pieces.append(("field", name))
        except ValueError as error:
            raise UsageError(f"Template {self.template!r}: {error}. Write {{text}}, {{text2}}, {{mask}}.") from error
        if ("field", "mask") not in pieces:
            if pieces and pieces[-1][0] == "literal":
                pieces[-1] = ("literal", pieces[-1][1].rstrip() + " ")
            else:
                pieces.append(("literal", " "))
            pieces.append(("field", "mask"))
        return pieces

    def targets(self, examples: Iterable[Example]) -> list[int]:
        """The index of each example's label.

        Raises:
            DataError: an example has no label, or one that the task does not know.
        """
        known = {label: index for index, label in enumerate(self.labels)}
        targets = []
        for example in examples:
            if example.label not in known:
                raise DataError(
                    f"The label {example.label!r} is none of {', '.join(map(repr, self.labels))}."
                    f"{nearest(str(example.label), self.labels)}"
                )
            targets.append(known[example.label])
        return targets

    def examples(self, rows: Iterable[Mapping[str, object] | Example]) -> list[Example]:
        """The rows as examples, columns read as this task names them."""
        return [row if isinstance(row, Example) else self._example(row) for row in rows]

    def _example(self, row: Mapping[str, object]) -> Example:
        missing = [name for name in (self.text, self.text2, self.label) if name is not None and name not in row]
        if missing:
            raise UsageError(
                f"A row has no column {missing[0]!r}; its columns are {', '.join(map(repr, row))}."
                f"{nearest(missing[0], row)} Name them with --text, --text2 and --label."
            )
        text2 = None if self.text2 is None else str(row[self.text2])
        return Example(str(row[self.text]), text2, str(row[self.label]))

    def few_shot(
        self, rows: Iterable[Mapping[str, object] | Example], k: int = 16, seed: int = 13, test: int | None = None
    ) -> Split:
        """K examples per label for training, k others for validation, and up to `test` of the rest.

        The order is that of a hash of the seed and the row, so a seed gives the same split on every machine, whatever
        the order of the rows. Repeated texts are left out and counted, so that no text stands on both sides.

        Args:
            rows: mappings or examples.
            k: examples per label for training, and again for validation.
            seed: any integer; the papers use 13, 21, 42, 87 and 100.
            test: at most this many test examples (None: all the rest).

        Raises:
            DataError: one label only, an unknown label, or too few examples of a label.
        """
        if k < 1:
            raise UsageError(f"k is {k}; expected at least one example per label.")
        unique, duplicates, conflicts = _without_repeats(self.examples(rows))
        self.targets(unique)
        found = {example.label for example in unique}
        if len(found) == 1:
            raise DataError(f"All rows have the label {found.pop()!r}. Expected at least two labels to tell apart.")
        ordered = sorted(unique, key=lambda example: _rank(seed, example))
        train, validation, used = [], [], set()
        for label in self.labels:
            of_label = [example for example in ordered if example.label == label]
            if len(of_label) < 2 * k:
                raise DataError(
                    f"Label {label!r} has {len(of_label)} different texts, but k = {k} needs {2 * k}: {k} for training "
                    f"and {k} for validation. Use --k {max(1, len(of_label) // 2)} or less, or add rows."
                )
            train += of_label[:k]
            validation += of_label[k : 2 * k]
            used.update(of_label[: 2 * k])
        train.sort(key=lambda example: _rank(seed, example))
        validation.sort(key=lambda example: _rank(seed, example))
        rest = [example for example in ordered if example not in used]
        return Split(train, validation, rest if test is None else rest[:test], duplicates, conflicts)


def _rank(seed: int, example: Example) -> bytes:
    key = "\x1f".join([str(seed), example.text, example.text2 or "", example.label or ""])
    return hashlib.sha256(key.encode()).digest()


def _without_repeats(examples: Sequence[Example]) -> tuple[list[Example], int, int]:
    """The examples with each text once; how many repeats went, and how many rows contradict each other."""
    labels: dict[tuple[str, str | None], set[str | None]] = {}
    for example in examples:
        labels.setdefault((example.text, example.text2), set()).add(example.label)
    kept: dict[tuple[str, str | None], Example] = {}
    duplicates = conflicts = 0
    for example in examples:
        key = (example.text, example.text2)
        if len(labels[key]) > 1:
            conflicts += 1
        elif key in kept:
            duplicates += 1
        else:
            kept[key] = example
    return list(kept.values()), duplicates, conflicts
