"""The reference is written from the code when the documentation is built.

reference/generated/api.md       every name of `foretune.__all__`, by autodoc
reference/generated/NAME.md      the command NAME: its help text and options
reference/generated/json.md      every kind of result and the meaning of its fields, from the shipped schemas
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import foretune


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    """Write the pages, and leave those alone that are the same."""
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(exist_ok=True)
    pages = {"api": _api(), "json": _schemas(), **_commands()}
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _api() -> list[str]:
    """Every public name with its docstring."""
    lines = [
        "# Python",
        "",
        "```python",
        "import foretune as ft",
        "```",
        "",
        "Names are imported when they are first used.",
    ]
    names = sorted((name for name in foretune.__all__ if not name.startswith("_")), key=str.lower)
    for name in names:
        thing = getattr(foretune, name)
        directive = "autoclass" if inspect.isclass(thing) else "autofunction"
        lines += ["", f"## {name}", "", "```{eval-rst}", f".. {directive}:: foretune.{name}"]
        lines += ["   :members:"] if inspect.isclass(thing) else []
        lines += ["   :inherited-members:", ""] if hasattr(thing, "to_frame") else [""]
        lines += ["```"]
    return lines


def _commands() -> Mapping[str, list[str]]:
    """One page per command."""
    typer = importlib.import_module("typer")
    root = typer.main.get_command(importlib.import_module("foretune.cli.app").app)
    return {name: list(_command(name, each)) for name, each in root.commands.items() if not each.hidden}


def _command(name: str, command: Any) -> Iterator[str]:
    """A command: what it does, its arguments, its options by panel."""
    help_text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    yield from (f"# foretune {name}", "", help_text.strip(), "")
    usage = " ".join(
        ["foretune", name, *[each.name.upper() if each.required else f"[{each.name.upper()}]" for each in arguments]]
    )
    yield from ("```text", f"{usage} [OPTIONS]", "```", "")
    if example:
        yield from (f"Example: `{' '.join(example.split())}`", "")
    panels: dict[str, list[Any]] = {}
    for each in command.params:
        if not getattr(each, "hidden", False):
            panel = "Arguments" if each in arguments else getattr(each, "rich_help_panel", None) or "Options"
            panels.setdefault(panel, []).append(each)
    for panel, options in panels.items():
        yield from (f"## {panel}", "")
        for each in options:
            yield from _option(each)


def _option(option: Any) -> Iterator[str]:
    """An option as an entry of a list of definitions."""
    spelled = [*option.opts, *option.secondary_opts] if option.param_type_name == "option" else [option.name.upper()]
    said = " ".join((option.help or "").replace("\\[", "[").split())
    said = re.sub(r"\s*\[default: (.*)\]$", r" Default: \1.", said)
    default = getattr(option, "show_default", None)
    if isinstance(default, str):
        said += f" Default: {default}."
    elif (
        option.default not in (None, False, "", ())
        and not callable(option.default)
        and option.param_type_name == "option"
    ):
        said += f" Default: {option.default}."
    yield from (", ".join(f"`{each}`" for each in spelled), f": {_escaped(said)}", "")


def _schemas() -> Iterator[str]:
    """The fields of every kind of result."""
    yield from (
        "# JSON",
        "",
        "`foretune schema KIND` prints the schema itself. Losses are in nats, times in seconds, memory in bytes,",
    )
    yield from ("unless a field says otherwise.", "")
    folder = Path(foretune.__file__).parent / "pages" / "schemas"
    for file in sorted(folder.glob("*.json")):
        schema = json.loads(file.read_text(encoding="utf-8"))
        yield from (f"## {file.stem}", "")
        yield from _fields(schema.get("properties", {}))


def _fields(properties: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The fields of one object."""
    yield from ("| field | type | meaning |", "|---|---|---|")
    for name, each in properties.items():
        meaning = _escaped(" ".join(str(each.get("description", "")).split()))
        yield f"| `{name}` | {_kind(each)} | {meaning} |"
    yield ""


def _kind(field: Mapping[str, Any]) -> str:
    """The type of a field in words."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(each) for each in field["anyOf"]))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    if "const" in field or "enum" in field:
        return "one of " + ", ".join(f"`{each}`" for each in field.get("enum", [field.get("const")]))
    return str(field.get("type", "any"))


def _escaped(text: str) -> str:
    """Text in which Markdown means nothing, except for code between backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts = [text.replace("`", "'")]
    for number in range(0, len(parts), 2):
        for sign in "\\<>*_[]{}|$":
            parts[number] = parts[number].replace(sign, f"\\{sign}")
    return "`".join(parts)
