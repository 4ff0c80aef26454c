"""From keyword arguments to the groups of options of a command: what a value may be is written in the command's table."""

from __future__ import annotations

import inspect
import re
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from foretune.cli.app import COMMANDS
from foretune.cli.held import Held
from foretune.cli.ranges import List
from foretune.cli.settings import filled_groups, option_hints
from foretune.errors import UsageError
from foretune.model.live import live_model
from foretune.model.load import LanguageModel
from foretune.naming import shown
from foretune.text.quoted import quoted
from foretune.text.task import Task

SCREEN = frozenset({"debug", "details", "exit_code", "json", "plan", "quiet", "verbose"})
"""Options that are about the screen: a function has `progress` instead, and results have methods."""
LOADING = ("dtype", "device", "revision", "kind", "trust_remote_code")
"""Options that say how a model is loaded."""
_MEMORY = "rows in memory"
_PARTS = {"train": "data", "validation": "validation_data", "test": "test_data"}
"""Split of a set of datasets -> the option that takes it."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def function_options(command: str) -> dict[str, Any]:
    """Option -> its default (`dataclasses.MISSING` where it must be given), of the function of a command."""
    options = [field for group in COMMANDS[command].groups.values() for field in fields(group)]
    return {field.name: field.default for field in options if field.name not in SCREEN}


def told(command: str) -> Callable[[_Function], _Function]:
    """Add to a function's docstring what the help of a command says of the options that it does not describe itself.

    Args:
        command: whose options its keywords are.
    """

    def with_options(function: _Function) -> _Function:
        text = inspect.getdoc(function) or ""
        hints = option_hints(COMMANDS[command].groups)
        lines = []
        for name in function_options(command):
            help_text = " ".join((getattr(hints[name].__metadata__[0], "help", None) or "").replace("\\[", "[").split())
            help_text = re.sub(r"(\S*\*\S*?)([,.]?)(?=\s|$)", r"``\1``\2", help_text)  # no emphasis
            if f"\n    {name}: " not in text and name in inspect.signature(function).parameters:
                lines.append(f"    {name}: {help_text}")
        before, mark, after = text.partition("\n\nRaises:")
        function.__doc__ = "\n".join([before, *lines]) + mark + after
        return function

    return with_options


def groups_of(command: str, given: Mapping[str, Any], *, progress: bool) -> dict[str, Any]:
    """The groups of options of a command, by the argument of its function.

    Args:
        command: its name.
        given: option -> value, of every option that the function has.
        progress: whether progress is shown on standard error.

    Raises:
        UsageError: a value is of a wrong type or out of range, or options contradict each other.
    """
    groups = COMMANDS[command].groups
    hints, defaults = option_hints(groups), function_options(command)
    values = {field.name: field.default for group in groups.values() for field in fields(group)}
    values |= {name: _value(name, value, hints[name], defaults[name]) for name, value in given.items()}
    if "quiet" in values:
        values["quiet"] = not progress
    return filled_groups(groups, values)


def asked_groups(command: str, given: dict[str, Any]) -> dict[str, Any]:
    """The groups of options of a command that takes a model and rows.

    Args:
        command: its name.
        given: keyword -> value, with `tokenizer` and `progress`.

    Raises:
        UsageError, ModelError, NonFiniteError: see `groups_of`, `model_given` and `rows_given`.
    """
    tokenizer, progress = given.pop("tokenizer"), given.pop("progress")
    loading = {name: given[name] for name in LOADING}
    given["model"] = model_given(given["model"], tokenizer, loading)
    return groups_of(command, {**given, **rows_given(given)}, progress=progress)


def model_given(model: Any, tokenizer: Any, options: Mapping[str, Any]) -> str | Held:
    """A model's name, or the model in memory.

    Args:
        model: a name, a folder, a `LanguageModel`, or a transformers or peft model.
        tokenizer: of a transformers model.
        options: of the model, which say how it is loaded.

    Raises:
        UsageError, ModelError, NonFiniteError: see `live_model`; or options that only a model which is loaded can follow.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise UsageError("A model that is named comes with its own tokenizer. Leave tokenizer out.")
        return str(model)
    changed = [name for name, value in options.items() if value != function_options("forecast")[name]]
    if changed:
        raise UsageError(
            f"{changed[0]}={options[changed[0]]!r} says how to load a model, but this one is already in memory. Leave "
            "it out, or pass the model's folder."
        )
    lm = model if isinstance(model, LanguageModel) else live_model(_module(model), tokenizer)
    return Held(lm, lm.name)


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"The model is {type(model).__name__}; expected a name, a folder, or a transformers model with tokenizer=..."
        )
    return model


