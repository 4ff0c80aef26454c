"""Groups of options as one command line: flags, a YAML file given by `--config`, and the record of a run.

`command` makes a typer command of groups of options (`foretune.cli.options`). Each output folder holds a YAML file
(`run.yaml`) that repeats the run.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from foretune.cli.command import BLANK
from foretune.cli.foreign import SAME, Given, is_foreign, own_options
from foretune.cli.held import Held
from foretune.cli.ranges import Choice, List, Rule, UsedWith
from foretune.cli.ranges import typed as typed_name
from foretune.errors import UsageError, nearest
from foretune.text.quoted import quoted
from foretune.text.yaml_values import given, key_nodes, plain_values, yaml_root, yaml_text

_NOT_REPEATED = {"forecast", "exit_code", "plan", "debug", "quiet", "verbose", "details"}
_TRUTH = ("true", "false", "yes", "no", "on", "off")


def _config(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults for all options from a YAML file."""
    if file is None:
        return None
    root = yaml_root(yaml_text(file, "settings file"), str(file))
    parameters: dict[str, Any] = {
        str(parameter.name): parameter
        for parameter in context.command.params
        if parameter.name not in (None, "config", "help")
    }
    found: dict[str, str] = {}
    foreign: list[Given] = []
    for key, node in ({} if root is None else key_nodes(root, str(file))).items():
        name = key.replace("-", "_")
        own = name if name in parameters else SAME.get(name, name)
        if own not in parameters and not is_foreign(name, parameters):
            raise UsageError(
                f"{file}: unknown option {key!r}.{nearest(name, parameters)} Known: {', '.join(parameters)}."
            )
        if not given(node):
            continue
        several = own in context.command.callback.lists  # type: ignore[union-attr]
        flag = own == name and getattr(parameters.get(own), "is_flag", False)
        value = _typed(f"{file}: {key}", plain_values(node, str(file)), own, flag=flag, several=several)
        if name != own or name not in parameters:
            foreign.append(Given(f"{file}: {key}", name, value))
        elif name in found:
            raise UsageError(f"{file}: the option {key!r} is given twice. Keep one of them.")
        else:
            found[name] = value
    for name, value in own_options(foreign, parameters):
        if name in found:
            raise UsageError(f"{file}: the option {name!r} is given twice, in two spellings. Keep one of them.")
        found[name] = value
    context.default_map = {**(context.default_map or {}), **found}
    return file


def _typed(where: str, value: object, name: str, *, flag: bool, several: bool) -> str:
    """A value of a YAML file as it is typed: lists with commas, mappings as `a=b,c=d`.

    Raises:
        UsageError: the option takes one value, or not this kind.
    """
    if isinstance(value, str):
        if not value or (not value.strip() and typed_name(name) not in BLANK):
            raise UsageError(f"{where} is empty. Leave it out, or give it a value.")
        if flag and value.lower() not in _TRUTH:
            raise UsageError(f"{where} is {value!r}; expected true or false.")
        return value
    parts: list[str] = []
    if isinstance(value, dict) and name == "words":
        parts = [f"{quoted(label)}={quoted(word)}" for label, word in value.items() if isinstance(word, str)]
    elif isinstance(value, list) and several:
        parts = [quoted(part) for part in value if isinstance(part, str)]
    if not parts or not isinstance(value, list | dict) or len(parts) < len(value):
        raise UsageError(f"{where} is {value!r}; expected {_expected(name, several=several)}.")
    return ",".join(parts)


def _expected(name: str, *, several: bool) -> str:
    """What an option may be in a YAML file."""
    if name == "words":
        return "`label: word` lines such as {bad: terrible, good: great}"
    return "one value or a list such as [a, b]" if several else "one value"


Config = Annotated[
    Path | None, typer.Option(help="YAML file with any of these options.", callback=_config, is_eager=True)
]


