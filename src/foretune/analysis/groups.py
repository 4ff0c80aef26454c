"""Parameter names as layers and module types.

A layer is a numbered member of the model's longest list (`layers.3`, `encoder.layer.3`, `h.3`); a module type is the
path inside a layer (`self_attn.q_proj`). Everything outside the list (embeddings, final norm, head) is its own type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from foretune.naming import layer_number, layer_path


def layers(names: Iterable[str]) -> dict[str, list[str]]:
    """Layer -> its parameters, layers in order; the layer's name is its path, such as `model.layers.3`."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = layer_path(name)
        if path is not None:
            found[path].append(name)
    return dict(sorted(found.items(), key=lambda item: (item[0].rpartition(".")[0], layer_number(item[0]))))


def module_types(names: Iterable[str]) -> dict[str, list[str]]:
    """Module type -> its parameters over all layers, in order of appearance."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = layer_path(name)
        inside = name if path is None else name[len(path) + 1 :]
        found[inside.rpartition(".")[0] or inside].append(name)
    return dict(found)
