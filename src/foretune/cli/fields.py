"""What an option is made of, and options made from the fields of the dataclasses that they fill.

A dataclass such as `Training` gives type and default of an option, and its help: the line that describes the field under
"Attributes:" in the dataclass's docstring. Where the default is None, "; None for X" there is shown as "[default: X]".
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from foretune.cli.ranges import List, Rule, listed

Filled = TypeVar("Filled")
_FILLS = "fills"


class Panel:
    """The titles under which `--help` shows options."""

    MODEL, DATA, OUTPUT, BLOCKS = "Model", "Data", "Outputs", "Parameters"
    FORMULA, SOLVER, RUN = "Kernel", "Solvers", "Run"
    METHOD, TRAINING, BEHAVIOUR = "Method", "Training", "Measures"
    WORKERS = "Workers"


def option(panel: str, text: str, *names: str) -> Any:
    """An option with its help, and its names where these do not follow from the field's."""
    return typer.Option(*names, help=text.replace("[", "\\["), rich_help_panel=panel)


def argument(text: str) -> Any:
    """An argument with its help."""
    return typer.Argument(help=text, show_default=False)


@dataclass(frozen=True, init=False)
class Field:
    """How one field of a dataclass is typed.

    Attributes:
        rules: what its value may be.
        name: name of the option, where it is not the field's.
        text: help, where it is not the field's description.
    """

    rules: tuple[Rule, ...]
    name: str
    text: str

    def __init__(self, *rules: Rule, name: str = "", text: str = "") -> None:
        for key, value in (("rules", rules), ("name", name), ("text", text)):
            object.__setattr__(self, key, value)


def options_of(kind: type, panel: str, before: str = "", **chosen: Field) -> Any:
    """A group of options to inherit from: one option for each chosen field of a dataclass.

    Args:
        kind: the dataclass.
        panel: title in the help.
        before: words that begin every help text.
        chosen: field -> how it is typed.
    """
    hints, about = get_type_hints(kind), described(kind)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    made = []
    for name, how in chosen.items():
        hint: Any = hints[name]
        if any(isinstance(rule, List) for rule in how.rules):
            hint = str | None if defaults[name] is None else str
        typed, text = how.name or name, how.text or about[name]
        flag = [f"--{typed.replace('_', '-')}"] if hint is bool and defaults[name] is False else []
        shown = option(panel, before + text if before else text[0].upper() + text[1:], *flag)
        field = dataclasses.field(default=defaults[name], metadata={_FILLS: name})
        made.append((typed, Annotated[hint, shown, *how.rules], field))  # pyright: ignore[reportInvalidTypeForm]
    return dataclasses.make_dataclass(f"{kind.__name__}Options", made, frozen=True)


def filled(kind: type[Filled], options: Any, **others: Any) -> Filled:
    """A dataclass with the values of the options that were made from its fields.

    Args:
        kind: the dataclass.
        options: a group of options.
        others: its other fields.
    """
    own = {field.name for field in dataclasses.fields(kind)} - set(others)  # pyright: ignore[reportArgumentType]
    return kind(
        **others,
        **{
            name: _value(options, field)
            for field in dataclasses.fields(options)
            if (name := field.metadata.get(_FILLS)) in own
        },
    )


def _value(options: Any, field: dataclasses.Field) -> object:
    """The value of an option; a list that was given as a tuple."""
    value = getattr(options, field.name)
    rules = get_type_hints(type(options), include_extras=True)[field.name].__metadata__
    several = any(isinstance(rule, List) for rule in rules)
    return listed(options, field.name) if several and value != field.default else value


def described(kind: type) -> dict[str, str]:
    """Field -> what the docstring of a dataclass says of it under "Attributes:"."""
    section = re.search(r"^Attributes:\n((?: {4}.*\n|\n)*)", f"{inspect.getdoc(kind)}\n", re.M)
    found = {}
    for names, text in re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.M):
        about = re.sub(r"; None for (.*?)\.$", r".  [default: \1]", " ".join(text.split()))
        found |= dict.fromkeys(names.split(", "), about)
    return found
