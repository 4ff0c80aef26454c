"""Few-shot and full splits that are the same on every machine.

The order of examples is that of a SHA-256 hash of the seed and the example, so a seed gives the same split whatever
the order of the rows. Malladi et al. 2023, appendix A.1: k examples per label for training, k others for validation,
five seeds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foretune.errors import DataError, UsageError
from foretune.text.example import Example

SEEDS = (13, 21, 42, 87, 100)
_NAME_OTHERS = "leave its rows out by naming the other labels with --labels"
_OTHER_TEST = (
    "Name another file with --test-data, or give the training file alone: a part of it is then kept for testing."
)


@dataclass(frozen=True)
class Split:
    """Few-shot data: k examples per label for training, k for validation, and test examples.

    Attributes:
        train, validation, test: disjoint lists of examples.
        duplicates: rows left out because their text stood in an earlier row; blanks do not tell texts apart.
        conflicts: rows left out because the same text came with different labels.
        overlaps: validation and test rows left out because their text stands among the other rows.
        unlabelled: rows left out because they have no label.
        spare: examples that could test too, beyond those that were asked for; none that would be missed in training.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: int = 0
    conflicts: int = 0
    overlaps: int = 0
    unlabelled: int = 0
    spare: int = 0

    def tested(self, examples: list[Example], most: int | None) -> Split:
        """The same with test examples, the first so many; what is left is spare."""
        test = examples[:most]
        return replace(self, test=test, spare=len(examples) - len(test))

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples are for training, validation and test."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows were left out, for each reason."""
        reasons = ("duplicates", "conflicts", "overlaps", "unlabelled")
        return {reason: getattr(self, reason) for reason in reasons}


@dataclass(frozen=True)
class _Usable:
    """Examples with a label, each text once, and how many rows that left out."""

    examples: list[Example]
    duplicates: int
    conflicts: int
    unlabelled: int

    def split(self, train: list[Example], validation: list[Example], test: list[Example]) -> Split:
        """A split of them."""
        return Split(train, validation, test, self.duplicates, self.conflicts, overlaps=0, unlabelled=self.unlabelled)


