"""How a result was made: command, settings, seeds, versions and hashes, from the document that holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Made:
    """How a result was made.

    Attributes:
        command: what makes it again; empty where that is not told.
        settings: options as the text of a run.yaml; empty where there are none.
        versions: package -> version.
        identity: what determines the result, each with its value or hash.
    """

    command: str
    settings: str
    versions: Mapping[str, str]
    identity: tuple[tuple[str, str], ...]


def made(values: Mapping[str, Any]) -> Made:
    """How the result of a document was made.

    Args:
        values: the document (`foretune.pages.json.document`).
    """
    about = _first("about", values)
    settings = _first("settings", about, values)
    versions = {"foretune": values.get("foretune", ""), **_first("versions", about, values)}
    identity = _first("identity", values)
    seeds = {"seed": settings["seed"]} if "seed" in settings else {}
    return Made(
        command=str(values.get("command", "")),
        settings=yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True) if settings else "",
        versions={name: str(version) for name, version in versions.items() if version},
        identity=tuple(_flat({**seeds, **identity})),
    )


def _first(name: str, *places: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is named so in the first of some places that has it; empty where none has."""
    return next((place[name] for place in places if isinstance(place.get(name), Mapping)), {})


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)
