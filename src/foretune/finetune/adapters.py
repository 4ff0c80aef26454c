"""Adapters of peft on a copy of the model, with the matrices A that the kernel of LoRA knows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch

from foretune.errors import UsageError
from foretune.finetune.copies import copy_with_own
from foretune.finetune.lora_config import exact_targets
from foretune.kernels.lora import LoRA
from foretune.model.classes import loaded_class
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel
from foretune.model.outputs import Outputs
from foretune.model.parameters import holds_outputs_in_columns
from foretune.naming import layer_number, layer_path


def adapted(outputs: Outputs, formula: LoRA, layers: tuple[int, ...] | None = None) -> LanguageModel:
    """The model of `outputs` with LoRA adapters; it shares the memory of the frozen weights.

    Args:
        outputs: the function to adapt.
        formula: rank, alpha, targets, and how A is drawn.
        layers: only these layers, by number.

    Raises:
        UsageError: no linear layer matches, peft cannot adapt one that does, or the model has adapters already.
    """
    import peft

    blocks = adapted_blocks(outputs, formula, layers)
    lm = copy_with_own(outputs.lm, ())
    if isinstance(lm.module, peft.PeftModel):
        raise UsageError(f"{lm.name} has adapters already. Train those: method ft (FullTuning()).")
    modules = {name: name.removesuffix(".weight") for name in blocks}
    transposed = any(holds_outputs_in_columns(lm.module.get_submodule(path)) for path in modules.values())
    config = peft.LoraConfig(
        r=formula.rank,
        lora_alpha=formula.alpha,  # pyright: ignore[reportArgumentType]
        use_rslora=formula.rslora,
        fan_in_fan_out=transposed,
        **exact_targets([loaded_class(lm)], blocks),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers is about to rename
        module: Any = peft.get_peft_model(lm.module, config)  # pyright: ignore[reportArgumentType]
    for name, path in modules.items():
        a = module.get_base_model().get_submodule(path).lora_A["default"].weight
        with torch.no_grad():
            a.copy_(torch.from_numpy(formula.matrix(name, a.shape[1])))
    return replace(lm, module=module.eval())


def adapted_blocks(outputs: Outputs, formula: LoRA, layers: tuple[int, ...] | None = None) -> list[str]:
    """The adapted weights: those of the kernel, within the body where a head answers, in the wanted layers.

    Raises:
        UsageError: there is none.
    """
    kinds = outputs.kinds()
    if isinstance(outputs, HeadLogits):
        body = set(outputs.body())
        kinds = {name: kind for name, kind in kinds.items() if name in body}
    blocks = formula.blocks(kinds)
    if layers is None:
        return blocks
    numbers = {name: layer_number(path) for name in blocks if (path := layer_path(name)) is not None}
    unknown = sorted(set(layers) - set(numbers.values()))
    if unknown or not layers:
        known = ", ".join(map(str, sorted(set(numbers.values())))) or "none"
        raise UsageError(f"LoRA layers {list(layers)}: adapters fit in the layers {known}.")
    return [name for name in blocks if numbers.get(name) in layers]
