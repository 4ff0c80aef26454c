"""Layers by parameter names: numbered members of a list of modules (`layers.3`, `encoder.layer.3`, `h.3`)."""

from __future__ import annotations

import re

_NUMBERED = re.compile(r"(?:^|\.)([A-Za-z_]\w*)\.(\d+)\.")


def layer_path(name: str) -> str | None:
    """The layer that a parameter belongs to, such as `model.layers.3`; None outside of the layers."""
    match = _NUMBERED.search(name)
    return None if match is None else name[: match.end() - 1]


def layer_number(path: str) -> int:
    """3 for `model.layers.3`."""
    return int(path.rpartition(".")[2])
