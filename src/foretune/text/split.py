"""Few-shot and full splits that are the same on every machine.

The order of examples is that of a SHA-256 hash of the seed and the example, so a seed gives the same split whatever
the order of the rows. Malladi et al. 2023, appendix A.1: k examples per label for training, k others for validation,
five seeds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import DataError, UsageError
from foretune.text.example import Example

SEEDS = (13, 21, 42, 87, 100)


@dataclass(frozen=True)
class Split:
    """Few-shot data: k examples per label for training, k for validation, and test examples.

    Attributes:
        train, validation, test: disjoint lists of examples.
        duplicates: rows left out because their text stood in an earlier row.
        conflicts: rows left out because the same text came with different labels.
        overlaps: test rows left out because their text stands among the other rows.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: int = 0
    conflicts: int = 0
    overlaps: int = 0


def few_shot_split(
    examples: Sequence[Example],
    labels: Sequence[str],
    k: int,
    seed: int,
    test: int | None = None,
    test_examples: Sequence[Example] | None = None,
) -> Split:
    """K examples per label for training, k others for validation, and test examples.

    Args:
        examples: labelled examples; repeated texts are left out and counted.
        labels: the labels to draw k examples of.
        k: examples per label for training, and again for validation.
        seed: any integer.
        test: at most this many test examples (None: all).
        test_examples: where test examples come from, in an order that is the same for all seeds; those whose text is
            among `examples` are left out and counted. Without it they are the rest of `examples`.

    Raises:
        UsageError: k is below 1.
        DataError: one label only, or too few examples of a label.
    """
    unique, duplicates, conflicts = _usable(examples, k)
    ordered = _ordered(unique, str(seed))
    train, validation = [], []
    for label in labels:
        of_label = [example for example in ordered if example.label == label]
        if len(of_label) < 2 * k:
            raise DataError(
                f"Label {label!r} has {len(of_label)} different texts, but k = {k} needs {2 * k}: {k} for training "
                f"and {k} for validation. Use --k {max(1, len(of_label) // 2)} or less, or add rows."
            )
        train += of_label[:k]
        validation += of_label[k : 2 * k]
    train, validation = _ordered(train, str(seed)), _ordered(validation, str(seed))
    if test_examples is None:
        used = {*train, *validation}
        rest = [example for example in ordered if example not in used]
        return Split(train, validation, rest[:test], duplicates, conflicts)
    return _with_test(Split(train, validation, [], duplicates, conflicts), examples, test_examples, test)


def sampled_split(
    examples: Sequence[Example],
    labels: Sequence[str],
    n: int,
    seed: int,
    test: int | None = None,
    test_examples: Sequence[Example] | None = None,
) -> Split:
    """N examples for training and n others for validation, labels as frequent as they come, at least one of each.

    Args:
        examples, labels, seed, test, test_examples: as in `few_shot_split`.
        n: examples for training, and again for validation.

    Raises:
        UsageError: n is below the number of labels.
        DataError: one label only, fewer than two examples of a label, or fewer than 2 n examples in all.
    """
    if n < len(labels):
        raise UsageError(f"n is {n} for {len(labels)} labels; expected at least one example per label.")
    unique, duplicates, conflicts = _usable(examples, n)
    ordered = [example for example in _ordered(unique, str(seed)) if example.label in set(labels)]
    firsts = {label: [example for example in ordered if example.label == label][:2] for label in labels}
    rare = next((label for label, found in firsts.items() if len(found) < 2), None)
    if rare is not None or len(ordered) < 2 * n:
        what = f"Label {rare!r} has {len(firsts[rare])}" if rare is not None else f"There are {len(ordered)}"
        raise DataError(
            f"{what} different texts, but a sample of {n} for training and {n} for validation needs "
            f"{2 if rare is not None else 2 * n}. Use a smaller sample, or add rows."
        )
    taken = {example for found in firsts.values() for example in found}
    others = iter([example for example in ordered if example not in taken])
    train, validation = (
        [*(found[place] for found in firsts.values()), *itertools.islice(others, n - len(labels))] for place in (0, 1)
    )
    train, validation = _ordered(train, str(seed)), _ordered(validation, str(seed))
    if test_examples is None:
        return Split(train, validation, list(others)[:test], duplicates, conflicts)
    return _with_test(Split(train, validation, [], duplicates, conflicts), examples, test_examples, test)


