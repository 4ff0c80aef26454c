"""Text to token ids: prompts whose text is cut when it is too long (never the prompt itself), and padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foretune.errors import DataError, ModelError
from foretune.text.example import Example
from foretune.text.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Tensor]


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
        task: the template and its words.
        limit: the longest input in tokens.
        masked: fill `{mask}` with the mask token and read there; otherwise stop before it and read at the last token.

    Raises:
        ModelError: a masked model without a mask token, or text after the mask that a causal model cannot read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task, limit: int, *, masked: bool) -> None:
        self.tokenizer, self.task, self.limit, self.masked = tokenizer, task, limit, masked
        pieces = task.pieces
        mask_at = pieces.index(("field", "mask"))
        if masked and tokenizer.mask_token is None:
            raise ModelError("This tokenizer has no mask token; a masked prompt needs one. Load the model as causal.")
        if not masked:
            if any(kind == "field" for kind, _ in pieces[mask_at + 1 :]):
                raise ModelError(
                    f"Template {task.template!r}: a causal model answers at the end, but a text follows {{mask}}. "
                    "Put {mask} last, for example '{text} Question: {text2} Answer: {mask}'."
                )
            pieces = pieces[:mask_at]
        self.pieces = pieces
        self.lead = "".join(name for kind, name in _tail_before_mask(task.pieces))

    def __call__(self, example: Example) -> Encoded:
        """The prompt's ids; when they are too many the longer text is cut at a token boundary until they fit."""
        texts: dict[str, str] = {"text": example.text.strip(), "text2": (example.text2 or "").strip()}
        cut = False
        ids = self._ids(texts)
        while len(ids) > self.limit:
            cut = True
            self._shorten(texts, len(ids) - self.limit)
            ids = self._ids(texts)
        if not self.masked:
            return Encoded(tuple(ids), len(ids) - 1, cut)
        places = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        if len(places) != 1:
            raise DataError(
                f"The prompt has {len(places)} mask tokens, expected one: the text must not contain "
                f"{self.tokenizer.mask_token!r} itself."
            )
        return Encoded(tuple(ids), places[0], cut)

    def _ids(self, texts: Mapping[str, str]) -> list[int]:
        filled = {**texts, "mask": self.tokenizer.mask_token}
        prompt = "".join(str(filled[name]) if kind == "field" else name for kind, name in self.pieces)
        return self.tokenizer(prompt if self.masked else prompt.rstrip())["input_ids"]

    def _shorten(self, texts: dict[str, str], excess: int) -> None:
        """Cut `excess` tokens off the longer text."""
        spans = {
            name: self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for name, text in texts.items()
        }
        longest = max(spans, key=lambda name: len(spans[name]))
        keep = len(spans[longest]) - excess
        if not texts[longest]:
            raise DataError(f"The prompt {self.task.template!r} alone exceeds {self.limit} tokens. Raise --max-length.")
        texts[longest] = texts[longest][: spans[longest][keep - 1][1]].rstrip() if keep > 0 else ""

    def answer_ids(self) -> list[int]:
        """The token that each label's word is in the place of the answer, in label order.

        Raises:
            DataError: a word is more than one token there (the message names the pieces), unknown to the tokenizer,
                or the same token as another label's.
        """
        found: dict[int, str] = {}
        for label in self.task.labels:
            word = self.task.words[label]
            pieces = self._answer_pieces(word)
            shown = [str(self.tokenizer.convert_ids_to_tokens(piece)) for piece in pieces]
            if len(pieces) != 1:
                raise DataError(
                    f"The word {word!r} for the label {label!r} is {len(pieces)} tokens here ({', '.join(shown)}); "
                    f"expected one. Choose another word: --words {label}=WORD."
                )
            if pieces[0] == self.tokenizer.unk_token_id:
                raise DataError(f"The tokenizer does not know the word {word!r} for the label {label!r}. Use --words.")
            if pieces[0] in found:
                raise DataError(
                    f"The words {found[pieces[0]]!r} and {word!r} are the same token {shown[0]!r}. Use --words."
                )
            found[pieces[0]] = word
        return list(found)

    def _answer_pieces(self, word: str) -> list[int]:
        """The tokens of `word` after the words of the template that stand before the answer."""
        lead = self.lead.rstrip()
        spaced = self.lead != lead or (not lead and self._follows_text())
        before = self.tokenizer(lead, add_special_tokens=False)["input_ids"] if lead else []
        both = self.tokenizer(lead + (" " if spaced else "") + word, add_special_tokens=False)["input_ids"]
        if both[: len(before)] == before:
            return both[len(before) :]
        return self.tokenizer((" " if spaced else "") + word, add_special_tokens=False)["input_ids"]

    def _follows_text(self) -> bool:
        pieces = self.task.pieces
        return pieces.index(("field", "mask")) > 0


def _tail_before_mask(pieces: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    before = pieces[: pieces.index(("field", "mask"))]
    return before[-1:] if before and before[-1][0] == "literal" else []
