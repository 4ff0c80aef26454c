"""YAML as words, lists and mappings: nothing is made of a word, no key stands twice, no tag makes an object.

`Yes`, `no` and `010` stay as they are written. What is nested too deeply, refers to itself or repeats a key is refused, in
one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foretune.errors import ForetuneError, UsageError
from foretune.text.files.content import Reading, file_text

if TYPE_CHECKING:
    from yaml.nodes import Node

_TAGS = [f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp")]
_NOTHING = ("", "~", "null", "Null", "NULL")

Values = str | list["Values"] | dict[str, "Values"]


def yaml_text(path: Path, what: str) -> str:
    """The characters of a YAML file.

    Args:
        path: the file.
        what: it is, for messages.

    Raises:
        UsageError: it cannot be read, or it is a folder, a pipe or a device.
    """
    try:
        return file_text(path, Reading())
    except ForetuneError as error:
        reason = str(error).split(" Add --encoding")[0]
        raise UsageError(f"{reason} Expected a {what}: YAML in UTF-8.") from error


def yaml_root(text: str, source: str) -> Node | None:
    """The node of a YAML document; None for an empty one.

    Raises:
        UsageError: it is not YAML, or nested too deeply; the message names the line.
    """
    import yaml

    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UsageError(f"{source} is nested too deeply. Expected `key: value` lines.") from error


def key_nodes(node: Node | None, source: str) -> dict[str, Node]:
    """The nodes of a mapping by their keys.

    Raises:
        UsageError: it is something else, or a key is not a word or stands twice.
    """
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{source}: expected `key: value` lines, got {_kind(node)}.")
    found: dict[str, Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{source}, line {key.start_mark.line + 1}: expected a word as key, got {_kind(key)}.")
        if key.value in found:
            raise UsageError(f"{source}, line {key.start_mark.line + 1}: the key {key.value!r} stands twice. Keep one.")
        found[key.value] = value
    return found


def plain_values(node: Node, source: str) -> Values:
    """A node as words, lists and mappings.

    Raises:
        UsageError: a tag, a key that stands twice, or a list or mapping that is referred to a second time.
    """
    return _plain(node, source, set())


def _plain(node: Node, source: str, seen: set[int]) -> Values:
    import yaml

    line = node.start_mark.line + 1
    if id(node) in seen:  # repeated references could grow without an end
        raise UsageError(f"{source}, line {line}: an alias (*name) stands for a list or mapping. Write it out.")
    if node.tag not in _TAGS:
        raise UsageError(f"{source}, line {line}: the tag {node.tag!r} has no meaning here. Write a plain word.")
    if not isinstance(node, yaml.ScalarNode):
        seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        return {key: _plain(value, source, seen) for key, value in key_nodes(node, source).items()}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, source, seen) for item in node.value]
    return str(node.value)


def given(node: Node) -> bool:
    """Whether a node is more than nothing or null."""
    import yaml

    return not (isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NOTHING)


def _kind(node: Node | None) -> str:
    import yaml

    if node is None:
        return "nothing"
    return {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}.get(type(node), "one word")
