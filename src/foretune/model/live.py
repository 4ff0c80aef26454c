"""A language model that is in memory already: a transformers or peft model with its tokenizer."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from foretune.errors import ModelError, UsageError
from foretune.model.kinds import kind_of
from foretune.model.load import LanguageModel
from foretune.model.load_report import check_finite
from foretune.model.outputs import base_of, body_of
from foretune.model.placement import refuse_packed, refuse_scattered

_HOW = "Pass the model with its tokenizer: forecast(model, data, tokenizer=tokenizer)."


def live_model(module: nn.Module, tokenizer: Any) -> LanguageModel:
    """The language model of a module in memory, read as `load_model` reads the same model from its folder.

    The module is shared, not copied, and is put into evaluation mode; the tokenizer is copied. Of a classifier the body
    is read, with a new head on it.

    Args:
        module: a transformers model, or peft's around one.
        tokenizer: its tokenizer.

    Raises:
        UsageError: it is not a transformers model, or there is no tokenizer.
        ModelError: an encoder-decoder, of which only a folder is read; or weights that are not all on one device, or
            quantised in a way that cannot be read.
        NonFiniteError: weights are infinite or undefined.
    """
    base: Any = base_of(module)
    config = getattr(base, "config", None)
    if config is None or not hasattr(base, "base_model"):
        raise UsageError(
            f"The model is {type(module).__name__}; expected a name, a folder, or a transformers model. {_HOW}"
        )
    if tokenizer is None or not callable(tokenizer):
        raise UsageError(f"A model in memory needs its tokenizer. {_HOW}")
    name = str(getattr(config, "_name_or_path", "") or type(base).__name__)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder, of which the encoder is read from a folder: pass its folder.")
    trained = copy.copy(config)
    trained.architectures = [type(base).__name__]
    kind = kind_of(trained)
    read: Any = body_of(base) if kind == "encoder" else module
    words: Any = copy.deepcopy(tokenizer)
    if words.pad_token_id is None:
        words.pad_token = words.eos_token or words.unk_token
    words.padding_side = "right"
    refuse_scattered(name, read)
    refuse_packed(name, read)
    made = LanguageModel(read.eval(), words, name, None, kind)
    check_finite(name, read, made.dtype)
    return made
