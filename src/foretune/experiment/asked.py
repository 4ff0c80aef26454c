"""What was read and what is asked: the question that an answer belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from foretune.model.outputs import Outputs
from foretune.page import Fact
from foretune.text.account import Account
from foretune.text.example import Example
from foretune.text.task import Task

_LABELS = 10
_TEXT = 80


@dataclass(frozen=True)
class Asked:
    """What the model is asked.

    Attributes:
        template: the prompt as it is used; None for a head.
        words: label -> the word that answers for it; empty for a head.
        head: what a head reads; None for a prompt.
        example: one example as the model reads it, shortened, the answer's place as `[answer]`.
        label: label of the example.
    """

    template: str | None
    words: Mapping[str, str]
    head: str | None
    example: str
    label: str | None


def asked(outputs: Outputs, task: Task, example: Example) -> Asked:
    """What a model is asked, with an example filled in."""
    about = outputs.description
    short = replace(example, text=_short(example.text), text2=None if example.text2 is None else _short(example.text2))
    template = about.get("template")
    if template is None:
        texts = short.text if short.text2 is None else f"{short.text} | {short.text2}"
        head = f"{about['pooling']} of the last layer's features, {about['classes']} classes"
        return Asked(None, {}, head, texts, example.label)
    filled = task.rendered(short, "[answer]", causal=outputs.lm.kind == "causal")
    return Asked(str(template), dict(task.words), None, filled, example.label)


def reading(account: Account, question: Asked) -> tuple[Fact, ...]:
    """What was read, what was left out and why, what is used, and what is asked."""
    return tuple(Fact(name, _plain(text), lines) for name, text, lines in (*_read(account), *_question(question)))


def _read(account: Account) -> Iterator[tuple[str, str, int]]:
    several = len(account.rows) > 1
    files = [
        f"{account.sources[name]}: {count:,} rows{f' for {name}' if several else ''}"
        for name, count in account.rows.items()
    ]
    labels = [f"{label} {count:,}" for label, count in list(account.labels.items())[:_LABELS]]
    more = [f"and {len(account.labels) - _LABELS} more labels"] if len(account.labels) > _LABELS else []
    out = [f"{count:,} row{'s' if count > 1 else ''} {reason}" for reason, count in account.left_out.items()]
    (first, count), *others = account.used.items()
    used = [f"{count:,} examples for {first}", *(f"{count:,} for {name}" for name, count in others)]
    if not any(count for _, count in others):
        used = [f"all {count:,} labelled rows"]
    yield "Read", "; ".join(files), 2
    yield "Labels", ", ".join([*labels, *more]), 1
    if out:
        yield "Left out", "; ".join(out), 2
    if account.notes:
        yield "Note", " ".join(account.notes), 2
    yield "Used", ", ".join(used), 1


def kept_reading(about: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The same of a kept result, from what it says of itself; nothing where an older version did not say it."""
    if not {"data", "asked"} <= set(about):
        return ()
    return reading(Account(**about["data"]), Asked(**about["asked"]))


def _question(question: Asked) -> Iterator[tuple[str, str, int]]:
    if question.template is None:
        yield "Head", str(question.head), 1
    else:
        words = [f"{label}={word}" for label, word in list(question.words.items())[:_LABELS]]
        yield "Prompt", question.template, 1
        yield "Words", ", ".join([*words, *(["..."] if len(question.words) > _LABELS else [])]), 1
    yield "Example", f"{question.example}  (label: {question.label})", 2


def _short(text: str) -> str:
    """The start and the end of a long text."""
    text = text.strip()
    return text if len(text) <= _TEXT else f"{text[: _TEXT * 2 // 3].rstrip()} ... {text[-_TEXT // 3 :].lstrip()}"


def _plain(text: str) -> str:
    """The text on one line, line ends and tabs written out: they are a part of a prompt."""
    return text.replace("\n", "\\n").replace("\t", "\\t")
