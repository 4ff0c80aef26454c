"""Advice that names an option of another command: a message serves all commands, so this says whose option it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

_COMMAND = re.compile(r"`foretune [^`]*`")
"""A whole command in a message has options of its own."""
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def elsewhere(message: str, command: str, options: Mapping[str, Set[str]]) -> str:
    """What is said after a message that names options which the running command does not have; often nothing.

    Args:
        message: the message.
        command: the running command.
        options: the options of every command by its name.
    """
    own = options.get(command, frozenset())
    found = {}
    for option in dict.fromkeys(_OPTION.findall(_COMMAND.sub("", message))):
        owners = [name for name, known in options.items() if option in known]
        if option not in own and owners:
            found[option] = ", ".join(owners)
    return "".join(f" {option} is an option of {owners}, not of {command}." for option, owners in found.items())
