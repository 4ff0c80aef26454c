"""Groups of options as one command line: flags, a YAML file given by `--config`, and the record of a run.

`command(run)` makes a typer command of a function whose arguments are groups of options (`foretune.cli.options`). Each
output folder holds a YAML file (`run.yaml`) that repeats the run.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ArgumentInfo

from foretune.cli.ranges import typed as typed_name
from foretune.errors import UsageError, nearest

_NOT_REPEATED = {"plan", "debug", "quiet"}


def _config(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults for all options from a YAML file."""
    if file is None:
        return None
    import yaml

    try:
        if file.exists() and not file.is_file():  # a pipe that nobody writes to would be waited for
            raise UsageError(f"The settings file {file} is not a regular file. Expected a YAML file such as run.yaml.")
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"Cannot read the settings file {file}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file}: expected `option: value` lines, got {type(values).__name__}.")
    flags = {
        parameter.name: getattr(parameter, "is_flag", False)
        for parameter in context.command.params
        if parameter.name not in (None, "config")
    }
    given: dict[str, object] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            raise UsageError(f"{file}: unknown option {key!r}.{nearest(str(key), flags)} Known: {', '.join(flags)}.")
        if name in given:
            raise UsageError(f"{file}: the option {key!r} stands there twice. Keep one of them.")
        if value is not None:
            given[name] = _typed_value(f"{file}: {key}", value, flag=flags[name])
    context.default_map = {**(context.default_map or {}), **given}
    return file


def _typed_value(where: str, value: object, *, flag: bool) -> object:
    """A value of a YAML file as it would be typed: lists with commas, mappings as `a=b,c=d`.

    Raises:
        UsageError: it cannot be typed.
    """
    if isinstance(value, bool) != flag:
        expected = "true or false" if flag else "a value"
        raise UsageError(f"{where} is {value!r}; expected {expected}.")
    if isinstance(value, list | tuple):
        parts = list(value)
    elif isinstance(value, dict):
        parts = [f"{name}={word}" for name, word in value.items()]
    else:
        parts = None
    if parts is None:
        if not str(value).strip():
            raise UsageError(f"{where} is empty. Leave it out, or give it a value.")
        return value
    if not parts or any(isinstance(part, list | dict | None) or "," in str(part) for part in parts):
        raise UsageError(f"{where} is {value!r}; expected a list of words or numbers without commas, such as [a, b].")
    return ",".join(map(str, parts))


Config = Annotated[
    Path | None, typer.Option(help="YAML file with any of these options.", callback=_config, is_eager=True)
]


def command(run: Callable[..., None]) -> Callable[..., None]:
    """A typer command whose parameters are the fields of the groups of options that `run` takes."""
    groups: dict[str, Any] = {name: hint for name, hint in get_type_hints(run).items() if name != "return"}
    hints = {
        field.name: get_type_hints(group, include_extras=True)[field.name]
        for group in groups.values()
        for field in dataclasses.fields(group)
    }

    def typed(**values: Any) -> None:
        values.pop("config")
        for name, hint in hints.items():
            _check(name, hint, values)
        run(
            **{
                name: group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
                for name, group in groups.items()
            }
        )

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=_without_rules(hints[field.name]),
        )
        for group in groups.values()
        for field in dataclasses.fields(group)
    ]
    parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    typed.__doc__, typed.__name__ = run.__doc__, run.__name__
    return typed


def _check(name: str, hint: Any, values: Mapping[str, object]) -> None:
    """Hold the value of an option against its rules.

    Raises:
        UsageError: it breaks one.
    """
    info, *rules = hint.__metadata__
    option = name.upper() if isinstance(info, ArgumentInfo) else typed_name(name)
    for rule in rules:
        rule.check(option, values[name], values)


def _without_rules(hint: Any) -> Any:
    return Annotated[hint.__origin__, hint.__metadata__[0]]


class Command(TyperCommand):
    """A command that refuses empty words: no option means one, and an unset shell variable is what they mostly are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer, after a look at the words.

        Raises:
            UsageError: one is empty.
        """
        for before, word in zip(["", *args], args, strict=False):
            option, separator, value = word.partition("=")
            named = option if separator and option.startswith("--") else before if before.startswith("--") else ""
            if not (value if separator and option.startswith("--") else word).strip():
                what = f"{named} is empty" if named else "An argument is empty"
                raise UsageError(f"{what}. Leave it out, or give it a value; an unset shell variable is empty, too.")
        return super().parse_args(ctx, args)


def _default(field: dataclasses.Field) -> object:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def repeatable(groups: tuple[Any, ...]) -> dict[str, object]:
    """The options that repeat a run, by name."""
    values = {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in _NOT_REPEATED and value is not None
    }


def as_yaml(name: str, groups: tuple[Any, ...]) -> str:
    """A file for `--config`, with the command that repeats the run on top."""
    import yaml

    values = repeatable(groups)
    head = f"# foretune {name} {values.get('model')} {values.get('data')} --config run.yaml\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
