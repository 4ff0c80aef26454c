"""Groups of options as one command line: flags, a YAML file given by `--config`, and the record of a run.

`command(run)` makes a typer command of a function whose arguments are groups of options (`foretune.cli.options`). Each
output folder holds a YAML file (`run.yaml`) that repeats the run.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from foretune.errors import UsageError, nearest

_NOT_REPEATED = {"plan", "debug"}


def _config(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults for all options from a YAML file."""
    if file is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the settings file {file}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file}: expected `option: value` lines, got {type(values).__name__}.")
    known = [parameter.name for parameter in context.command.params if parameter.name not in (None, "config")]
    for key in values:
        if str(key).replace("-", "_") not in known:
            raise UsageError(f"{file}: unknown option {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}.")
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    context.default_map = {**(context.default_map or {}), **given}
    return file


Config = Annotated[
    Path | None, typer.Option(help="YAML file with any of these options.", callback=_config, is_eager=True)
]


def command(run: Callable[..., None]) -> Callable[..., None]:
    """A typer command whose parameters are the fields of the groups of options that `run` takes."""
    groups: dict[str, Any] = {name: hint for name, hint in get_type_hints(run).items() if name != "return"}

    def typed(**values: Any) -> None:
        values.pop("config")
        run(
            **{
                name: group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
                for name, group in groups.items()
            }
        )

    parameters = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hint)
        for group in groups.values()
        for field, hint in zip(
            dataclasses.fields(group), get_type_hints(group, include_extras=True).values(), strict=True
        )
    ]
    parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    typed.__doc__, typed.__name__ = run.__doc__, run.__name__
    return typed


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
