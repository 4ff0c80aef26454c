"""Text to token ids, as the model's own tokenizer and a user's Trainer write them.

A text (or a pair) for a head is what `tokenizer(text, text2, truncation=True, max_length=...)` gives, all inputs that the
model takes included: `token_type_ids` tell the two texts of a pair apart. A prompt is tokenized as one text; a text that
is too long is cut, the prompt never; and a causal prompt ends where the answer begins, so what the tokenizer appends
(EOS, [SEP]) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foretune.errors import DataError, ModelError, UsageError
from foretune.model.cutting import first_tokens, token_count
from foretune.model.label_words import Continuation, continuation, masked_pieces, one_token_each
from foretune.text.example import Example
from foretune.text.task import Task
from foretune.text.template import filled_prompt, mask_place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Tensor]
_SAMPLES = (".", "a", "A", "0")
"""The first with tokens stands for the texts where the template alone is looked at."""


@dataclass(frozen=True)
class Encoded:
    """One example as a model reads it.

    Attributes:
        ids: token ids of the text.
        position: where the output is read.
        cut: whether its text was cut.
        others: further inputs by name, such as `token_type_ids`: one number per token.
        unknown: how many of the tokens the tokenizer does not know.
        dropped: whether no token is the text's: the tokenizer drops its characters.
    """

    ids: tuple[int, ...]
    position: int
    cut: bool
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unknown: int = 0
    dropped: bool = False

    @property
    def numbers(self) -> list[object]:
        """Everything that the model reads of it, for hashes."""
        return [*self.ids, self.position, *([name, *values] for name, values in sorted(self.others.items()))]

    @property
    def mostly_unknown(self) -> bool:
        """Whether more than half of its tokens are unknown to the tokenizer."""
        return 2 * self.unknown > len(self.ids)


@dataclass(frozen=True)
class Accepted:
    """What a model takes from a tokenizer.

    Attributes:
        names: inputs besides `input_ids` and `attention_mask`, such as `token_type_ids`.
        rows: rows of its table of tokens; None where it has none.
    """

    names: frozenset[str] = frozenset()
    rows: int | None = None


def padded(encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, rows: int | None, device: Any) -> Batch:
    """A batch padded on the right to its longest example, so that a place means the same in every batch.

    Args:
        encoded: the examples.
        tokenizer: names what padding is written as.
        rows: rows of the model's table of tokens. A padding token beyond it, which was added to the tokenizer only, is
            written as token 0: nothing reads it.
        device: where the batch goes.

    Returns:
        `input_ids` and `attention_mask` of shape (n, t), the other inputs of the same shape, and `position`, shape (n,):
        where the output is read.
    """
    width = max(len(item.ids) for item in encoded)

    def filled_up(values: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in values], dtype=torch.long).to(device)

    pad: Any = tokenizer.pad_token_id
    if pad is None or pad < 0 or (rows is not None and pad >= rows):
        pad = 0
    batch = {
        "input_ids": filled_up([item.ids for item in encoded], pad),
        "attention_mask": filled_up([[1] * len(item.ids) for item in encoded], 0),
        "position": torch.tensor([item.position for item in encoded]).to(device),
    }
    for name in encoded[0].others:
        filler = tokenizer.pad_token_type_id if name == "token_type_ids" else 0
        batch[name] = filled_up([item.others[name] for item in encoded], filler)
    return batch


class PlainEncoder:
    """Texts (or pairs) as the tokenizer writes them, for classification heads.

    Args:
        tokenizer: the model's tokenizer.
        limit: the longest input in tokens.
        accepted: what the model takes.

    Raises:
        UsageError: the limit leaves no room for a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, accepted: Accepted = Accepted()) -> None:
        self.tokenizer, self.limit, self.accepted = tokenizer, limit, accepted
        self._refuse_no_room(1)

    def _refuse_no_room(self, texts: int) -> None:
        added = self.tokenizer.num_special_tokens_to_add(texts > 1)
        if self.limit < added + texts:
            raise UsageError(
                f"Inputs of {self.limit} tokens leave no room for {'a text' if texts == 1 else 'two texts'}: the tokenizer "
                f"adds {added} of its own. Use --max-length {added + texts} or more."
            )

    def __call__(self, example: Example) -> Encoded:
        """The example's ids; the output is read at the last token.

        Raises:
            UsageError: the limit leaves no room for two texts.
            DataError: the text has no tokens.
        """
        found = self.tokenizer(example.text, example.text2)
        cut = len(found["input_ids"]) > self.limit
        if cut:
            self._refuse_no_room(1 if example.text2 is None else 2)
            found = self.tokenizer(example.text, example.text2, truncation=True, max_length=self.limit)
        if not found["input_ids"]:
            raise DataError(f"The text {example.text!r} has no tokens. Drop the row or fill it in.")
        dropped = len(found["input_ids"]) <= self.tokenizer.num_special_tokens_to_add(example.text2 is not None)
        return _encoded(self.tokenizer, found, self.accepted, cut=cut, dropped=dropped)


