"""Texts cut to a number of tokens, at the end of a token and never inside a character.

A byte-level tokenizer writes one character as several tokens that share a span, and a shorter text is not always fewer
tokens. Each step here therefore leaves fewer characters than the one before, so that a cut ends for every text.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many tokens a text is, without what the tokenizer adds around it."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> str:
    """The start of a text that is `most` tokens or fewer; the whole text where it is no longer than that."""
    while token_count(tokenizer, text) > most:
        end = _end(tokenizer, text, most) if most > 0 else 0
        text = text[: min(end, len(text) - 1)].rstrip()  # at least one character goes
    return text


def _end(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> int:
    """Where the first `most` tokens end; before a character that is only partly among them."""
    if tokenizer.is_fast:
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return min(spans[most - 1][1], spans[most][0])
    lengths = range(len(text) + 1)
    return bisect.bisect_right(lengths, most, key=lambda length: token_count(tokenizer, text[:length])) - 1
