"""A task: which columns to read, which labels there are, and how a text becomes a question with an answer word.

A masked language model fills in the `{mask}` of `template`, wherever it stands. A causal one answers at the end: it
reads `causal_template` where the task has one, else `template` up to the mask (see `foretune.text.template`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foretune.errors import UsageError, nearest
from foretune.text.cells import label_column, label_name, text_of, unknown_label
from foretune.text.containers import row_list
from foretune.text.example import Example, Rows, mapping_of
from foretune.text.hub import HubSource
from foretune.text.split import Split, few_shot_split
from foretune.text.template import Piece, causal_pieces, filled_prompt, template_pieces

METRICS = ("accuracy", "f1", "matthews")
MANUAL = "manual"


@dataclass(frozen=True)
class Prompt:
    """One way to ask: a template, its form for causal models, and its label words.

    Attributes:
        template: the prompt, as in `Task`.
        words: label -> word; in a task, the task's own words where it is empty.
        causal_template: what causal models read instead.
    """

    template: str
    words: Mapping[str, str] = field(default_factory=dict)
    causal_template: str | None = None


@dataclass(frozen=True)
class Task:
    """Template, label words, columns, metric, limits and where its data is.

    Attributes:
        name: what reports call it.
        labels: label names in the order of the model's outputs; with two, the difference form is `labels[1]` minus
            `labels[0]`.
        template: the prompt, with `{text}`, `{text2}`, `{mask}`.
        words: label -> the word that answers for it; the label itself where it is missing.
        text, text2, label: column names.
        metric: `accuracy`, `f1` (of `labels[1]`) or `matthews` (the correlation of labels and predictions).
        causal_template: the prompt of causal models, with the mask last; needed where a text follows the mask.
        test_cap: at most this many test examples, unless a caller asks for another number.
        max_length, text_limit, text2_limit: longest input, text and second text, in tokens; None for no limit of the
            task's own. Only the texts are ever cut.
        prompt: the name of this prompt.
        variants: the task's other prompts by name; `prompted` switches to one of them.
        hub: the dataset of the Hugging Face hub that holds its rows.
        about: what the labels say of the text, in one line.
        origin: where data, template and words come from.

    Raises:
        UsageError: one column in two roles, fewer than two labels, an unknown template field, a word for an unknown label,
            an unknown metric, or a limit below 1.
    """

    name: str
    labels: Sequence[str]
    template: str = "{text} It was"
    words: Mapping[str, str] = field(default_factory=dict)
    text: str = "text"
    text2: str | None = None
    label: str = "label"
    metric: str = "accuracy"
    causal_template: str | None = None
    test_cap: int | None = None
    max_length: int | None = None
    text_limit: int | None = None
    text2_limit: int | None = None
    prompt: str = MANUAL
    variants: Mapping[str, Prompt] = field(default_factory=dict)
    hub: HubSource | None = None
    about: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            raise UsageError(
                f"Task {self.name!r} has the labels {self.labels!r}; expected a list, such as ['no', 'yes']."
            )
        roles = {"text": self.text, "text2": self.text2, "label": self.label}
        for role, other in (("text2", "text"), ("text2", "label"), ("text", "label")):
            if roles[role] is not None and roles[role] == roles[other]:
                raise UsageError(
                    f"--{role} and --{other} both name the column {roles[role]!r}. Each needs its own column; name "
                    "another one."
                )
        object.__setattr__(self, "labels", tuple(label_name(label) for label in self.labels))
        object.__setattr__(self, "words", {label_name(label): word for label, word in self.words.items()})
        object.__setattr__(self, "words", {label: str(self.words.get(label, label)) for label in self._checked_words()})
        if self.metric not in METRICS:
            raise UsageError(
                f"Unknown metric {self.metric!r}. Expected one of {', '.join(METRICS)}.{nearest(self.metric, METRICS)}"
            )
        for name in ("test_cap", "max_length", "text_limit", "text2_limit"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise UsageError(f"Task {self.name!r}: {name} is {limit}; expected at least 1, or none.")
        variants = {
            name: replace(prompt, words={label_name(label): word for label, word in prompt.words.items()} or self.words)
            for name, prompt in self.variants.items()
        }
        object.__setattr__(self, "variants", variants)
        for prompt in (self._asked, *variants.values()):
            self._check_prompt(prompt)

    @property
    def _asked(self) -> Prompt:
        return Prompt(self.template, self.words, self.causal_template)

    def _check_prompt(self, prompt: Prompt) -> None:
        pieces = template_pieces(prompt.template)
        if prompt.causal_template is not None:
            pieces += causal_pieces(prompt.causal_template)
        if self.text2 is None and any(piece.field == "text2" for piece in pieces):
            raise UsageError(f"Template {prompt.template!r} uses {{text2}}, but no text2 column is named (--text2).")

    def _checked_words(self) -> tuple[str, ...]:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise UsageError(
                f"Task {self.name!r} has labels {list(self.labels)}. Expected two or more different labels."
            )
        for label in self.words:
            if label not in self.labels:
                raise UsageError(
                    f"A word is given for the label {label!r}, which is not one of {', '.join(self.labels)}."
                    f"{nearest(label, self.labels)}"
                )
        return tuple(self.labels)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The template's pieces; the mask is always one of them."""
        return template_pieces(self.template)

    @property
    def causal_pieces(self) -> tuple[Piece, ...]:
        """The pieces that a causal model reads, the mask last.

        Raises:
            UsageError: a text follows the mask and the task has no causal template.
        """
        return causal_pieces(self.causal_template or self.template)

    def rendered(self, example: Example, mask: str = "[MASK]", *, causal: bool = False) -> str:
        """The prompt for one example, in words."""
        texts = {"text": example.text.strip(), "text2": (example.text2 or "").strip(), "mask": mask}
        return filled_prompt(self.causal_pieces if causal else self.pieces, texts)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The names of the prompts it has, this one included."""
        names = {self.prompt, *self.variants}
        return tuple(sorted(names, key=lambda name: (name != MANUAL, name)))

    def prompted(self, name: str) -> Task:
        """The same task with its prompt `name`: template, causal template and words.

        Raises:
            UsageError: there is no such prompt; the message names the nearest.
        """
        if name == self.prompt:
            return self
        if name not in self.variants:
            raise UsageError(
                f"Task {self.name!r} has no prompt {name!r}. It has {', '.join(self.prompts)}."
                f"{nearest(name, self.prompts)}"
            )
        chosen = self.variants[name]
        others = {other: prompt for other, prompt in self.variants.items() if other != name}
        others[self.prompt] = self._asked
        words = {label: word for label, word in chosen.words.items() if label in self.labels}
        return replace(
            self,
            prompt=name,
            template=chosen.template,
            causal_template=chosen.causal_template,
            words=words,
            variants=others,
        )

    def targets(self, examples: Iterable[Example]) -> list[int]:
        """The index of each example's label.

        Raises:
            DataError: an example has no label, or one that the task does not know.
        """
        known = {label: index for index, label in enumerate(self.labels)}
        targets = []
        for example in examples:
            if example.label not in known:
                raise unknown_label(example.label, self.labels)
            targets.append(known[example.label])
        return targets

    def examples(self, rows: Any) -> list[Example]:
        """The rows as examples, columns read as this task names them.

        Args:
            rows: mappings or examples, in any container (see `foretune.text.containers`).

        Returns:
            One example for each row; a row without a label has none.

        Raises:
            UsageError: a column is missing, or the container cannot be read by rows.
            DataError: a cell is not a text or a label (see `foretune.text.cells`).
        """
        source = f"{rows.source}, row" if isinstance(rows, Rows) else "Row"
        read = [
            row if isinstance(row, Example) else mapping_of(row, place) for place, row in enumerate(row_list(rows), 1)
        ]
        places = [place for place, row in enumerate(read) if not isinstance(row, Example)]
        cells = {
            name: self._cells(read, places, name) for name in (self.text, self.text2, self.label) if name is not None
        }

        def where(name: str) -> Callable[[int], str]:
            return lambda index: f"{source} {places[index] + 1}, column {name!r}"

        labels = label_column(cells[self.label], self.labels, where(self.label)).names
        for index, (place, label) in enumerate(zip(places, labels, strict=True)):
            text = text_of(cells[self.text][index], where(self.text), index)
            text2 = None if self.text2 is None else text_of(cells[self.text2][index], where(self.text2), index)
            read[place] = Example(text, text2, label)
        return [row for row in read if isinstance(row, Example)]

    def _cells(self, rows: Sequence[Mapping[str, object] | Example], places: Sequence[int], name: str) -> list[object]:
        """The cells of a column that some of the rows must have.

        Raises:
            UsageError: none has it.
        """
        found = [rows[place] for place in places]
        if found and not any(name in row for row in found if isinstance(row, Mapping)):
            columns = list(dict.fromkeys(column for row in found if isinstance(row, Mapping) for column in row))
            raise UsageError(
                f"A row has no column {name!r}; its columns are {', '.join(map(repr, columns))}."
                f"{nearest(name, map(str, columns))} Name them with --text, --text2 and --label."
            )
        return [row.get(name) for row in found if isinstance(row, Mapping)]

    def few_shot(
        self,
        rows: Any,
        k: int = 16,
        seed: int = 13,
        test: int | None = None,
        test_rows: Any = None,
        validation_rows: Any = None,
    ) -> Split:
        """k examples per label for training, k others for validation, and test examples.

        The order is that of a hash of the seed and the row, so a seed gives the same split on every machine, whatever
        the order of the rows. Repeated texts are left out and counted, so that no text stands on both sides; rows
        without a label as well.

        Args:
            rows: mappings or examples, in any container.
            k: examples per label for training, and again for validation.
            seed: any integer; the papers use `foretune.text.split.SEEDS`.
            test: at most this many test examples (None: the task's own `test_cap`, or all).
            test_rows: where test examples come from; without it they are the rest of `rows`. All seeds share one
                order of them, and those whose text stands in `rows` are left out and counted.
            validation_rows: where validation examples come from, at most k per label; without it they come from `rows`.

        Raises:
            DataError: one label only, an unknown label, or too few examples of a label.
        """
        examples = self.examples(rows)
        test_examples = None if test_rows is None else self.examples(test_rows)
        validation = None if validation_rows is None else self.examples(validation_rows)
        self.check_labels([*examples, *(test_examples or []), *(validation or [])])
        most = self.test_cap if test is None else test
        return few_shot_split(examples, self.labels, k, seed, most, test_examples, validation)

    def check_labels(self, examples: Iterable[Example]) -> None:
        """See that the task knows every label; rows without one may be among them.

        Raises:
            DataError: it does not.
        """
        self.targets([example for example in examples if example.label is not None])
