"""Text to token ids: prompts whose text is cut when it is too long (never the prompt itself), and padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foretune.errors import DataError, ModelError, UsageError
from foretune.text.example import Example
from foretune.text.task import Task
from foretune.text.template import filled, mask_place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Tensor]
_CARRIER = "."  # stands for the text before the answer: some tokenizers write a space at the very start otherwise


@dataclass(frozen=True)
class Encoded:
    """One example as token ids, where the output is read, and whether its text was cut."""

    ids: tuple[int, ...]
    position: int
    cut: bool


def token_limit(tokenizer: PreTrainedTokenizerBase, config: Any, max_length: int | None) -> int:
    """The longest input in tokens: the smallest of the tokenizer's, the model's and the user's limits."""
    limits = [tokenizer.model_max_length, max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        offset = getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "longformer")
        limits.append(positions - (config.pad_token_id + 1 if offset else 0))  # these count positions from padding on
    return min(limit for limit in limits if limit)


def padded(encoded: Sequence[Encoded], pad_id: int, device: torch.device) -> Batch:
    """A batch padded on the right to its longest example.

    Returns:
        `input_ids` and `attention_mask` of shape (n, t), and `position`, shape (n,): where the output is read.
    """
    width = max(len(item.ids) for item in encoded)
    ids = torch.full((len(encoded), width), pad_id)
    mask = torch.zeros(len(encoded), width, dtype=torch.long)
    for row, item in enumerate(encoded):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, : len(item.ids)] = 1
    position = torch.tensor([item.position for item in encoded])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "position": position.to(device)}


class PlainEncoder:
    """Texts (or pairs) as the tokenizer writes them, for classification heads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        self.tokenizer, self.limit = tokenizer, limit

    def __call__(self, example: Example) -> Encoded:
        """The example's ids; the output is read at the last token."""
        if example.text2 is None:
            ids = self.tokenizer(example.text)["input_ids"]
            short = self.tokenizer(example.text, truncation=True, max_length=self.limit)["input_ids"]
        else:
            ids = self.tokenizer(example.text, example.text2)["input_ids"]
            short = self.tokenizer(example.text, example.text2, truncation=True, max_length=self.limit)["input_ids"]
        if not short:
            raise DataError(f"The text {example.text!r} has no tokens. Drop the row or fill it in.")
        return Encoded(tuple(short), len(short) - 1, len(short) < len(ids))


