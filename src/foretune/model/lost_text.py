"""Which characters of a text a tokenizer does not read: unknown words, and what its normaliser or model drops."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNSEEN = ("C", "M", "Z")
"""Unicode's categories of controls, accents and blanks: a tokenizer that drops them loses no letter."""


def lost_piece(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The first piece of a text that no token of its own stands for; empty where every letter is read.

    Of a tokenizer without offsets (written in Python), the unknown token itself.
    """
    unknown: Any = tokenizer.unk_token_id
    if not tokenizer.is_fast:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return str(tokenizer.unk_token) if unknown is not None and unknown in ids else ""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    seen = 0
    for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        if letters := _letters(text[seen:start]):
            return letters
        if token == unknown and start < end:
            return text[start:end]
        seen = max(seen, end)
    return _letters(text[seen:])


def _letters(piece: str) -> str:
    """A piece of text without blanks, accents and controls."""
    return "".join(letter for letter in piece if not unicodedata.category(letter).startswith(_UNSEEN))
