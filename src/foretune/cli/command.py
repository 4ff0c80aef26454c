"""A command as it is typed, and as `--help` shows it: names in one column, no type where an option takes no value.

Typer gives a flag the type `<bool>`, though `--plan true` is a mistake, and a column of its own to the names that turn an
option off, which leaves 20 characters a line for the text at 80 columns.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from foretune.cli.foreign import own_words
from foretune.errors import UsageError

BLANK = ("--delimiter",)
"""Options that may be a blank or a tab."""


class Command(TyperCommand):
    """A command that reads the spellings of other programs, and refuses empty words and values of flags.

    No option means an empty word; an unset shell variable is what they mostly are.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage, with required arguments as they are named in texts: MODEL instead of {MODEL}."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        TyperCommand.format_help(_shown(self, ctx), ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer, after a look at the words.

        Raises:
            UsageError: one is empty.
        """
        flags = {
            name: each.secondary_opts for each in self.params for name in each.opts if getattr(each, "is_flag", False)
        }
        for before, word in zip(["", *args], args, strict=False):
            option, separator, value = word.partition("=")
            named = option if separator and option.startswith("--") else before if before.startswith("--") else ""
            given_value = value if separator and option.startswith("--") else word
            if not given_value or (not given_value.strip() and named not in BLANK):
                what = f"{named} is empty" if named else "An argument is empty"
                raise UsageError(f"{what}. Leave it out, or give it a value; an unset shell variable is empty, too.")
            _check_flag(flags, before, word)
        known = {
            option.removeprefix("--").replace("-", "_"): bool(getattr(parameter, "is_flag", False))
            for parameter in self.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        return super().parse_args(ctx, own_words(args, known))


class Program(TyperGroup):
    """The command `foretune` itself, whose help is shown in this way."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        TyperGroup.format_help(_shown(self, ctx), ctx, formatter)


def _check_flag(flags: Mapping[str, Sequence[str]], option: str, word: str) -> None:
    """Refuse true or false after an option that takes no value.

    Args:
        flags: option -> the names that turn it off.
        option: the word before.
        word: what was typed.

    Raises:
        UsageError: it is a flag.
    """
    if option in flags and word.lower() in ("true", "false"):
        no = f"write {flags[option][0]} instead" if flags[option] else "leave both out"
        remedy = f"leave {word!r} out" if word.lower() == "true" else no
        raise UsageError(f"{option} takes no value: {remedy}.")


def _shown(command: Any, context: Any) -> Any:
    """A copy of a command whose parameters are as the help shows them."""
    shown, parameters = copy.copy(command), [_readable(each) for each in command.get_params(context)]
    shown.get_params = lambda _: parameters
    return shown


def _readable(parameter: Any) -> Any:
    """A copy of a parameter with all names in one column; a flag has no type."""
    if parameter.param_type_name == "argument":
        return parameter
    readable = copy.copy(parameter)
    if getattr(parameter, "is_flag", False):
        readable.metavar = ""
    if parameter.secondary_opts and parameter.default is True:
        readable.help = f"{parameter.help}  \\[default: {parameter.opts[0].removeprefix('--')}]"
        readable.show_default = False
    long = [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]
    readable.opts = [",\n".join(long), *(name for name in parameter.opts if name not in long)]
    readable.secondary_opts = []
    return readable
