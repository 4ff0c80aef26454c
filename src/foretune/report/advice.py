"""The recommended adapters as a `LoraConfig`: JSON that peft loads, and the Python that makes it.

A classification head of foretune is no module of the model, so that peft's `modules_to_save` cannot name it: a config
that did would be refused, or would train another head. What has to be trained beside is said in words.

peft chooses modules by suffix, by suffix within numbered layers, or by a regular expression over whole names. The
shortest of these that picks exactly the wanted modules of this model is taken.
"""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from foretune.errors import UsageError
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.naming import layer_number, layer_path


def lora_config(blocks: Iterable[str], rank: int, alpha: float, modules: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `peft.LoraConfig`, as its `adapter_config.json` holds them.

    Args:
        blocks: adapted weights, such as `model.layers.3.mlp.up_proj.weight`.
        rank, alpha: of every adapter.
        modules: every module of the model -> the name of its class: whatever peft could pick by mistake.

    Raises:
        UsageError: a block is no weight of a module of the model.
    """
    wanted = {block.removesuffix(".weight") for block in blocks}
    unknown = sorted(wanted - set(modules))
    if unknown or not wanted:
        raise UsageError(
            f"No module {', '.join(unknown[:3]) or '(no blocks given)'} in this model; expected the weights of modules."
        )
    return {
        "peft_type": "LORA",
        "task_type": None,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(modules[name] == "Conv1D" for name in wanted),
        **_targets(wanted, list(modules)),
    }


def head_note(outputs: Outputs) -> str | None:
    """What has to be trained beside the adapters: the head, where the outputs have one."""
    if not isinstance(outputs, HeadLogits):
        return None
    return (
        f"The forecast trains a linear head on {outputs.pooling} features beside these adapters. It is no module of this "
        "model, so modules_to_save cannot name it: train a head of your own, or use foretune tune --method lora."
    )


def python_snippet(config: Mapping[str, Any], *notes: str | None) -> str:
    """Python that makes these adapters on `model`.

    Args:
        config: of `lora_config`.
        notes: go below as comments, such as `head_note(outputs)`; None for none.
    """
    left_out = ("peft_type", "task_type", "lora_dropout", "bias")
    given = {name: value for name, value in config.items() if name not in left_out and value not in (None, False)}
    lines = [f"    {name}={value!r}," for name, value in given.items()]
    comments = [line for note in notes for line in textwrap.wrap(note or "", 98)]
    return "\n".join(
        [
            "from peft import LoraConfig, get_peft_model",
            "",
            "config = LoraConfig(",
            *lines,
            ")",
            "model = get_peft_model(model, config)",
            *(f"# {line}" for line in comments),
        ]
    )


def _targets(wanted: set[str], modules: list[str]) -> dict[str, Any]:
    """`target_modules` and what goes with it."""
    paths = {name: layer_path(f"{name}.weight") for name in wanted}
    inside = {name: name if path is None else name[len(path) + 1 :] for name, path in paths.items()}
    lists = {path.rpartition(".")[0].rpartition(".")[2] for path in paths.values() if path is not None}
    numbers = sorted({layer_number(path) for path in paths.values() if path is not None})
    suffixes = [sorted({name.rpartition(".")[2] for name in wanted}), sorted(set(inside.values()))]
    within: list[dict[str, Any]] = [{"layers_to_transform": None, "layers_pattern": None}]
    if len(lists) == 1 and None not in paths.values():
        within.append({"layers_to_transform": numbers, "layers_pattern": lists.pop()})
    for layers in within:
        for targets in suffixes:
            if _matched(targets, layers, modules) == wanted:
                return {"target_modules": targets, **layers}
    return {"target_modules": _expression(wanted, paths, inside), **within[0]}


def _matched(targets: list[str], layers: Mapping[str, Any], modules: list[str]) -> set[str]:
    """The modules that peft picks: by suffix, and by the first number behind the list's name."""
    found = {name for name in modules if f".{name}".endswith(tuple(f".{target}" for target in targets))}
    if layers["layers_to_transform"] is None:
        return found
    numbered = re.compile(rf"(?:^|.*?\.){re.escape(layers['layers_pattern'])}\.(\d+)\.")
    places = {name: match for name in found if (match := numbered.match(name))}
    inside = {name for name, match in places.items() if int(match[1]) in layers["layers_to_transform"]}
    return inside | found & set(targets)  # a target that is a whole name is taken whatever the layers


def _expression(wanted: set[str], paths: Mapping[str, str | None], inside: Mapping[str, str]) -> str:
    """A regular expression that whole names of the wanted modules match, and nothing else."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    plain = [re.escape(name) for name in sorted(wanted) if paths[name] is None]
    for name in wanted:
        path = paths[name]
        if path is not None:
            groups[path.rpartition(".")[0], inside[name]].append(layer_number(path))
    numbered = [
        f"{re.escape(before)}\\.({'|'.join(map(str, sorted(numbers)))})\\.{re.escape(after)}"
        for (before, after), numbers in sorted(groups.items())
    ]
    return "|".join([*numbered, *plain])
