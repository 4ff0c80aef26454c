"""How `--help` shows a command: names in one column, no type where an option takes no value, arguments as texts name them.

Typer gives a flag the type `<bool>`, though `--plan true` is a mistake, and a column of its own to the names that turn an
option off, which leaves 20 characters a line for the text at 80 columns.
"""

from __future__ import annotations

import copy
from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help is shown in this way."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage, with required arguments as they are named in texts: MODEL instead of {MODEL}."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        TyperCommand.format_help(_shown(self, ctx), ctx, formatter)


class Group(TyperGroup):
    """The command `foretune` itself, whose help is shown in this way."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        TyperGroup.format_help(_shown(self, ctx), ctx, formatter)


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
