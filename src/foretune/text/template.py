"""Templates: how a text (or a pair of texts) becomes a question with one place for the answer word.

A template names `{text}`, `{text2}` and `{mask}`: `"{text} It was {mask} ."`. A text can carry marks, after a bar:

    {text|unpunctuated}   without its last character, where that is a punctuation mark: "A dog runs." -> "A dog runs"
    {text2|lowered}       first letter in lower case: "An animal moves." -> "an animal moves."

and both together, `{text2|lowered|unpunctuated}`. They are the `sent-` and `sentl` of Gao et al. 2021, "Making
Pre-trained Language Models Better Few-shot Learners", whose published templates use them for sentence pairs; there the
last character goes whatever it is, here a letter or a digit stays.

The built-in tasks put a full stop or comma right behind the mask, as the templates that were run do (princeton-nlp's
LM-BFF and LM-Kernel-FT, `*mask*.*`); the papers' tables print a space there, which is another token to byte-level
tokenizers such as RoBERTa's.

A template without `{mask}` asks for the answer at its end: after its last white space, or after a space of its own where
it ends in none. White space and newlines stand as they are written.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foretune.errors import UsageError, nearest

FIELDS = ("text", "text2", "mask")


def _unpunctuated(text: str) -> str:
    return text[:-1].rstrip() if text and unicodedata.category(text[-1]).startswith("P") else text


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


MARKS: dict[str, Callable[[str], str]] = {"unpunctuated": _unpunctuated, "lowered": _lowered}


@dataclass(frozen=True)
class Piece:
    """A part of a template: words that stand as they are, or a field to fill in.

    Attributes:
        literal: the words; empty for a field.
        field: `text`, `text2` or `mask`; None for words.
        marks: what is done to the field's text, in order.
    """

    literal: str = ""
    field: str | None = None
    marks: tuple[str, ...] = ()

    def filled(self, texts: Mapping[str, str]) -> str:
        """The piece with `texts` instead of its field."""
        if self.field is None:
            return self.literal
        text = texts[self.field]
        for mark in self.marks:
            text = MARKS[mark](text)
        return text


def template_pieces(template: str) -> tuple[Piece, ...]:
    """The pieces of a template, in order; the mask is always one of them.

    Raises:
        UsageError: no `{text}`, two masks, an unknown field or mark, a format such as `{text!r}`, or braces that do not
            close.
    """
    pieces: list[Piece] = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"Template {template!r}: {error}. Write {{text}}, {{text2}}, {{mask}}.") from error
    for literal, name, form, conversion in parsed:
        if literal:
            pieces.append(Piece(literal))
        if form or conversion:
            written = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
            raise UsageError(
                f"Template {template!r}: {written} asks for a format, but a text is filled in as it is. Write {{{name}}}."
            )
        if name is not None:
            field, *marks = name.split("|")
            pieces.append(Piece(field=field, marks=tuple(marks)))
    _check(template, pieces)
    if mask_place(pieces) == len(pieces):
        if pieces[-1].field is not None:
            pieces.append(Piece(" "))
        elif not pieces[-1].literal[-1].isspace():
            pieces[-1] = Piece(pieces[-1].literal + " ")
        pieces.append(Piece(field="mask"))
    return tuple(pieces)


def _check(template: str, pieces: Sequence[Piece]) -> None:
    fields = [piece.field for piece in pieces if piece.field is not None]
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown or fields.count("mask") > 1 or "text" not in fields:
        raise UsageError(
            f"Template {template!r}: expected {{text}}, and optionally {{text2}} and one {{mask}}"
            + (f"; {', '.join(unknown)!r} is not one of them.{nearest(unknown[0], FIELDS)}" if unknown else ".")
        )
    for piece in pieces:
        for mark in piece.marks:
            if mark not in MARKS or piece.field == "mask":
                raise UsageError(
                    f"Template {template!r}: {mark!r} is not a mark of {{{piece.field}}}. Expected {{text|MARK}} with "
                    f"{' or '.join(MARKS)}.{nearest(mark, MARKS)}"
                )


def mask_place(pieces: Sequence[Piece]) -> int:
    """Where the mask stands among the pieces; their number if there is none."""
    return next((place for place, piece in enumerate(pieces) if piece.field == "mask"), len(pieces))


def causal_pieces(template: str) -> tuple[Piece, ...]:
    """The pieces up to the mask, which comes last: what a causal model reads before it answers.

    Words after the mask are dropped.

    Raises:
        UsageError: a text follows the mask, or the template itself is wrong.
    """
    pieces = template_pieces(template)
    place = mask_place(pieces)
    if any(piece.field is not None for piece in pieces[place + 1 :]):
        raise UsageError(
            f"Template {template!r}: a causal model answers at the end, but a text follows {{mask}}. Put {{mask}} "
            "last, for example '{text} Question: {text2} Answer: {mask}', or give the task such a causal_template."
        )
    return pieces[: place + 1]


def filled_prompt(pieces: Sequence[Piece], texts: Mapping[str, str]) -> str:
    """The prompt: all pieces filled in, `texts` having one for each field."""
    return "".join(piece.filled(texts) for piece in pieces)
