"""What the folder of a model holds and foretune does not use: trained heads, names of labels, and how it was pooled."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foretune.model.kinds import architecture

_PRETRAINING = (
    "cls", "lm_head", "predictions", "discriminator_predictions", "generator_predictions", "lm_predictions",
    "mask_predictions", "sop_classifier", "entity_predictions", "pred_layer", "final_logits_bias", "head", "decoder", "mtp",
    "vision_tower", "visual", "vision_model", "audio_tower", "multi_modal_projector",
)  # fmt: skip
"""Parts of models beside the body that is read, by the first part of their names: those of pretraining and other senses."""

_OF_MODULES = re.compile(r"(^|\.)(pooler|position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias)(\.|$)")
"""What models keep beside their weights, and the pooler, which no masked model has."""

_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
"""How sentence_transformers names what a head of foretune can do."""

_SETFIT = ("model_head.pkl", "model_head.joblib", "model_head.skops")


def trained_heads(module: Any, unexpected: Sequence[str]) -> list[str]:
    """Those of the tensors without a place in a model that belong to a head that somebody trained for a task.

    They stand beside the body: `classifier.weight`, `score.weight`, `v_head.summary.weight`. Output layers of pretraining
    are not among them, nor what a model computes anew.

    Args:
        module: the model as it was loaded.
        unexpected: names of the tensors.
    """
    body = {key.split(".")[0] for key, _ in module.named_parameters()} | {module.base_model_prefix}
    return [
        key
        for key in unexpected
        if (first := key.split(".")[0]) not in body and first not in _PRETRAINING and not _OF_MODULES.search(key)
    ]


def is_classifier(config: Any) -> bool:
    """Whether a model was saved with a head that classifies texts."""
    return "ForSequenceClassification" in architecture(config)


def say_classifier_unused(name: str, config: Any, kind: str) -> None:
    """Say of a trained classifier, or of a configuration that names labels, that neither is used.

    Args:
        name: what the model was loaded by.
        config: its configuration.
        kind: what it is read as.
    """
    labels = getattr(config, "id2label", None)
    names = [str(label) for label in labels.values()] if isinstance(labels, dict) else []
    own = any(not re.fullmatch(r"LABEL_\d+", label) for label in names)
    shown = f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if own else ""
    if is_classifier(config) and kind == "encoder":
        count = f"{len(names)} label{'s' if len(names) != 1 else ''}"
        warnings.warn(
            f"{name} is a trained classifier ({architecture(config)}) of {count}{shown}. Its body is read, with a new head "
            "for the labels of the task on it: the classifier that it was trained with is not used.",
            stacklevel=2,
        )
    elif own:
        warnings.warn(
            f"The config.json of {name} names {len(names)} labels{shown}. They are not used: the labels are those of the "
            "task.",
            stacklevel=2,
        )


def say_sentence_parts_unused(name: str, folder: Path) -> None:
    """Say which parts of a model for whole sentences are not used: layers behind its pooling, a head of SetFit.

    Args:
        name: what the model was loaded by.
        folder: where it is.
    """
    layers = [str(each.get("path")) for each in _listed(folder / "modules.json") if _is_dense(each)]
    heads = [file for file in _SETFIT if (folder / file).is_file()]
    for parts, what in (
        (layers, "layers behind its pooling"),
        (heads, "a head that SetFit trained, and that is not opened"),
    ):
        if parts:
            warnings.warn(
                f"{name} has {', '.join(parts)}: {what}. A new head reads the model's body without it.", stacklevel=2
            )


def stored_pooling(folder: Path) -> str | None:
    """How sentence_transformers pools the tokens of a model: `mean`, `cls` or `last`; None where nothing is said of it."""
    for each in _listed(folder / "modules.json"):
        if str(each.get("type", "")).endswith("Pooling"):
            found = _read(folder / str(each.get("path")) / "config.json")
            modes = [key for key, value in found.items() if value is True] if isinstance(found, dict) else []
            named = [_POOLINGS[mode] for mode in modes if mode in _POOLINGS]
            if isinstance(found, dict) and found.get("pooling_mode") in _POOLINGS.values():
                return str(found["pooling_mode"])
            return named[0] if len(named) == 1 else None
    return None


def _is_dense(module: dict[str, Any]) -> bool:
    return str(module.get("type", "")).endswith((".Dense", ".LSTM", ".CNN"))


def _listed(file: Path) -> list[dict[str, Any]]:
    found = _read(file)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _read(file: Path) -> object:
    """What a JSON file holds; None where it is not there or cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
