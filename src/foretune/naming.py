"""Names: layers by those of parameters (`layers.3`, `encoder.layer.3`, `h.3`), and text of others on screens."""

from __future__ import annotations

import re
import unicodedata

_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_LONGEST = 60
_NUMBERED = re.compile(r"(?:^|\.)([A-Za-z_]\w*)\.(\d+)\.")


def shown(value: object) -> str:
    """A value as Python writes it, its end left out where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def layer_path(name: str) -> str | None:
    """The layer that a parameter belongs to, such as `model.layers.3`; None outside of the layers."""
    match = _NUMBERED.search(name)
    return None if match is None else name[: match.end() - 1]


def layer_number(path: str) -> int:
    """3 for `model.layers.3`."""
    return int(path.rpartition(".")[2])


def visible(text: str) -> str:
    r"""Text that a terminal shows and does not obey.

    Control characters, characters that turn the direction of writing, and halves of surrogate pairs become escapes such
    as ``\x1b``; line breaks and tabs stay.
    """
    return "".join(_escape(character) if _commands(character) else character for character in text)


def one_line(text: str) -> str:
    """`visible` text on one line: line breaks with the blanks around them become one blank."""
    return visible(re.sub(r"\s*[\r\n\v\f\u2028\u2029]\s*", " ", text).strip())


def _commands(character: str) -> bool:
    """Whether a terminal may take a character for a command."""
    kind = unicodedata.category(character)
    return (kind in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t") or character in _DIRECTIONS


def _escape(character: str) -> str:
    return ascii(character)[1:-1]