def full_split(
    examples: Sequence[Example],
    labels: Sequence[str],
    k: int,
    seed: int,
    test: int,
    test_examples: Sequence[Example] | None = None,
) -> Split:
    """All examples for training, but those that validate or test.

    Args:
        examples, labels, seed, test_examples: as in `few_shot_split`.
        k: validation examples per label; a tenth of the label's examples where that is less, and at least one.
        test: at most this many test examples. Without `test_examples` they are taken from `examples`, the same for all
            seeds.

    Raises:
        UsageError: k is below 1.
        DataError: one label only, or fewer than two examples of a label beside the test examples.
    """
    unique, duplicates, conflicts = _usable(examples, k)
    held = _ordered(unique, "test")[:test] if test_examples is None else []
    left_out = set(held)
    ordered = _ordered([example for example in unique if example not in left_out], str(seed))
    validation: list[Example] = []
    for label in labels:
        of_label = [example for example in ordered if example.label == label]
        if len(of_label) < 2:
            raise DataError(
                f"Label {label!r} has {len(of_label)} different texts beside {len(held)} test examples; expected two or "
                "more, for training and validation. Use a smaller --test, or add rows."
            )
        validation += of_label[: min(k, max(1, len(of_label) // 10))]
    used, known = set(validation), set(labels)
    train = [example for example in ordered if example not in used and example.label in known]
    split = Split(train, _ordered(validation, str(seed)), held, duplicates, conflicts)
    return split if test_examples is None else _with_test(split, examples, test_examples, test)


def _usable(examples: Sequence[Example], k: int) -> tuple[list[Example], int, int]:
    """The examples with each text once, and the counts of `_without_repeats`."""
    if k < 1:
        raise UsageError(f"k is {k}; expected at least one example per label.")
    unique, duplicates, conflicts = _without_repeats(examples)
    found = {example.label for example in unique}
    if len(found) == 1:
        raise DataError(f"All rows have the label {found.pop()!r}. Expected at least two labels to tell apart.")
    return unique, duplicates, conflicts


def _with_test(split: Split, examples: Sequence[Example], test_examples: Sequence[Example], test: int | None) -> Split:
    """The split with test examples from elsewhere, none of which stands among `examples`."""
    others, duplicates, conflicts = _without_repeats(test_examples)
    seen = {_texts(example) for example in examples}
    apart = _ordered([example for example in others if _texts(example) not in seen], "test")
    return Split(
        split.train,
        split.validation,
        apart[:test],
        split.duplicates + duplicates,
        split.conflicts + conflicts,
        overlaps=len(others) - len(apart),
    )


def _ordered(examples: Sequence[Example], salt: str) -> list[Example]:
    return sorted(examples, key=lambda example: _rank(salt, example))


def _rank(salt: str, example: Example) -> bytes:
    key = "\x1f".join([salt, example.text, example.text2 or "", example.label or ""])
    return hashlib.sha256(key.encode()).digest()


def _texts(example: Example) -> tuple[str, str | None]:
    return (example.text, example.text2)


def _without_repeats(examples: Sequence[Example]) -> tuple[list[Example], int, int]:
    """The examples with each text once; how many repeats went, and how many rows contradict each other."""
    labels: dict[tuple[str, str | None], set[str | None]] = {}
    for example in examples:
        labels.setdefault(_texts(example), set()).add(example.label)
    kept: dict[tuple[str, str | None], Example] = {}
    duplicates = conflicts = 0
    for example in examples:
        key = _texts(example)
        if len(labels[key]) > 1:
            conflicts += 1
        elif key in kept:
            duplicates += 1
        else:
            kept[key] = example
    return list(kept.values()), duplicates, conflicts
