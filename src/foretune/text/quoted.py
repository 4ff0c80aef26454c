"""Names in a comma-separated list: one that holds a comma or an equals sign stands in double quotes.

good,bad                        two names
"good, very",bad                two names, the first with a comma
"bad = not good"=awful          a name with an equals sign, and its word
"""

from __future__ import annotations

import shlex

from foretune.errors import UsageError


def pieces(option: str, text: str, separator: str) -> list[str]:
    """The parts of an option's value between separators that stand outside of quotes; their own quotes stay.

    Raises:
        UsageError: a quote does not close.
    """
    found, inside = [""], False
    for character in text:
        if character == separator and not inside:
            found.append("")
            continue
        if character == '"' and (inside or found[-1].rstrip()[-1:] in ("", "=", '"')):
            inside = not inside
        found[-1] += character
    if inside:
        raise UsageError(
            f'{option} {text!r} has a double quote that does not close. Write names with commas as "a, b".'
        )
    return found


def unquoted(part: str) -> str:
    """A name without the blanks and the double quotes around it."""
    name = part.strip()
    if len(name) >= 2 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name


def quoted(name: str) -> str:
    """A name as it stands in a list."""
    special = any(mark in name for mark in ',="') or name != name.strip()
    return '"' + name.replace('"', '""') + '"' if special else name


def typed_words(label: str, word: str) -> str:
    """`--words LABEL=WORD` as it is typed in a shell."""
    return f"--words {shlex.quote(f'{quoted(label)}={quoted(word)}')}"
