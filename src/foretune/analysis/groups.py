"""Parameter names as layers and module types, and the sets of them that people train.

A layer is a numbered member of the model's longest list (`layers.3`, `encoder.layer.3`, `h.3`); a module type is the
path inside a layer (`self_attn.q_proj`). Everything outside the list (embeddings, final norm, head) is its own type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from foretune.naming import layer_number, layer_path

_QUERY_VALUE = {"q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "query_proj", "value_proj", "q", "v"}
_KEY = {"k_proj", "key", "k_lin", "key_proj", "k"}
_FUSED = {"c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj"}
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Group:
    """A named set of parameters.

    Attributes:
        name: name of the set, such as `model.layers.3`.
        kind: `layer`, `module type`, `third`, `all linear`, or `query and value`.
        names: parameters of the group.
    """

    name: str
    kind: str
    names: tuple[str, ...]


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


def thirds(paths: Sequence[str]) -> dict[str, list[str]]:
    """`first`, `middle` and `last` -> a third of some layers each, the first ones one longer where they do not divide."""
    parts = np.array_split(np.arange(len(paths)), 3)
    return {
        place: [paths[int(number)] for number in part]
        for place, part in zip(("first", "middle", "last"), parts, strict=True)
    }


def trainable_groups(names: Sequence[str], linear: Collection[str]) -> list[Group]:
    """Each layer, each module type, thirds of the layers, all linear layers, and query and value projections.

    Sets may be equal; none is empty.

    Args:
        names: parameters, in the model's order.
        linear: those of linear layers.
    """
    by_layer = layers(names)
    inside = [name for name in names if name in linear]
    found = [Group(name, "layer", tuple(members)) for name, members in by_layer.items()]
    found += [Group(name, "module type", tuple(members)) for name, members in module_types(names).items()]
    for place, part in thirds(list(by_layer)).items():
        members = tuple(name for path in part for name in by_layer[path])
        found.append(Group(f"{place} third of the layers", "third", members))
    found += [Group("all linear layers", "all linear", tuple(inside)), _query_value(inside)]
    return [group for group in found if group.names]


def key_weights(linear: Iterable[str]) -> list[str]:
    """The key projections among some weights of linear layers; none where a model fuses them with others."""
    return [name for name in linear if _module(name) in _KEY]


def query_value_weights(linear: Iterable[str]) -> list[str]:
    """The query and value projections among some weights of linear layers; none where a model fuses them with others."""
    return [name for name in linear if _module(name) in _QUERY_VALUE]


def in_attention(name: str) -> bool:
    """Whether a parameter belongs to attention, by its name."""
    return any(word in name.lower() for word in _ATTENTION)


def closing_weights(linear: Sequence[str]) -> list[str]:
    """The last linear layer of each attention and feed-forward part; all weights where there are no layers.

    What they give is added to the stream of the model (Vaswani et al. 2017, section 3.1): `o_proj` and `down_proj` of a
    Llama, the two `output.dense` of a BERT. Query, key and value are never the last, in whatever order a model holds them.

    Args:
        linear: weights of linear layers, in the model's order.
    """
    last: dict[tuple[str, bool], str] = {}
    for path, members in layers(linear).items():
        for name in members:
            if _module(name) not in _QUERY_VALUE | _KEY | _FUSED:
                last[path, in_attention(name[len(path) :])] = name
    closing = set(last.values())
    return [name for name in linear if name in closing] or list(linear)


def _module(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def _query_value(linear: Sequence[str]) -> Group:
    """Query and value projections, or the one weight that holds both where a model fuses them."""
    last = {name: _module(name) for name in linear}
    apart = tuple(query_value_weights(linear))
    if apart:
        return Group("query and value", "query and value", apart)
    fused = tuple(name for name in linear if last[name] in _FUSED)
    return Group("query, key and value (one weight)", "query and value", fused)
