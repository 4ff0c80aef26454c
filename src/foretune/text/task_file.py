"""Tasks as YAML files: the built-in ones and a user's own have the same format.

    name: reviews
    labels: [bad, good]
    template: "{text} All in all it was {mask} ."
    words: {bad: terrible, good: great}
    text: review            # columns, where they are not called text and label
    label: rating

Only `labels` is needed; every key is a field of `Task`, besides `prompts`, which names the other prompts:

    prompts:
      short: {template: "{text} {mask}"}

Values are read as they are written: `Yes`, `no` and `null` are words here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foretune.errors import UsageError, nearest
from foretune.text.cells import label_name
from foretune.text.hub import HubSource
from foretune.text.task import MANUAL, Prompt, Task
from foretune.text.yaml_values import key_nodes, plain_values, yaml_root, yaml_text

_NUMBERS = ("test_cap", "max_length", "text_limit", "text2_limit")
_MAPPINGS = ("words", "prompts", "hub", "columns", "labels")
_PROMPT_KEYS = tuple(each.name for each in dataclasses.fields(Prompt))
_HUB_KEYS = tuple(each.name for each in dataclasses.fields(HubSource))
_TASK_KEYS = (
    *(each.name for each in dataclasses.fields(Task) if each.name not in ("prompt", "variants")),
    "prompts",
)


def read_task(path: Path) -> Task:
    """The task of a YAML file.

    Raises:
        UsageError: the file cannot be read, or does not hold a task; the message names the key and what is expected.
    """
    return parsed_task(yaml_text(path, "task file"), str(path), path.stem)


def parsed_task(text: str, source: str, name: str) -> Task:
    """The task that a YAML text describes.

    Args:
        text: YAML.
        source: what error messages call it.
        name: the task's name where the text gives none.

    Raises:
        UsageError: see `read_task`.
    """
    root = key_nodes(yaml_root(text, source), source)
    read = _known({key: plain_values(node, source) for key, node in root.items()}, _TASK_KEYS, source)
    labels = read.get("labels")
    if not isinstance(labels, list) or any(not isinstance(label, str) or not label.strip() for label in labels):
        raise UsageError(
            f"{source}: expected a list of labels, such as `labels: [negative, positive]`, got {labels!r}."
        )
    read["labels"] = [label_name(label) for label in labels]
    try:
        return _task({"name": name, **read}, source)
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(source) else f"{source}: {error}") from error


def _task(values: dict[str, Any], source: str) -> Task:
    for key in _NUMBERS:
        if key in values:
            values[key] = _number(values[key], key, source)
    prompts = _mapping(values.pop("prompts", {}), "prompts", source)
    if MANUAL in prompts:
        raise UsageError(f"{source}: the prompt {MANUAL!r} is the task's own template; give the other one a name.")
    if "hub" in values:
        values["hub"] = _hub(values["hub"], source)
    values["words"] = _words(values.get("words", {}), values["labels"], source)
    values["variants"] = {name: _prompt(prompt, name, values["labels"], source) for name, prompt in prompts.items()}
    return Task(**values)


def _prompt(values: object, name: str, labels: Iterable[str], source: str) -> Prompt:
    where = f"{source}: prompts: {name}"
    known = _known(values, _PROMPT_KEYS, where)
    if "template" not in known:
        raise UsageError(f"{where}: expected a template, such as {{template: '{{text}} {{mask}}'}}.")
    return Prompt(known["template"], _words(known.get("words", {}), labels, where), known.get("causal_template"))


def _words(values: object, labels: Iterable[str], source: str) -> dict[str, str]:
    labels = list(labels)
    words = {label_name(key): word for key, word in _mapping(values, "words", source).items()}
    for key, word in words.items():
        if key not in labels or not isinstance(word, str) or not word:
            raise UsageError(
                f"{source}: words: expected one word for each of {', '.join(labels)}, got {key}: {word!r}."
                f"{nearest(key, labels) if key not in labels else ''}"
            )
    return words


def _hub(values: object, source: str) -> HubSource:
    where = f"{source}: hub"
    known = _known(values, _HUB_KEYS, where)
    if "id" not in known:
        raise UsageError(f"{where}: expected an id, the owner/name of a dataset.")
    for key in ("columns", "labels"):
        if key in known:
            known[key] = _mapping(known[key], key, where)
            wrong = next((name for name, value in known[key].items() if not isinstance(value, str) or not value), None)
            if wrong is not None:
                raise UsageError(f"{where}: {key}: {wrong}: expected one word, got {known[key][wrong]!r}.")
    return HubSource(**known)


def _known(values: object, keys: Iterable[str], source: str) -> dict[str, Any]:
    """A mapping whose keys are all known and whose values have the kind that their key has."""
    if not isinstance(values, dict):
        raise UsageError(f"{source}: expected `key: value` lines with the keys {', '.join(keys)}.")
    for key, value in values.items():
        if key not in keys:
            raise UsageError(f"{source}: unknown key {key!r}.{nearest(str(key), keys)} Known: {', '.join(keys)}.")
        if key not in _MAPPINGS and (not isinstance(value, str) or not value):
            raise UsageError(f"{source}: {key}: expected one value, got {value!r}.")
    return dict(values)


def _mapping(values: object, key: str, source: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UsageError(f"{source}: {key}: expected `name: value` lines, got {values!r}.")
    return values


def _number(value: str, key: str, source: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise UsageError(f"{source}: {key}: expected a whole number, got {value!r}.")
    return int(value)
