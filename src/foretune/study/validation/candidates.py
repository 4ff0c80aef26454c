"""What is fine-tuned: named sets of a model's parameters, by LoRA on linear layers or by full tuning.

Adapters stand on layers, module types, thirds of the layers, all linear layers, and query and value projections; full
tuning takes layers, thirds, biases alone, and everything. A head is trained with every one of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.analysis.groups import Group, layers, thirds, trainable_groups
from foretune.errors import UsageError, nearest
from foretune.finetune.methods import FullTuning, LoRATuning, Method
from foretune.forecast.candidates import ALPHA
from foretune.model.outputs import Outputs
from foretune.model.parameters import ParameterFilter
from foretune.naming import layer_number

FEWEST = 4
"""Candidates that a ranking needs."""


@dataclass(frozen=True)
class Placement:
    """A set of parameters, and the method that trains it.

    Attributes:
        name: of the set.
        blocks: parameters whose kernels add up to the placement's, without those of a head.
        rank: of LoRA; None for full tuning.
        method: what is run.
    """

    name: str
    blocks: tuple[str, ...]
    rank: int | None
    method: Method


def placements(outputs: Outputs, rank: int | None) -> list[Placement]:
    """Every set of parameters that has a name; of equal sets the first.

    Args:
        outputs: the model as a function.
        rank: of LoRA with alpha 16; None for full tuning.
    """
    found = _full(outputs) if rank is None else _adapted(outputs, rank)
    distinct: dict[frozenset[str], Placement] = {}
    for placement in found:
        if placement.blocks:
            distinct.setdefault(frozenset(placement.blocks), placement)
    return list(distinct.values())


def chosen_placements(known: Sequence[Placement], globs: Sequence[str] | None) -> list[Placement]:
    """The placements whose names match one of some globs, all without any.

    Raises:
        UsageError: a glob matches none, or fewer than four are left.
    """
    names = [placement.name for placement in known]
    for glob in globs or ():
        if not fnmatch.filter(names, glob):
            raise UsageError(f"No candidate matches {glob!r}; there are {', '.join(names)}.{nearest(glob, names)}")
    wanted = {name for glob in globs or ("*",) for name in fnmatch.filter(names, glob)}
    if len(wanted) < FEWEST:
        raise UsageError(
            f"{len(wanted)} candidates ({', '.join(sorted(wanted))}) are too few for a ranking; expected at least {FEWEST} "
            f"of {', '.join(names)}."
        )
    return [placement for placement in known if placement.name in wanted]


def _adapted(outputs: Outputs, rank: int) -> list[Placement]:
    body = set(outputs.body())
    linear = [name for name, kind in outputs.kinds().items() if kind == "linear" and name in body]
    return [
        Placement(
            _title(group),
            group.names,
            rank,
            LoRATuning(rank, ALPHA, tuple(name.removesuffix(".weight") for name in group.names)),
        )
        for group in trainable_groups(linear, linear)
    ]


def _title(group: Group) -> str:
    """A group's name as tables have room for it."""
    if group.kind == "layer":
        return f"layer {group.name}"
    return group.kind if group.kind == "all linear" else group.name.removesuffix(" of the layers")


def _full(outputs: Outputs) -> list[Placement]:
    kinds, body = outputs.kinds(), outputs.body()
    inside = {name: kinds[name] for name in body}
    by_layer = layers(body)
    filters = {f"layer {path}": ParameterFilter(layers=(layer_number(path),)) for path in by_layer}
    for place, part in thirds(list(by_layer)).items():
        if part:
            filters[f"{place} third"] = ParameterFilter(layers=tuple(layer_number(path) for path in part))
    if "bias" in inside.values():
        filters["biases"] = ParameterFilter(biases_only=True)
    filters["whole model"] = ParameterFilter()
    return [
        Placement(name, tuple(wanted.names(inside, body)), None, FullTuning(wanted)) for name, wanted in filters.items()
    ]