def rows_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options `data`, `validation_data` and `test_data`, with rows in memory held.

    Args:
        given: those three as the user passed them. A `datasets.DatasetDict`, or a dict of datasets or data frames, gives
            its train, validation and test.

    Raises:
        UsageError: a part is given twice.
    """
    found: dict[str, Any] = {name: given.get(name) for name in _PARTS.values()}
    if _is_set(found["data"]):
        parts: dict[str, Any] = dict(found["data"])
        found["data"] = parts.pop("train")
        for split in ("validation", "test"):
            part = parts.pop(split, None)
            if part is None:
                continue
            if found[_PARTS[split]] is not None:
                raise UsageError(
                    f"The {split} rows are given twice, in data and as {_PARTS[split]}. Pass data['train'], or leave "
                    f"{_PARTS[split]} out."
                )
            found[_PARTS[split]] = part
        if parts:
            warnings.warn(f"Of data only train, validation and test are read, not {', '.join(parts)}.", stacklevel=4)
    return {name: _held(value) for name, value in found.items()}


def _is_set(data: Any) -> bool:
    """Whether data are several tables by the name of their split."""
    tables = isinstance(data, Mapping) and all(hasattr(part, "columns") or _is_dataset(part) for part in data.values())
    return tables and "train" in data


def _is_dataset(part: Any) -> bool:
    return hasattr(part, "column_names")


def _held(rows: Any) -> Any:
    """Rows in memory, held; a name as it is."""
    if rows is None or isinstance(rows, str):
        return rows
    if isinstance(rows, Path):
        return str(rows)
    return Held(rows, rows.name if isinstance(rows, Task) else _MEMORY)


def _value(name: str, value: Any, hint: Any, default: object) -> Any:
    """A value as the option has it: lists with commas, mappings as `a=b,c=d`.

    Raises:
        UsageError: it is of another type.
    """
    if value is None and default is None:
        return None
    if isinstance(value, Held):
        return value
    rules = hint.__metadata__
    if any(isinstance(rule, List) for rule in rules) and isinstance(value, Sequence | Real) and not _is_text(value):
        several = value if isinstance(value, Sequence) else [value]
        return ",".join(quoted(str(each)) for each in several)
    if name == "words" and isinstance(value, Mapping):
        return ",".join(f"{quoted(str(label))}={quoted(str(word))}" for label, word in value.items())
    if name == "task" and isinstance(value, Task):
        return Held(value, value.name)
    kinds = _kinds(hint.__origin__)
    for kind in kinds:
        if (made := _as(kind, value)) is not None:
            return made
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "the name of a file"}
    expected = " or ".join(dict.fromkeys(words[kind] for kind in kinds if kind in words))
    raise UsageError(f"{name} is {shown(value)}; expected {expected}.")


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of an option without None; words of a choice are texts."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for each in typing.get_args(hint) for kind in _kinds(each))
    if typing.get_origin(hint) is typing.Literal:
        return (str,)
    return () if hint is type(None) else (hint,)


def _as(kind: type, value: Any) -> Any:
    """The value as a type; None where it is not of that type."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is int:
        return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if kind is float:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    if kind is Path:
        return Path(value) if isinstance(value, str | Path) else None
    return str(value) if isinstance(value, str | Path) else None


def must_be_given(command: str) -> set[str]:
    """The options of a command without a default."""
    return {name for name, default in function_options(command).items() if default is MISSING}
