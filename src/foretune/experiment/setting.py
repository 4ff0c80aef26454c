"""What is asked: rows, the sample that is drawn of them, and the question that a model answers about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foretune.errors import UsageError, nearest
from foretune.experiment.sample import FewShot, Sample
from foretune.text.cells import label_name
from foretune.text.example import AnyRows
from foretune.text.files.content import Reading
from foretune.text.task import Task
from foretune.text.template import template_pieces

PROMPT, PROBED_HEAD, RANDOM_HEAD = "prompt", "probed head", "random head"
"""What answers: label words, or a classification head by its start."""


@dataclass(frozen=True)
class DataSource:
    """Where rows are, and how they are read.

    Attributes:
        rows: a task or its name, a file, a folder, a hub dataset id, or rows in memory (`foretune.text.containers`).
        validation, test: the same for rows of their own; what `rows` has by default.
        task: a task or its name, or a .yaml file, that says columns, labels, prompt and metric.
        text, text2, label: names of columns; the task's by default.
        labels: label names in order; rows with other labels are left out.
        max_labels: most labels that a column may have; 100 by default.
        split, revision: split and revision of a hub dataset.
        reading: how files of text are read.

    Raises:
        UsageError: fewer than two labels.
    """

    rows: AnyRows
    validation: AnyRows = None
    test: AnyRows = None
    task: str | Path | Task | None = None
    text: str | None = None
    text2: str | None = None
    label: str | None = None
    labels: tuple[str, ...] | None = None
    max_labels: int | None = None
    split: str | None = None
    revision: str | None = None
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) < 2:
            named = f"{self.labels[0]!r} only" if self.labels else "none"
            raise UsageError(
                f"--labels names {named}. Expected two or more labels, as in --labels bad,good; or leave it out."
            )

    @property
    def columns(self) -> dict[str, str]:
        """Role -> the name of its column, where one is given."""
        given = {"text": self.text, "text2": self.text2, "label": self.label}
        return {role: name for role, name in given.items() if name is not None}


@dataclass(frozen=True)
class Question:
    """How a model answers; what is left out is the task's own.

    Attributes:
        output: `prompt` (label words), `head`, or `auto`: a prompt where the model has words.
        prompt: the name of one of the task's prompts.
        template: the prompt itself.
        words: label -> the word that answers for it.
        first_piece: a word of several tokens answers with its first.
        metric: `accuracy`, `f1` or `matthews`.
        head: where a head starts: `probe` (the linear-probing solution) or `random`.
        pooling: of a head's features: `mean`, `cls` or `last`; by default `last` for models that read left to right,
            else `mean`.
        difference: with two classes, one output f1 - f0 instead of two.
        max_length: longest input in tokens.

    Raises:
        UsageError: a template that cannot be read, or something said of a prompt where a head is to answer.
    """

    output: str = "auto"
    prompt: str | None = None
    template: str | None = None
    words: Mapping[str, str] | None = None
    first_piece: bool = False
    metric: str | None = None
    head: str = "probe"
    pooling: str | None = None
    difference: bool = True
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.template is not None:
            template_pieces(self.template)
        if self.output == "head":
            self.refuse_prompt("a head answers")

    def refuse_prompt(self, why: str) -> None:
        """See that nothing was said of a prompt where a head answers.

        Args:
            why: no prompt is asked.

        Raises:
            UsageError: an option of prompts was given.
        """
        given = {
            "--template": self.template,
            "--words": self.words,
            "--prompt": self.prompt,
            "--first-piece": self.first_piece or None,
        }
        named = next((name for name, value in given.items() if value is not None), None)
        if named is not None:
            raise UsageError(f"{named} is for prompts, but {why}, so it would have no effect. Leave {named} out.")

    @classmethod
    def answered_by(cls, what: str, **others: object) -> Question:
        """The question that `PROMPT`, `PROBED_HEAD` or `RANDOM_HEAD` answers."""
        chosen = {"output": "prompt"} if what == PROMPT else {"output": "head", "head": _STARTS[what]}
        return cls(**chosen, **others)  # pyright: ignore[reportArgumentType]


_STARTS = {PROBED_HEAD: "probe", RANDOM_HEAD: "random"}


@dataclass(frozen=True)
class Setting:
    """Rows, a sample and a question: all that an experiment is, but for the model.

    Attributes:
        source: where the rows are.
        sample: how many of them.
        seed: seed of the sample, and of a random head.
        test: at most this many test examples; None for all.
        question: how a model answers.

    Raises:
        UsageError: a word for a label that is not among those named.
    """

    source: DataSource
    sample: Sample = field(default_factory=FewShot)
    seed: int = 13
    test: int | None = 64
    question: Question = field(default_factory=Question)

    def __post_init__(self) -> None:
        named = [] if self.source.labels is None else [label_name(label) for label in self.source.labels]
        for label in self.question.words or {}:
            if named and label_name(label) not in named:
                raise UsageError(
                    f"--words names the label {label!r}, but --labels does not have it: {', '.join(named)}."
                    f"{nearest(label, named)}"
                )

    def folder(self, task: str) -> Path:
        """Where the results on a task stand, below the model's folder."""
        asked = self.question
        answer = asked.output if asked.output != "head" else {"probe": "probed-head"}.get(asked.head, "random-head")
        how = [answer, *([asked.pooling] if asked.pooling not in (None, "mean") else [])]
        how += [] if asked.prompt is None else [asked.prompt]
        return Path(task) / "-".join(how) / f"{self.sample.label}-seed{self.seed}-test{self.test}"