def few_shot_split(
    examples: Sequence[Example],
    labels: Sequence[str],
    k: int,
    seed: int,
    test: int | None = None,
    test_examples: Sequence[Example] | None = None,
    validation_examples: Sequence[Example] | None = None,
) -> Split:
    """k examples per label for training, k others for validation, and test examples.

    Args:
        examples: labelled examples; repeated texts and those without a label are left out and counted.
        labels: the labels to draw k examples of.
        k: examples per label for training, and again for validation.
        seed: any integer.
        test: at most this many test examples (None: all).
        test_examples: where test examples come from, in an order that is the same for all seeds; those whose text is
            among `examples` are left out and counted. Without it they are the rest of `examples`.
        validation_examples: where validation examples come from, at most k per label; those whose text is among `examples`
            are left out and counted. Without it they come from `examples`.

    Raises:
        UsageError: k is below 1.
        DataError: one label only, or too few examples of a label.
    """
    usable = _usable(examples, k)
    ordered = _ordered(usable.examples, str(seed))
    train, validation = [], []
    needed = 2 * k if validation_examples is None else k
    for label in labels:
        of_label = [example for example in ordered if example.label == label]
        if len(of_label) < needed:
            counts = {each: sum(example.label == each for example in ordered) for each in labels}
            most = min(counts.values()) * k // needed
            if test_examples is None:  # one text is left to test on
                most = min(most, (len(ordered) - 1) * k // (needed * len(labels)))
            raise _too_few(label, len(of_label), k, usable, needed, most, more=len(labels) > 2)
        train += of_label[:k]
        validation += of_label[k:needed]
    train, validation = _ordered(train, str(seed)), _ordered(validation, str(seed))
    split = usable.split(train, validation, [])
    if validation_examples is not None:
        split = _with_validation(split, examples, validation_examples, labels, k, seed)
    if test_examples is None:
        used = {*train, *validation}
        rest = [example for example in ordered if example not in used]
        return split.tested(_apart_from(rest, validation_examples or []), test)
    return _with_test(split, [*examples, *(validation_examples or [])], test_examples, test)


def _too_few(label: str, found: int, k: int, usable: _Usable, needed: int, most: int, *, more: bool) -> DataError:
    """The error for a label with too few texts, with what can be done about it: `most` is the largest k for all labels."""
    parts = f"{k} for training" + ("" if needed == k else f" and {k} for validation")
    others = [_NAME_OTHERS] if more else []
    left = f" ({usable.conflicts} rows contradict each other and were left out)" if usable.conflicts else ""
    if not found:
        return DataError(
            f"No usable row has the label {label!r}{left}. Add rows, or name the labels there are with --labels."
        )
    remedy = ", or ".join([*([f"use --k {most} or less"] if most else []), "add rows", *others]).capitalize()
    return DataError(
        f"Label {label!r} has {found} different text{'s' if found > 1 else ''}{left}, but k = {k} needs {needed}: {parts}. "
        f"{remedy}."
    )


def sampled_split(
    examples: Sequence[Example],
    labels: Sequence[str],
    n: int,
    seed: int,
    test: int | None = None,
    test_examples: Sequence[Example] | None = None,
    validation_examples: Sequence[Example] | None = None,
) -> Split:
    """n examples for training and n others for validation, labels as frequent as they come, at least one of each.

    Args:
        examples, labels, seed, test, test_examples: as in `few_shot_split`.
        n: examples for training, and again for validation.
        validation_examples: where validation examples come from, at most n; as in `few_shot_split`.

    Raises:
        UsageError: n is below the number of labels.
        DataError: one label only, fewer than two examples of a label, or fewer than 2 n examples in all.
    """
    if n < len(labels):
        raise UsageError(f"n is {n} for {len(labels)} labels; expected at least one example per label.")
    usable = _usable(examples, n)
    ordered = [example for example in _ordered(usable.examples, str(seed)) if example.label in set(labels)]
    parts = 2 if validation_examples is None else 1
    firsts = {label: [example for example in ordered if example.label == label][:parts] for label in labels}
    rare = next((label for label, found in firsts.items() if len(found) < parts), None)
    if rare is not None or len(ordered) < parts * n:
        needed = f"{n} for training" + (f" and {n} for validation" if parts == 2 else "")
        if rare is not None:
            others = f", or {_NAME_OTHERS}" if len(labels) > 2 else ""
            raise DataError(
                f"Label {rare!r} has {len(firsts[rare])} different text, but a sample of {needed} needs {parts} of each "
                f"label. Add rows{others}."
            )
        most = (len(ordered) - (test_examples is None)) // parts  # one text is left to test on
        smaller = f"Use --n {most} or less, or add rows" if most >= len(labels) else "Add rows"
        raise DataError(
            f"There are {len(ordered)} different texts, but a sample of {needed} needs {parts * n}. {smaller}."
        )
    taken = {example for found in firsts.values() for example in found}
    others = iter([example for example in ordered if example not in taken])
    drawn = [
        [*(found[place] for found in firsts.values()), *itertools.islice(others, n - len(labels))]
        for place in range(parts)
    ]
    train, validation = (_ordered(part, str(seed)) for part in (*drawn, [])[:2])
    split = usable.split(train, validation, [])
    if validation_examples is not None:
        split = _with_validation(split, examples, validation_examples, labels, None, seed)
        split = replace(split, validation=split.validation[:n])
    if test_examples is None:
        return split.tested(_apart_from(list(others), validation_examples or []), test)
    return _with_test(split, [*examples, *(validation_examples or [])], test_examples, test)


def full_split(
    examples: Sequence[Example],
    labels: Sequence[str],
    k: int,
    seed: int,
    test: int | None,
    test_examples: Sequence[Example] | None = None,
    validation_examples: Sequence[Example] | None = None,
) -> Split:
    """All examples for training, but those that validate or test.

    Args:
        examples, labels, seed, test_examples, validation_examples: as in `few_shot_split`.
        k: validation examples per label; a tenth of the label's examples where that is less, and at least one.
        test: at most this many test examples (None: all of `test_examples`). Without `test_examples` they are taken from
            `examples`, the same for all seeds.

    Raises:
        UsageError: k is below 1.
        DataError: one label only, or fewer than two examples of a label beside the test examples.
    """
    usable = _usable(examples, k)
    held = _ordered(usable.examples, "test") if test_examples is None else []
    held = _apart_from(held, validation_examples or [])[:test]
    left_out = set(held)
    ordered = _ordered([example for example in usable.examples if example not in left_out], str(seed))
    validation: list[Example] = []
    least = 2 if validation_examples is None else 1
    for label in labels:
        of_label = [example for example in ordered if example.label == label]
        if len(of_label) < least:
            smaller = any(example.label == label for example in held)
            others = [_NAME_OTHERS] if len(labels) > 2 else []
            remedy = ", or ".join([*(["use a smaller --test"] if smaller else []), "add rows", *others]).capitalize()
            raise DataError(
                f"Label {label!r} has {len(of_label)} different texts beside {len(held)} test examples; expected "
                f"{'two or more, for training and validation' if least == 2 else 'one or more for training'}. {remedy}."
            )
        if validation_examples is None:
            validation += of_label[: min(k, max(1, len(of_label) // 10))]
    used, known = set(validation), set(labels)
    train = [example for example in ordered if example not in used and example.label in known]
    split = usable.split(train, _ordered(validation, str(seed)), held)
    if validation_examples is not None:
        split = _with_validation(split, examples, validation_examples, labels, k, seed)
    if test_examples is None:
        return split
    return _with_test(split, [*examples, *(validation_examples or [])], test_examples, test)


def _usable(examples: Sequence[Example], k: int) -> _Usable:
    """The examples with a label, each text once.

    Raises:
        UsageError: k is below 1.
        DataError: no label, or one label only.
    """
    if k < 1:
        raise UsageError(f"k is {k}; expected at least one example per label.")
    usable = _without_repeats(examples)
    found = {example.label for example in usable.examples}
    if len(found) == 1:
        raise DataError(f"All rows have the label {found.pop()!r}. Expected at least two labels to tell apart.")
    return usable


def _with_validation(
    split: Split,
    examples: Sequence[Example],
    others: Sequence[Example],
    labels: Sequence[str],
    k: int | None,
    seed: int,
) -> Split:
    """The split with validation examples from elsewhere, at most k per label, none of which stands among `examples`.

    Raises:
        DataError: none is left of a label.
    """
    usable = _without_repeats(others)
    ordered = _ordered(_apart_from(usable.examples, examples), str(seed))
    validation: list[Example] = []
    for label in labels:
        of_label = [example for example in ordered if example.label == label]
        if not of_label:
            raise DataError(
                f"Every validation text of the label {label!r} is a training text too, or there is none. Add others, or "
                "leave the validation file out."
            )
        validation += of_label[:k]
    return replace(
        split,
        validation=_ordered(validation, str(seed)),
        duplicates=split.duplicates + usable.duplicates,
        conflicts=split.conflicts + usable.conflicts,
        overlaps=split.overlaps + len(usable.examples) - len(ordered),
        unlabelled=split.unlabelled + usable.unlabelled,
    )


def _with_test(split: Split, examples: Sequence[Example], test_examples: Sequence[Example], test: int | None) -> Split:
    """The split with test examples from elsewhere, none of which stands among `examples`.

    Raises:
        DataError: none is left.
    """
    usable = _without_repeats(test_examples)
    apart = _ordered(_apart_from(usable.examples, examples), "test")
    if test_examples and not usable.examples:
        raise DataError(f"None of the {len(test_examples)} test rows can be used: {_why(usable)}. {_OTHER_TEST}")
    if usable.examples and not apart:
        raise DataError(
            f"All {len(usable.examples)} test rows have a text that stands among the other rows. {_OTHER_TEST}"
        )
    return replace(
        split.tested(apart, test),
        duplicates=split.duplicates + usable.duplicates,
        conflicts=split.conflicts + usable.conflicts,
        overlaps=split.overlaps + len(usable.examples) - len(apart),
        unlabelled=split.unlabelled + usable.unlabelled,
    )


def _why(usable: _Usable) -> str:
    """Why none of the rows is left."""
    if usable.unlabelled:
        return f"{usable.unlabelled} have no label"
    return f"{usable.conflicts} have the same text with different labels"


def _apart_from(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """The examples whose text does not stand among the others."""
    seen = {_texts(example) for example in others}
    return [example for example in examples if _texts(example) not in seen]


def _ordered(examples: Sequence[Example], salt: str) -> list[Example]:
    return sorted(examples, key=lambda example: _rank(salt, example))


def _rank(salt: str, example: Example) -> bytes:
    key = "\x1f".join([salt, example.text, example.text2 or "", example.label or ""])
    return hashlib.sha256(key.encode()).digest()


def _texts(example: Example) -> tuple[str, str | None]:
    """The texts with single blanks: what tells examples apart."""
    return (" ".join(example.text.split()), None if example.text2 is None else " ".join(example.text2.split()))


def _without_repeats(examples: Sequence[Example]) -> _Usable:
    """The examples with a label, each text once, and how many rows were left out."""
    labelled = [example for example in examples if example.label is not None]
    labels: dict[tuple[str, str | None], set[str | None]] = {}
    for example in labelled:
        labels.setdefault(_texts(example), set()).add(example.label)
    kept: dict[tuple[str, str | None], Example] = {}
    duplicates = conflicts = 0
    for example in labelled:
        key = _texts(example)
        if len(labels[key]) > 1:
            conflicts += 1
        elif key in kept:
            duplicates += 1
        else:
            kept[key] = example
    return _Usable(list(kept.values()), duplicates, conflicts, len(examples) - len(labelled))
