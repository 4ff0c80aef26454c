"""What the value of an option may be, and how a list is read. A rule is part of the option's `Annotated` type.

All rules of a command are checked before anything is read or imported, for what was typed and for what came from a
`--config` file. A list (`Words`, `Items`, `Numbers`, `Decimals`) stays as it was typed until `listed` reads it by its rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from foretune.errors import UsageError, nearest
from foretune.kernels.memory_plan import memory_bytes
from foretune.text.cells import label_name
from foretune.text.quoted import pieces, unquoted


@dataclass(frozen=True)
class Rule:
    """What a value may be."""

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """Refuse a value that is out of range.

        Args:
            option: as it is typed, `--k` or `DATA`.
            value: given, or the default.
            others: all values of the command, by name.

        Raises:
            UsageError: it is.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number.

    Attributes:
        least, most: allowed, both included.
        otherwise: what else the message says, such as what 0 means.
    """

    least: int = 0
    most: int | None = None
    otherwise: str = ""

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value is None:
            return
        assert isinstance(value, int)  # noqa: S101 - typer has converted it
        if value < self.least or (self.most is not None and value > self.most):
            expected = f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"
            raise UsageError(f"{option} is {value}; expected {expected}{self.otherwise}.")


@dataclass(frozen=True)
class NumberRange(Rule):
    """A finite number above 0.

    Attributes:
        zero: 0 is allowed, too.
        most: allowed; float32 ends shortly above the default.
        example: an example for the message.
    """

    example: str
    zero: bool = False
    most: float = 1e38

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value is None:
            return
        assert isinstance(value, int | float)  # noqa: S101 - typer has converted it
        if not (value > 0 or (self.zero and value == 0)) or not value <= self.most or not math.isfinite(value):
            low = "at least 0" if self.zero else "above 0"
            raise UsageError(
                f"{option} is {value:g}; expected a number {low} and at most {self.most:g}, {self.example} for example."
            )


@dataclass(frozen=True)
class Choice(Rule):
    """One of some words: what an option of a `Literal` type is held against.

    Attributes:
        known: the words that are allowed.
    """

    known: tuple[str, ...]

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value is not None:
            one_of(option, str(value), self.known)


@dataclass(frozen=True)
class List(Rule):
    """Several values in one word, separated by commas.

    Attributes:
        example: an example for messages.
    """

    example: str

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value is not None:
            self.read(option, str(value))

    def read(self, option: str, text: str) -> tuple[Any, ...]:
        """The values.

        Raises:
            UsageError: they cannot be read, or one is out of range.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Items(List):
    """Words, none of them empty or repeated."""

    def read(self, option: str, text: str) -> tuple[str, ...]:
        """As `List`."""
        return tuple(items(option, text, self.example))


@dataclass(frozen=True)
class Words(Items):
    """Some of some words, each once.

    Attributes:
        known: the words that are allowed.
    """

    known: tuple[str, ...] = ()

    def read(self, option: str, text: str) -> tuple[str, ...]:
        """As `List`."""
        return tuple(one_of(option, item, self.known) for item in super().read(option, text))


@dataclass(frozen=True)
class Numbers(List):
    """Whole numbers and ranges, such as `0,4-7`.

    Attributes:
        least, most: allowed, both included.
    """

    least: int = 0
    most: int | None = None

    def read(self, option: str, text: str) -> tuple[int, ...]:
        """As `List`."""
        found = numbers(option, text, self.example)
        for number in found:
            Whole(self.least, self.most).check(option, number, {})
        return found


@dataclass(frozen=True)
class Decimals(List):
    """Finite numbers above 0."""

    def read(self, option: str, text: str) -> tuple[float, ...]:
        """As `List`."""
        found = decimals(option, text, self.example)
        for number in found:
            NumberRange(self.example).check(option, number, {})
        return found


@dataclass(frozen=True)
class LabelWords(Rule):
    """Words for labels, as `label_words` reads them."""

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value is not None:
            label_words(str(value))


@dataclass(frozen=True)
class Device(Rule):
    """Where PyTorch computes."""

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:[0-9]+)?", str(value)):
            raise UsageError(f"{option} {value!r}: expected cpu, cuda, or cuda:1 (the second GPU).")


@dataclass(frozen=True)
class Memory(Rule):
    """A budget, such as 2GiB."""

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        memory_bytes(str(value))


@dataclass(frozen=True)
class UsedWith(Rule):
    """An option that counts only where another one has certain values: given without them it is refused.

    It is checked where the value differs from the option's default.

    Attributes:
        option: the name of the other one.
        values: with which it is used; the other one may be a comma-separated list.
    """

    option: str
    values: tuple[str, ...]

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        present = str(others[self.option])
        if not set(present.split(",")) & set(self.values):
            other = typed(self.option)
            *before, last = self.values
            needed = f"{', '.join(before)} or {last}" if before else last
            raise UsageError(
                f"{option} is used only with {other} {needed}, and not with {other} {present}. Leave {option} out, or use "
                f"{other} {self.values[0]}."
            )


