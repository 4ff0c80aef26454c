"""What transformers reports of a load: weights that the file lacks are drawn at random, so they must not take part."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch

from foretune.errors import ModelError, NonFiniteError
from foretune.model.unused import is_classifier, trained_heads

_SHOWN = 4
_MANY = 0.1
"""The share of tensors without a place in the model from which on it is said."""

_LEFT_OUT = (
    "cls", "lm_head", "classifier", "score", "predictions", "discriminator_predictions", "generator_predictions", "decoder",
    "vision_tower", "visual", "head", "entity_predictions",
)  # fmt: skip
"""What stands beside the body that is read as an encoder."""

_ADAPTER = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
"""Parts of the names that peft gives to the weights of an adapter."""


def check_report(name: str, module: Any, report: Mapping[str, Any], kind: str) -> None:
    """See that every weight that the outputs depend on came from the file; the others are set to zero.

    Args:
        name: what the model was loaded by.
        module: the model.
        report: transformers' `output_loading_info`.
        kind: what it was loaded as.

    Raises:
        ModelError: weights are missing or have another shape, or belong to an adapter that was not merged, or are packed
            in a way that transformers does not know; the message names them.
    """
    shapes = {key: (tuple(given), tuple(wanted)) for key, given, wanted in report["mismatched_keys"]}
    absent = sorted({*report["missing_keys"], *shapes})
    used = _used(module, absent) if absent else []
    unexpected = sorted(report["unexpected_keys"])
    adapter = [key for key in unexpected if set(_ADAPTER) & set(key.split("."))]
    method = getattr(module.config, "quantization_config", None)
    if method and getattr(module, "hf_quantizer", None) is None:  # transformers reads the numbers as they are then
        raise ModelError(
            f"transformers does not know the quantization that config.json of {name} names: {method}. Take the model as "
            "it was before: float32, float16 or bfloat16, and take quantization_config out of its config.json."
        )
    if adapter:
        raise ModelError(
            f"{name} holds an adapter that was not merged into its weights ({_listed(adapter)}), so the model would be "
            "read without it. Merge it once with peft: merge_and_unload(), then save_pretrained(NEW) with the tokenizer "
            "beside it, and name the new folder."
        )
    if used:
        raise ModelError(_message(name, module, used, shapes, unexpected, kind))
    state = module.state_dict()
    for key in absent:
        if key in state:
            state[key].zero_()  # drawn at random otherwise: another model at every load
    many = len(unexpected) > _MANY * len(state) and not _expected(unexpected, kind)
    without_place = unexpected if many else _of_the_body(module, unexpected)
    heads = [] if many or (kind == "encoder" and is_classifier(module.config)) else trained_heads(module, unexpected)
    if heads:
        warnings.warn(
            f"{name} holds a head that {type(module).__name__} has no place for: {_listed(heads)}. It is not used: "
            f"{'a new head answers' if kind == 'encoder' else 'label words or a new head answer'}.",
            stacklevel=2,
        )
    if without_place:
        count = f"{len(without_place)} tensor{'s' if len(without_place) > 1 else ''}"
        warnings.warn(
            f"{name} holds {count} that {type(module).__name__} has no place for: {_listed(without_place)}. "
            "They are not used. Check that config.json belongs to these weights.",
            stacklevel=2,
        )


def non_finite_weights(module: Any) -> list[str]:
    """The parameters that hold infinite or undefined numbers, by name."""
    wide = ((key, each.detach()) for key, each in module.named_parameters() if each.is_floating_point())
    extremes = ((key, each.aminmax()) for key, each in wide if each.numel() and each.element_size() > 1)
    return [key for key, (low, high) in extremes if not bool(torch.isfinite(low) & torch.isfinite(high))]


def check_finite(name: str, module: Any, dtype: torch.dtype) -> None:
    """See that every weight that the outputs depend on is a number.

    Args:
        name: what the model was loaded by.
        module: the model.
        dtype: the precision that it was loaded in.

    Raises:
        NonFiniteError: weights are infinite or undefined; the message names them.
    """
    broken = non_finite_weights(module)
    used = _used(module, broken) if broken else []
    if used:
        half = " A number too large for this precision becomes infinite: try --dtype float32 (dtype='float32')."
        raise NonFiniteError(
            f"{name} has infinite or undefined numbers in {len(used)} of its weights: {_listed(used)}. Copy or download "
            f"the weights again.{half if dtype == torch.float16 else ''}"
        )


def _used(module: Any, chosen: Collection[str]) -> list[str]:
    """Those of the chosen tensors that the model's outputs depend on, by the graph of a short forward pass."""
    parameters = {key: tensor for key, tensor in module.named_parameters() if key in chosen}
    asked = {key: tensor.requires_grad for key, tensor in parameters.items()}
    try:
        for tensor in parameters.values():
            tensor.requires_grad_()
        ids = torch.arange(1, 17)[None] % len(module.get_input_embeddings().weight)
        with torch.enable_grad():
            output = module(input_ids=ids)[0].float().sum()
        grads = torch.autograd.grad(output, list(parameters.values()), allow_unused=True)
        idle = {key for key, grad in zip(parameters, grads, strict=True) if grad is None and ".experts." not in key}
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
        idle = set()  # nothing depends on them only where that can be seen
    finally:
        for key, tensor in parameters.items():
            tensor.requires_grad_(asked[key])
    return [key for key in chosen if key not in idle]


