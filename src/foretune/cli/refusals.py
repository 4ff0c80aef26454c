"""What is said, and the exit code, when a command ends in an error: of ours, of the command line's, or of a library.

Errors of libraries are met where they arise. What passes from there is sorted here by its class, so that a user reads
what it means; only the rest is "not expected".
"""

from __future__ import annotations

import errno
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from typer.exceptions import Abort, TyperException

from foretune.cli.elsewhere import elsewhere
from foretune.cli.foreign import INSTEAD, owners
from foretune.cli.ranges import typed
from foretune.errors import ForetuneError

_DAMAGED = "a file that was read is damaged, incomplete or of another kind"
_UNREADABLE = (EOFError, json.JSONDecodeError, struct.error, zlib.error, pickle.UnpicklingError, zipfile.BadZipFile)
_DEBUG = "Repeat with --debug for the traceback."
_NO_MEMORY = (
    "out of memory. Use a smaller --memory, fewer examples (--k, --test), fewer parameters (--blocks, --layers), or a "
    "smaller --batch-size or --rank; not every command has all of these."
)


def _options_by_command() -> dict[str, set[str]]:
    """The options of every command."""
    import typer

    from foretune.cli.app import app

    group: Any = typer.main.get_command(app)
    return {name: _options(command) for name, command in group.commands.items()}


def refusal(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """The message for an error that ended a command, and the exit code; an empty message where all is said already.

    Args:
        error: what was raised.
        arguments: what was typed.
    """
    if isinstance(error, ForetuneError):
        return f"{error}{elsewhere(str(error), ''.join(arguments[:1]), _options_by_command())}", error.exit_code
    if isinstance(error, TyperException):
        return _mistyped(error), error.exit_code
    if isinstance(error, Abort):  # what typer makes of an EOFError
        return f"{_DAMAGED}: it ends too early. {_DEBUG}", 1
    if _out_of_memory(error):
        return _NO_MEMORY, 1
    if isinstance(error, OSError):
        return _system(error), 1
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    kind = type(error).__name__
    if isinstance(error, RecursionError):
        return "a file that was read (JSON, YAML or a task) is nested too deeply. Write it with fewer levels.", 1
    if isinstance(error, UnicodeError):
        return f"a text or a name cannot be written as UTF-8: {first}. Remove that character. {_DEBUG}", 1
    if isinstance(error, _UNREADABLE) or type(error).__module__.partition(".")[0] in ("safetensors", "yaml", "zarr"):
        return f"{_DAMAGED}: {kind}: {first}. {_DEBUG}", 1
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"the Python package {package!r} is not installed. Type: python -m pip install {package}", 1
    return f"{kind}: {first}. This is not expected; repeat with --debug for the traceback.", 1


def _out_of_memory(error: Exception) -> bool:
    """Whether memory was refused; PyTorch's allocators raise a RuntimeError."""
    said = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or (isinstance(error, RuntimeError) and ("allocate memory" in said or "out of memory" in said))
    )


def _system(error: OSError) -> str:
    """A message for an error of the operating system that no place expected."""
    where = "standard output or a temporary file" if error.filename is None else repr(error.filename)
    reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    remedies = {
        errno.ENOSPC: "The disk is full: free some space.",
        errno.EDQUOT: "The quota is used up: free some space.",
        errno.EACCES: "Change its permissions, or choose another name.",
        errno.EPERM: "Change its permissions, or choose another name.",
        errno.ENAMETOOLONG: "Choose a shorter name.",
        errno.EMFILE: "Allow more open files (ulimit -n 4096).",
    }
    return f"cannot use {where}: {reason}. {remedies.get(error.errno or 0, _DEBUG)}"


def _mistyped(error: TyperException) -> str:
    """What is wrong with the command line, and where help is."""
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""  # the help is on the screen
    name = getattr(error, "option_name", None) if type(error).__name__ == "NoSuchOption" else None
    message = error.format_message() if name is None else _no_option(name, error, context)
    if "extra argument" in message:
        message = f"{message.rstrip('. ')}. Write a list as one word with commas, such as q_proj,v_proj"
    command = "foretune" if context is None else context.command_path
    return f"{message.rstrip('.')}. See `{command} --help`."


def _no_option(name: str, error: TyperException, context: Any) -> str:
    """What is typed instead of an option that the command does not have, or which commands have it."""
    bare = name.lstrip("-").replace("-", "_").lower()
    from foretune.cli.app import SPELLINGS

    own, option = _options(context.command), typed(bare)
    instead = option if option in own else INSTEAD.get(bare, "")
    if instead and (instead.split(",")[0] in own or not instead.startswith("--")):
        return f"No such option: {name}. Here it is {instead}"
    shown = {title: known for title, known in _options_by_command().items() if title not in SPELLINGS}
    others = [f"foretune {title}" for title, known in shown.items() if option in known]
    if others:
        return f"No such option: {name}. It belongs to {', '.join(others)}"
    said = owners(bare, shown)
    return f"No such option: {name}. {said}" if said else error.format_message()


def _options(command: Any) -> set[str]:
    """The names of a command's options."""
    return {name for parameter in command.params for name in parameter.opts if name.startswith("-")}