_MOST_NUMBERS = 10_000

SEED = Whole(0, 2**32 - 1)
"""One rule for all seeds: what Python, NumPy, scikit-learn and PyTorch all take."""
AT_LEAST_1 = Whole(1)
MOST_RANK = 65_536
"""The largest rank of LoRA: more than the width of any published model."""


def typed(name: str) -> str:
    """An option as it is typed: `--max-length` for `max_length`."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class NotWith(Rule):
    """An option that contradicts another one.

    Attributes:
        other: the name of the other one.
    """

    other: str

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value and others[self.other]:
            raise UsageError(f"{option} contradicts {typed(self.other)}. Leave one of them out.")


@dataclass(frozen=True)
class NeededUnless(Rule):
    """An option that must be given unless a flag is.

    Attributes:
        flag: the name of the flag.
        purpose: what the option is needed for, as the subject of the message.
    """

    flag: str
    purpose: str

    def check(self, option: str, value: object, others: Mapping[str, object]) -> None:
        """As `Rule`."""
        if value is None and not others[self.flag]:
            raise UsageError(f"{self.purpose}: {option} DIR.")


def listed(options: object, name: str) -> tuple[Any, ...]:
    """The values of a list, read by the rule beside the option; none where it was not given.

    Args:
        options: a group of options.
        name: of its field.

    Raises:
        UsageError: they cannot be read, or one is out of range.
    """
    text = getattr(options, name)
    rules = get_type_hints(type(options), include_extras=True)[name].__metadata__
    rule = next(rule for rule in rules if isinstance(rule, List))
    return () if text is None else rule.read(typed(name), text)


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """`value`, if it is known.

    Raises:
        UsageError: it is not; the message names the nearest.
    """
    if value not in known:
        raise UsageError(f"{option} {value!r}: expected {', '.join(known)}.{nearest(value, known)}")
    return value


def items(option: str, text: str, example: str) -> list[str]:
    """The items of a comma-separated option; one with a comma is put in double quotes.

    Raises:
        UsageError: there is none, one is empty, one is there twice, or a quote does not close.
    """
    found = [unquoted(item) for item in pieces(option, text, ",")]
    if not all(found):
        raise UsageError(f"{option} {text!r} has an empty item; expected {example} for example.")
    twice = next((item for item in found if found.count(item) > 1), None)
    if twice is not None:
        raise UsageError(f"{option} {text!r} names {twice!r} twice; expected each once.")
    return found


def numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    """The numbers of `0,4-7`.

    Raises:
        UsageError: something else, a range that ends before it starts, more numbers than any option means, or one twice.
    """
    found: list[int] = []
    for item in items(option, text, example):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", item)
        if match is None:
            raise UsageError(
                f"{option} {text!r}: {item!r} is not a number; expected numbers and ranges, such as {example}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{option} {text!r}: the range {item} ends before it starts. Write {last}-{first}.")
        if len(found) + last - first >= _MOST_NUMBERS:
            raise UsageError(
                f"{option} {text!r} names more than {_MOST_NUMBERS:,} numbers; expected {example} for example."
            )
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        twice = next(number for number in found if found.count(number) > 1)
        raise UsageError(f"{option} {text!r} names {twice} twice; expected each once.")
    return tuple(found)


def decimals(option: str, text: str, example: str) -> tuple[float, ...]:
    """The numbers of `1e-3,1e-2`.

    Raises:
        UsageError: one is not a number.
    """
    try:
        return tuple(float(item) for item in items(option, text, example))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: expected numbers, {example} for example.") from error


def label_words(text: str) -> dict[str, str]:
    """Label -> word, as `--words` has them (see `foretune.text.quoted`).

    Raises:
        UsageError: an item is not LABEL=WORD, or a label has two words.
    """
    words: dict[str, str] = {}
    for item in pieces("--words", text, ","):
        label, *rest = pieces("--words", item, "=")
        label, word = label_name(unquoted(label)), unquoted("=".join(rest))
        if not label or not word:
            raise UsageError(
                f"--words {item.strip()!r}: expected LABEL=WORD, as in negative=terrible,positive=great. A label with a "
                "comma or an equals sign is put in double quotes: --words '\"a, b\"=WORD'."
            )
        if label in words:
            raise UsageError(f"--words gives the label {label!r} two words, {words[label]!r} and {word!r}. Keep one.")
        words[label] = word
    return words
