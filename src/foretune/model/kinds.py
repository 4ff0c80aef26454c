"""What a model was trained as, by its configuration, and the class that loads it."""

from __future__ import annotations

from typing import Any

from foretune.errors import ModelError

KINDS = ("causal", "masked", "encoder")

_DISCRIMINATORS = ("ElectraForPreTraining", "FunnelForPreTraining")
"""Pretrained to tell replaced tokens, so without an output layer over the vocabulary."""


def architecture(config: Any) -> str:
    """The class that a model's weights were saved from; an empty string where the configuration names none."""
    named = getattr(config, "architectures", None)
    first = named[0] if isinstance(named, (list, tuple)) and named else ""
    return first if isinstance(first, str) else ""


def kind_of(config: Any) -> str:
    """`causal` or `masked` for a model with an output layer over the vocabulary, else `encoder`.

    transformers' own tables say which class is which. Where a class is both (XLM), the configuration decides; a model
    of images and text reads text as the causal language model in it.
    """
    from transformers.models.auto import modeling_auto as tables

    name = architecture(config)
    masked = name in _classes(tables.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    if not name or name in _DISCRIMINATORS or name in _classes(tables.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES):
        return "encoder"
    if masked and not getattr(config, "causal", False):
        return "masked"
    if masked or name in _classes(tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) or _reads_images(config, name):
        return "causal"
    if "ForPreTraining" in name and type(config) in tables.MODEL_FOR_MASKED_LM_MAPPING:
        return "masked"
    if any(part in name for part in ("ForCausalLM", "LMHeadModel")):  # code of the model's own
        return "causal"
    return "masked" if "ForMaskedLM" in name else "encoder"


def _reads_images(config: Any, name: str) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TABLE

    return name in _classes(TABLE) and not getattr(config, "is_encoder_decoder", False)


def _classes(table: Any) -> set[str]:
    return {name for value in table.values() for name in (value if isinstance(value, (list, tuple)) else (value,))}


def reads_left_to_right(config: Any) -> bool:
    """Whether a token sees only what stands before it, so that the last one alone has read the whole text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(text, "use_bidirectional_attention", None) is True or getattr(text, "is_encoder_decoder", False):
        return False
    return any(
        type(each) in MODEL_FOR_CAUSAL_LM_MAPPING and type(each) not in MODEL_FOR_MASKED_LM_MAPPING
        for each in (config, text)
    )


def loading_class(config: Any, kind: str) -> tuple[Any, dict[str, Any]]:
    """The class that loads a model as `kind`, and options for it; of an encoder-decoder such as T5, only the encoder.

    Raises:
        ModelError: no masked model has such a configuration.
    """
    import transformers
    from transformers.models.auto import modeling_auto as tables

    if kind == "masked":
        remote = "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})
        if not remote and type(config) not in tables.MODEL_FOR_MASKED_LM_MAPPING:
            raise ModelError(
                f"A model of type {config.model_type!r} fills in no masks, so it cannot be loaded as masked. Leave out "
                "--kind (kind=None) to take it as it was trained, or use --kind encoder (kind='encoder')."
            )
        return transformers.AutoModelForMaskedLM, {}
    if kind == "causal":
        remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
        pictures = type(config) in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if pictures and not remote and type(config) not in tables.MODEL_FOR_CAUSAL_LM_MAPPING:
            return transformers.AutoModelForImageTextToText, {}
        return transformers.AutoModelForCausalLM, {}
    if type(config) in tables.MODEL_FOR_TEXT_ENCODING_MAPPING:
        alone = getattr(config, "model_type", "") == "t5gemma"  # its encoder asks to be told so
        return transformers.AutoModelForTextEncoding, {"is_encoder_decoder": False} if alone else {}
    return transformers.AutoModel, {}
