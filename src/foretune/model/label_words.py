"""The tokens of label words where the answer stands, and where a causal prompt ends for them.

Behind a causal prompt the words are read as they follow it: prompt and word are tokenized together. A byte-level
tokenizer writes `It was great` as `It`, ` was`, ` great`, so the prompt `It was ` ends before its last space, which the
word brings along; after `Answer:` and a newline the newline stays with the prompt and the word comes without a space. In
the place of a mask, words are taken as in Gao et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foretune.errors import DataError
from foretune.text.quoted import typed_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CARRIER = "."  # stands for the text before the answer: some tokenizers write a space at the very start otherwise
Pieces = list[list[int]]
"""The tokens of each word."""


@dataclass(frozen=True)
class Continuation:
    """How words go on from a prompt.

    Attributes:
        swallowed: how many blank characters at the prompt's end belong to the first token of each word.
        pieces: the tokens of each word, from there on.
    """

    swallowed: int
    pieces: Pieces


def continuation(tokenizer: PreTrainedTokenizerBase, prompt: str, words: Sequence[str]) -> Continuation | None:
    """How the words go on from a prompt; None where they share no end of it, so that its last token is not its own.

    Args:
        tokenizer: the model's tokenizer.
        prompt: what stands before the answer, as it is written, white space included.
        words: the words that may answer.
    """
    joint = [_ids(tokenizer, prompt + word) for word in words]
    for swallowed in range(len(prompt) - len(prompt.rstrip()) + 1):
        before = _ids(tokenizer, prompt[: len(prompt) - swallowed])
        if all(len(both) > len(before) and both[: len(before)] == before for both in joint):
            return Continuation(swallowed, [both[len(before) :] for both in joint])
    return None


def masked_pieces(tokenizer: PreTrainedTokenizerBase, lead: str, words: Sequence[str]) -> Pieces:
    """The tokens of words that fill a mask.

    They come with a space in front where that makes each of them one token, as in Gao et al. 2021, also when nothing
    stands before the mask; else without.

    Args:
        tokenizer: the model's tokenizer.
        lead: the words of the template right before the mask.
        words: the words that may answer.
    """
    forms = [[_behind(tokenizer, lead.rstrip(), space + word, space) for word in words] for space in (" ", "")]
    return next((form for form in forms if all(len(pieces) == 1 for pieces in form)), forms[0])


def _behind(tokenizer: PreTrainedTokenizerBase, lead: str, answer: str, space: str) -> list[int]:
    lead = lead or (_CARRIER if space else "")
    before, both = _ids(tokenizer, lead) if lead else [], _ids(tokenizer, lead + answer)
    return both[len(before) :] if both[: len(before)] == before else _ids(tokenizer, answer)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def one_token_each(
    tokenizer: PreTrainedTokenizerBase, words: dict[str, str], pieces: Pieces, *, first_piece: bool
) -> list[int]:
    """The one token of each label's word, in label order.

    Args:
        tokenizer: the model's tokenizer.
        words: label -> word.
        pieces: the tokens of each word.
        first_piece: take the first token of a word that is several.

    Raises:
        DataError: a word is empty, more than one token (the message names the pieces), unknown to the tokenizer, or the
            same token as another label's.
    """
    found: dict[int, str] = {}
    for (label, word), tokens in zip(words.items(), pieces, strict=True):
        if not word.strip():
            raise DataError(f"The word for the label {label!r} is empty. Name one: {typed_words(label, 'WORD')}.")
        shown = [str(tokenizer.convert_ids_to_tokens(token)) for token in tokens]
        if len(shown) != 1 and not (first_piece and shown):
            apart = all(pieces) and len({each[0] for each in pieces}) == len(pieces)
            first = ", answer with its first piece: --first-piece (first_piece=True)" if apart else ""
            raise DataError(
                f"The word {word!r} for the label {label!r} is {len(shown)} tokens here ({', '.join(shown)}); "
                f"expected one. Choose another word: {typed_words(label, 'WORD')}{first}, or train a head: --output head."
            )
        if tokens[0] == tokenizer.unk_token_id:
            raise DataError(
                f"The tokenizer does not know the word {word!r} for the label {label!r}. Choose another: "
                f"{typed_words(label, 'WORD')}."
            )
        if tokens[0] in found:
            raise DataError(
                f"The words {found[tokens[0]]!r} and {word!r} are the same token {shown[0]!r} to the model; it cannot "
                f"tell them apart. Choose another for one of them: {typed_words(label, 'WORD')}."
            )
        found[tokens[0]] = word
    return list(found)
