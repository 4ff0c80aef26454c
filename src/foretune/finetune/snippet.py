"""Adapters as Python that a reader can run, and what to know beside them."""

from __future__ import annotations

import textwrap

from foretune.finetune.lora_config import SEQUENCE_CLASSIFICATION, AdapterConfig
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs

_DEFAULTS = {"peft_type": "LORA", "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False}
"""Of `LoraConfig`, which the Python need not repeat."""


def head_note(outputs: Outputs, config: AdapterConfig | None = None) -> str | None:
    """What has to be trained beside the adapters: the head, where the outputs have one.

    Args:
        outputs: of the forecast.
        config: of its adapters.
    """
    if not isinstance(outputs, HeadLogits):
        return None
    forecast = f"The forecast trains a linear head on {outputs.pooling} features beside these adapters"
    if config is not None and config.arguments["task_type"] == SEQUENCE_CLASSIFICATION:
        return (
            f"{forecast}, from the linear-probing solution. In {config.trained} this config trains the head of that class, "
            "which starts at random and pools in its own way; foretune tune --method lora trains the one of the forecast."
        )
    return (
        f"{forecast}. It is not a module of this model, so modules_to_save cannot name it: train a head of your own, or "
        "use foretune tune --method lora."
    )


def class_note(config: AdapterConfig) -> str:
    """The classes that a config fits, and those that it does not."""
    also = f"; the same modules are adapted in {_listed(config.also)}" if config.also else ""
    elsewhere = f". It does not fit {_listed(config.elsewhere)}" if config.elsewhere else ""
    return f"For {config.trained}{also}{elsewhere}."


def python_snippet(config: AdapterConfig, *notes: str | None) -> str:
    """Python that makes these adapters on `model`.

    Args:
        config: of `lora_config`.
        notes: go below as comments, such as `head_note(outputs)`; None for none.
    """
    given = {
        name: value
        for name, value in config.arguments.items()
        if value is not None and (name not in _DEFAULTS or _DEFAULTS[name] != value)
    }
    lines = [f"    {name}={value!r}," for name, value in given.items()]
    comments = [line for note in (class_note(config), *notes) for line in textwrap.wrap(note or "", 98)]
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


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