class PromptEncoder:
    """A task's template filled in for a masked or a causal language model.

    Args:
        tokenizer: the model's tokenizer.
        task: the template and its words, and the limits of its texts.
        limit: the longest input in tokens.
        accepted: what the model takes.
        masked: fill `{mask}` with the mask token and read there; otherwise stop before it and read at the last token.

    Raises:
        ModelError: a masked model without a mask token, or text after the mask that a causal model cannot read.
        UsageError: the limit leaves no room for a text.
        DataError: the prompt and a label word share a token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        limit: int,
        accepted: Accepted = Accepted(),
        *,
        masked: bool,
    ) -> None:
        self.tokenizer, self.task, self.limit, self.masked = tokenizer, task, limit, masked
        self.accepted = accepted
        if masked and tokenizer.mask_token is None:
            raise ModelError("This tokenizer has no mask token; a masked prompt needs one. Load the model as causal.")
        try:
            self.pieces = task.pieces if masked else task.causal_pieces
        except UsageError as error:
            raise ModelError(str(error)) from error
        self.template = task.template if masked else task.causal_template or task.template
        self._words = {label: task.words[label] for label in task.labels}
        samples = [*_SAMPLES, *self._words.values()]
        self._appended = 0 if masked else _appended(tokenizer, samples)
        sample = next((text for text in samples if token_count(tokenizer, text)), samples[0])
        self._follows = Continuation(0, []) if masked else self._continuation({"text": sample, "text2": sample})
        self._alone = len(self._tokens({"text": "", "text2": ""})["input_ids"])
        if self._alone >= limit:
            raise UsageError(
                f"The prompt {self.template!r} alone takes {self._alone} tokens, and the text needs one; inputs have at "
                f"most {limit}. Use --max-length {self._alone + 1} or more, or a shorter template."
            )

    def __call__(self, example: Example) -> Encoded:
        """The prompt's ids.

        Each text is cut to its own limit first; when the whole is still too long, the longer text is cut at the end of a
        token until it fits. The prompt is never cut.

        Raises:
            DataError: the text holds a mask token, or shares a token with the answer.
        """
        texts, whole, found = self._cut(example)
        if not found["input_ids"]:
            raise DataError(
                f"The prompt {self.template!r} has no tokens for {example.text!r}. Drop the row or fill it in."
            )
        if not self.masked and self._touches and self._continuation(texts) != self._follows:
            raise self._shared(texts)
        short = len(found["input_ids"]) <= self._alone
        dropped = short and not any(token_count(self.tokenizer, text) for text in whole.values())
        read = _encoded(self.tokenizer, found, self.accepted, cut=texts != whole, dropped=dropped)
        if not self.masked:
            return read
        places = [place for place, token in enumerate(read.ids) if token == self.tokenizer.mask_token_id]
        if len(places) != 1:
            raise DataError(
                f"The prompt has {len(places)} mask tokens, expected one: the text must not contain "
                f"{self.tokenizer.mask_token!r} itself. Drop this row: {example.text!r}."
            )
        return replace(read, position=places[0])

    def written(self, example: Example) -> str:
        """What the tokenizer reads of an example: the prompt with its texts, cut to the limit. Raises as a call does."""
        return self._written(self._cut(example)[0])

    @property
    def appended(self) -> int:
        """How many tokens the tokenizer puts behind a text that do not belong to a prompt."""
        return self._appended

    def completion(self, label: str) -> str:
        """How the word of a label goes on from `written`, with the blanks that belong to it."""
        end = self._prompt({"text": _SAMPLES[1], "text2": _SAMPLES[1]})
        return end[len(end) - self._follows.swallowed :] + self._words[label]

    def _cut(self, example: Example) -> tuple[dict[str, str], dict[str, str], dict[str, list[int]]]:
        """The texts of an example as far as there is room for them, as they are, and the tokens of the first."""
        texts: dict[str, str] = {"text": example.text.strip(), "text2": (example.text2 or "").strip()}
        whole = dict(texts)
        for name, most in (("text", self.task.text_limit), ("text2", self.task.text2_limit)):
            if most is not None:
                texts[name] = first_tokens(self.tokenizer, texts[name], most)
        found = self._tokens(texts)
        while (excess := len(found["input_ids"]) - self.limit) > 0:
            self._shorten(texts, excess)
            found = self._tokens(texts)
        return texts, whole, found

    def _tokens(self, texts: Mapping[str, str]) -> dict[str, list[int]]:
        found = self.tokenizer(self._written(texts))
        return {name: values[: len(values) - self._appended] for name, values in found.items()}

    def _written(self, texts: Mapping[str, str]) -> str:
        prompt = self._prompt(texts)
        return prompt[: len(prompt) - self._follows.swallowed]

    def _prompt(self, texts: Mapping[str, str]) -> str:
        """The prompt as it is written; of a causal model, up to the answer."""
        return filled_prompt(self.pieces, {**texts, "mask": str(self.tokenizer.mask_token) if self.masked else ""})

    def _shorten(self, texts: dict[str, str], excess: int) -> None:
        """Cut `excess` tokens off the longer text."""
        lengths = {name: token_count(self.tokenizer, text) for name, text in texts.items()}
        longest = max(lengths, key=lambda name: lengths[name])
        if not texts[longest]:
            raise DataError(f"The prompt {self.template!r} alone exceeds {self.limit} tokens. Raise --max-length.")
        texts[longest] = first_tokens(self.tokenizer, texts[longest], max(0, lengths[longest] - excess))

    @property
    def _lead(self) -> str:
        """The words of the template right before the answer."""
        before = self.pieces[: mask_place(self.pieces)]
        return before[-1].literal if before else ""

    @property
    def _touches(self) -> bool:
        """Whether no blank stands between the text and the last word before the answer, so that the text decides."""
        return len(self._lead.strip().split()) < 2 and not (self._lead.strip() and self._lead[0].isspace())

    def _continuation(self, texts: Mapping[str, str]) -> Continuation:
        found = continuation(self.tokenizer, self._prompt(texts), list(self._words.values()))
        if found is None:
            raise self._shared(texts)
        return found

    def _shared(self, texts: Mapping[str, str]) -> DataError:
        words = ", ".join(map(repr, self._words.values()))
        return DataError(
            f"After {self._prompt(texts)[-40:]!r} the tokenizer reads the answers {words} together with what stands before "
            "them, so it is not clear where the prompt ends. Put words or a mark and one space right before {mask}, for "
            "example '{text} Answer: {mask}'."
        )

    def answer_ids(self, *, first_piece: bool = False) -> list[int]:
        """The token of each label's word where the answer stands, in label order.

        See `foretune.model.label_words`.

        Args:
            first_piece: take the first token of a word that is several.

        Raises:
            DataError: a word is empty, more than one token there (the message names the pieces), unknown to the tokenizer,
                or the same token as another label's.
        """
        words = list(self._words.values())
        pieces = masked_pieces(self.tokenizer, self._lead, words) if self.masked else self._follows.pieces
        return one_token_each(self.tokenizer, self._words, pieces, first_piece=first_piece)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, found: Mapping[str, Any], accepted: Accepted, *, cut: bool, dropped: bool
) -> Encoded:
    """What a tokenizer returned, as far as the model takes it; the output is read at the last token.

    Raises:
        ModelError: a token that the model has no row for.
    """
    ids = tuple(found["input_ids"])
    if accepted.rows is not None and max(ids) >= accepted.rows:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise ModelError(
            f"The token {token!r} has the number {max(ids)}, but the model's table has {accepted.rows} rows: the tokenizer "
            "belongs to another model, or tokens were added without resizing the table. Put the right tokenizer beside "
            "the model, or call resize_token_embeddings and save it again."
        )
    others = {name: tuple(found[name]) for name in accepted.names if name in found and len(found[name]) == len(ids)}
    unknown = ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    return Encoded(ids, len(ids) - 1, cut, others, unknown, dropped)


def _appended(tokenizer: PreTrainedTokenizerBase, samples: Sequence[str]) -> int:
    """How many tokens a tokenizer puts behind every text: EOS, [SEP].

    Args:
        tokenizer: the model's tokenizer.
        samples: texts; the first that has tokens of its own is looked at.

    Raises:
        ModelError: none has.
    """
    for sample in samples:
        found: Any = tokenizer(sample)
        if tokenizer.is_fast:
            added = [bool(mark) for mark in found.encodings[0].special_tokens_mask]
        else:
            special: set[Any] = set(tokenizer.all_special_ids)
            special.discard(tokenizer.unk_token_id)
            added = [token in special for token in found["input_ids"]]
        if not all(added):
            return list(reversed(added)).index(False)
    shown = ", ".join(map(repr, samples))
    raise ModelError(
        f"The tokenizer has no tokens for any of {shown}, so it is not clear where a prompt ends. Put the model's own "
        "tokenizer files beside it, choose other words, or train a head: --output head."
    )