class PromptEncoder:
    """A task's template filled in for a masked or a causal language model.

    Args:
        tokenizer: the model's tokenizer.
        task: the template and its words, and the limits of its texts.
        limit: the longest input in tokens.
        masked: fill `{mask}` with the mask token and read there; otherwise stop before it and read at the last token.

    Raises:
        ModelError: a masked model without a mask token, or text after the mask that a causal model cannot read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task, limit: int, *, masked: bool) -> None:
        self.tokenizer, self.task, self.limit, self.masked = tokenizer, task, limit, masked
        if masked and tokenizer.mask_token is None:
            raise ModelError("This tokenizer has no mask token; a masked prompt needs one. Load the model as causal.")
        try:
            self.pieces = task.pieces if masked else task.causal_pieces
        except UsageError as error:
            raise ModelError(str(error)) from error
        self.template = task.template if masked else task.causal_template or task.template

    def __call__(self, example: Example) -> Encoded:
        """The prompt's ids.

        Each text is cut to its own limit first; when the whole is still too long, the longer text is cut at a token
        boundary until it fits. The prompt is never cut.
        """
        texts: dict[str, str] = {"text": example.text.strip(), "text2": (example.text2 or "").strip()}
        whole = dict(texts)
        for name, most in (("text", self.task.text_limit), ("text2", self.task.text2_limit)):
            if most is not None:
                texts[name] = self._first_tokens(texts[name], most)
        ids = self._ids(texts)
        while len(ids) > self.limit:
            self._shorten(texts, len(ids) - self.limit)
            ids = self._ids(texts)
        cut = texts != whole
        if not self.masked:
            return Encoded(tuple(ids), len(ids) - 1, cut)
        places = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        if len(places) != 1:
            raise DataError(
                f"The prompt has {len(places)} mask tokens, expected one: the text must not contain "
                f"{self.tokenizer.mask_token!r} itself."
            )
        return Encoded(tuple(ids), places[0], cut)

    def _ids(self, texts: dict[str, str]) -> list[int]:
        prompt = filled(self.pieces, {**texts, "mask": str(self.tokenizer.mask_token) if self.masked else ""})
        return self.tokenizer(prompt if self.masked else prompt.rstrip())["input_ids"]

    def _shorten(self, texts: dict[str, str], excess: int) -> None:
        """Cut `excess` tokens off the longer text."""
        lengths = {name: len(self._spans(text)) for name, text in texts.items()}
        longest = max(lengths, key=lambda name: lengths[name])
        if not texts[longest]:
            raise DataError(f"The prompt {self.template!r} alone exceeds {self.limit} tokens. Raise --max-length.")
        texts[longest] = self._first_tokens(texts[longest], max(0, lengths[longest] - excess))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of the text starts and ends."""
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def _first_tokens(self, text: str, most: int) -> str:
        """The text up to its `most`-th token."""
        spans = self._spans(text)
        if len(spans) <= most:
            return text
        return text[: spans[most - 1][1]].rstrip() if most else ""

    def answer_ids(self, *, first_piece: bool = False) -> list[int]:
        """The token that each label's word is in the place of the answer, in label order.

        A masked model's words come with a space in front where that makes each of them one token, as in Gao et al.
        2021, also when nothing stands before the mask; else without. A causal model's come as the prompt leads to
        them.

        Args:
            first_piece: take the first token of a word that is several.

        Raises:
            DataError: a word is more than one token there (the message names the pieces), unknown to the tokenizer,
                or the same token as another label's.
        """
        pieces = self._words_pieces()
        found: dict[int, str] = {}
        for label in self.task.labels:
            word = self.task.words[label]
            shown = [str(self.tokenizer.convert_ids_to_tokens(piece)) for piece in pieces[label]]
            if len(shown) != 1 and not (first_piece and shown):
                raise DataError(
                    f"The word {word!r} for the label {label!r} is {len(shown)} tokens here ({', '.join(shown)}); "
                    f"expected one. Choose another word: --words {label}=WORD, or answer with its first piece: "
                    "--first-piece (first_piece=True)."
                )
            first = pieces[label][0]
            if first == self.tokenizer.unk_token_id:
                raise DataError(f"The tokenizer does not know the word {word!r} for the label {label!r}. Use --words.")
            if first in found:
                raise DataError(
                    f"The words {found[first]!r} and {word!r} are the same token {shown[0]!r} to the model; it cannot "
                    "tell them apart. Use --words."
                )
            found[first] = word
        return list(found)

    def _words_pieces(self) -> dict[str, list[int]]:
        """The tokens of each label's word in the place of the answer."""
        lead = self._lead()
        spaced = lead != lead.rstrip() or not lead
        forms = [True, False] if self.masked else [spaced]
        found = [
            {
                label: self._answer_pieces(self.task.words[label], lead.rstrip(), spaced=form)
                for label in self.task.labels
            }
            for form in forms
        ]
        return next((form for form in found if all(len(pieces) == 1 for pieces in form.values())), found[0])

    def _lead(self) -> str:
        """The words of the template right before the answer."""
        before = self.pieces[: mask_place(self.pieces)]
        return before[-1].literal if before else ""

    def _answer_pieces(self, word: str, lead: str, *, spaced: bool) -> list[int]:
        lead = lead or (_CARRIER if spaced else "")
        before = self.tokenizer(lead, add_special_tokens=False)["input_ids"] if lead else []
        answer = (" " if spaced else "") + word
        both = self.tokenizer(lead + answer, add_special_tokens=False)["input_ids"]
        if both[: len(before)] == before:
            return both[len(before) :]
        return self.tokenizer(answer, add_special_tokens=False)["input_ids"]