def _message(
    name: str,
    module: Any,
    used: list[str],
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    unexpected: list[str],
    kind: str,
) -> str:
    wrong = [key for key in used if key in shapes]
    if wrong:
        given, wanted = shapes[wrong[0]]
        return (
            f"The weights of {name} have other shapes than config.json says, {len(wrong)} in all: {wrong[0]} is {given}, "
            f"expected {wanted}. Put the right config.json beside the weights."
        )
    inside = {f"{module.base_model_prefix}." for _ in [0] if module.base_model is not module}
    head = bool(inside) and not any(key.startswith(tuple(inside)) for key in used)
    if head and kind in ("causal", "masked"):
        return (
            f"{name} has no weights for its output layer ({_listed(used)}), so it cannot answer a prompt with words. Put a "
            "classification head on its body instead: --kind encoder (kind='encoder')."
        )
    others = f" It holds {_listed(unexpected)} instead, which the model does not know." if unexpected else ""
    return (
        f"{name} lacks {len(used)} of the weights that {type(module).__name__} computes with: {_listed(used)}.{others} "
        "They would be drawn at random. Put the config.json of these weights beside them, or copy the weights again."
    )


def _expected(unexpected: list[str], kind: str) -> bool:
    """Whether the tensors left over are an output layer that an encoder leaves out on purpose."""
    return kind == "encoder" and all(set(_LEFT_OUT) & set(key.split(".")[:2]) for key in unexpected)


def _of_the_body(module: Any, unexpected: list[str]) -> list[str]:
    """Those of the tensors left over that a model like this one computes with, such as the biases of its own layers.

    They stand beside a parameter of a module that the model has, or in an entry beyond the last of a list of modules.
    What a module without parameters of its own keeps (positions, masks, frequencies) is not among them.
    """
    from torch.nn import ModuleList

    modules = dict(module.named_modules())
    holders = {key for key, each in modules.items() if key and next(each.parameters(recurse=False), None) is not None}
    lists = {key: len(each) for key, each in modules.items() if isinstance(each, ModuleList)}
    prefix = f"{module.base_model_prefix}."

    def computed_with(key: str) -> bool:
        parts = key.split(".")
        entries = [(".".join(parts[:place]), int(part)) for place, part in enumerate(parts) if part.isdecimal()]
        beyond = any(number >= lists[owner] for owner, number in entries if owner in lists)
        return beyond or ".".join(parts[:-1]) in holders

    return [key for key in unexpected if any(map(computed_with, {key, prefix + key, key.removeprefix(prefix)}))]


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN} more"