def command(
    name: str, groups: Mapping[str, Any], text: str, early: Callable[[Mapping[str, Any]], None] | None = None
) -> Callable[..., None]:
    """A typer command whose parameters are the fields of some groups of options.

    It calls `run_NAME` of the module `foretune.cli.NAME`, which is imported when the options are known to be good.

    Args:
        name: the command.
        groups: argument of the function -> the class of a group.
        text: the help.
        early: called with the groups before that module is imported.
    """
    known = {field.name: field for group in groups.values() for field in dataclasses.fields(group)}
    hints = option_hints(groups)

    def typed(**values: Any) -> None:
        values.pop("config")
        values = {option: _number(typed_name(option), value, hints[option]) for option, value in values.items()}
        filled = filled_groups(groups, values)
        if early is not None:
            early(filled)
        module = importlib.import_module(f"foretune.cli.{name}")
        getattr(module, f"run_{name}")(**filled)

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=_shown(field.name, hints[field.name]),
        )
        for field in known.values()
    ]
    parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    typed.__doc__, typed.__name__ = text, f"run_{name}"
    typed.lists = frozenset(option for option, hint in hints.items() if _rule(hint, List))  # type: ignore[attr-defined]
    return typed


def filled_groups(groups: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Argument -> its group with the values of the options, which are held against their rules.

    Args:
        groups: argument -> the class of a group.
        values: option -> value, of every option.

    Raises:
        UsageError: a value breaks a rule.
    """
    known = {field.name: field for group in groups.values() for field in dataclasses.fields(group)}
    for option, hint in option_hints(groups).items():
        _check(option, hint, values, known[option].default)
    return {
        argument: group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
        for argument, group in groups.items()
    }


def option_hints(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Option -> its annotated type."""
    found: dict[str, Any] = {}
    for group in groups.values():
        hints = get_type_hints(group, include_extras=True)
        found |= {field.name: hints[field.name] for field in dataclasses.fields(group)}
    return found


def _choices(hint: Any) -> tuple[str, ...]:
    """The words of a `Literal`; none for another type."""
    kinds = [each for each in (hint.__origin__, *get_args(hint.__origin__)) if get_origin(each) is Literal]
    return get_args(kinds[0]) if kinds else ()


def _number_kind(hint: Any) -> type[int] | type[float] | None:
    """Int or float, where an option is a number."""
    return next((kind for kind in (int, float) if kind in (hint.__origin__, *get_args(hint.__origin__))), None)


def _number(option: str, value: object, hint: Any) -> object:
    """The number that a text is; another value as it is.

    Raises:
        UsageError: it is not a number.
    """
    kind = _number_kind(hint)
    if kind is None or not isinstance(value, str):
        return value
    try:
        if not value.isascii() or "_" in value:
            raise ValueError(value)
        return kind(value)
    except ValueError as error:
        one = " This command takes one value: repeat it for each." if "," in value else ""
        raise UsageError(f"{option} is {value!r}; expected {_TYPES[kind]}.{one}") from error


def _rule(hint: Any, kind: type[Rule]) -> bool:
    return any(isinstance(rule, kind) for rule in hint.__metadata__)


def _check(name: str, hint: Any, values: Mapping[str, object], default: object) -> None:
    """Hold the value of an option against its rules.

    Raises:
        UsageError: it breaks one.
    """
    info, *rules = hint.__metadata__
    option = name.upper() if isinstance(info, ArgumentInfo) else typed_name(name)
    for rule in (*([Choice(_choices(hint))] if _choices(hint) else []), *rules):
        if values[name] != default or not isinstance(rule, UsedWith):
            rule.check(option, values[name], values)


def _shown(name: str, hint: Any) -> Any:
    """What typer is told of an option.

    Numbers and choices are text to it, read and checked here with messages of our own; it completes the words of a choice.
    """
    info, words, kind = copy.copy(hint.__metadata__[0]), _choices(hint), _number_kind(hint)
    text = Annotated[str | None if type(None) in get_args(hint.__origin__) else str, info]
    if isinstance(hint.__metadata__[0], ArgumentInfo):
        info.metavar = name.upper()
    if kind is not None:
        info.metavar = f"<{kind.__name__}>"
        return text
    if not words:
        return Annotated[hint.__origin__, info]
    if not all(re.search(rf"\b{word}\b", info.help) for word in words):
        *before, last = words
        info.help = info.help.replace(".", f": {', '.join(before)} or {last}.", 1)
    info.metavar = "<choice>"
    info.autocompletion = lambda incomplete: [word for word in words if word.startswith(incomplete)]
    return text


def _default(field: dataclasses.Field) -> object:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def repeatable(groups: tuple[Any, ...]) -> dict[str, object]:
    """The options that repeat a run, by name; what is in memory is not repeated."""
    values = {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in _NOT_REPEATED and value is not None and not isinstance(value, Held)
    }


def typed_again(groups: tuple[Any, ...]) -> list[str]:
    """The arguments and options of some groups as words of a command line, without those left at their defaults."""
    arguments: list[str] = []
    options: dict[str, object] = {}
    for group in groups:
        hints = get_type_hints(type(group), include_extras=True)
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if isinstance(hints[field.name].__metadata__[0], ArgumentInfo):
                arguments.append(str(value))
            elif value != field.default:
                options[field.name] = value
    return [*arguments, *option_words(options)]


def option_words(values: Mapping[str, object]) -> list[str]:
    """Options as words of a command line.

    Args:
        values: name of the field -> value.
    """
    words: list[str] = []
    for field, value in values.items():
        name = typed_name(field)
        flags = {True: name, False: typed_name(f"no_{field}")}
        words += [flags[value]] if isinstance(value, bool) else [name, str(value)]
    return words


def as_yaml(name: str, groups: tuple[Any, ...]) -> str:
    """A file for `--config`, with the command that repeats the run on top."""
    import yaml

    head = f"# foretune {name} --config run.yaml\n"  # no name of a file: it may hold what ends a comment
    return head + yaml.safe_dump(repeatable(groups), sort_keys=False, allow_unicode=True)


def is_written_yaml(file: Path, names: tuple[str, ...]) -> bool:
    """Whether a file is one that `as_yaml` wrote for one of some commands, and so may be replaced.

    What a user has changed in it since counts where it changes more than values: comments would be lost.
    """
    import yaml

    if not file.is_file():
        return False
    try:
        head, _, rest = file.read_text(encoding="utf-8").partition("\n")
        values = yaml.safe_load(rest)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    if head not in {f"# foretune {name} --config run.yaml" for name in names}:
        return False
    return rest == yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_groups(file: Path, groups: Mapping[str, Any], fixed: Mapping[str, object]) -> dict[str, Any]:
    """The groups of options that a run.yaml holds, held against the same rules as when they were typed.

    Args:
        file: run.yaml; other options in it are passed over.
        groups: name -> group.
        fixed: values that are not taken from the file.

    Raises:
        UsageError: a value is of another type or out of range; the message names file and option.
    """
    hints = option_hints(groups)
    defaults = {field.name: field.default for group in groups.values() for field in dataclasses.fields(group)}
    values: dict[str, Any] = dict(defaults)
    root = yaml_root(yaml_text(file, "settings file"), str(file))
    for name, node in key_nodes(root, str(file)).items():
        if name in hints and given(node):
            values[name] = _converted(f"{file}: {name}", plain_values(node, str(file)), hints[name].__origin__)
    values |= fixed
    for name, value in values.items():
        if value is dataclasses.MISSING:
            raise UsageError(f"{file} has no value for {name!r}. Repeat the run in a new folder.")
        try:
            _check(name, hints[name], values, defaults[name])
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from error
    return {
        name: group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
        for name, group in groups.items()
    }


_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "one value", Path: "the name of a file"}


def _converted(where: str, value: object, hint: Any) -> object:
    """A word of a YAML file as an option's type.

    Raises:
        UsageError: it is not of that type.
    """
    kind = next((each for each in _TYPES if each in (hint, *get_args(hint))), str)  # a Literal holds words
    try:
        if not isinstance(value, str):
            raise ValueError(value)
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{where} is {value!r}; expected {_TYPES[kind]}. Correct that value, or repeat the run in a new folder."
        ) from error
