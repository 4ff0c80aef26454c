"""The longest input that a model reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from foretune.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENDLESS = 10**6
"""What a limit counts as where nobody names one: the tokens of a long book."""


def token_limit(tokenizer: PreTrainedTokenizerBase, model: Any, max_length: int | None) -> int:
    """The longest input in tokens: the smallest of the tokenizer's, the model's and the user's limits.

    Limits of 0 and below stand for "no limit" where a tokenizer or a configuration has them (XLNet's -1).

    Raises:
        UsageError: the user's limit is below 1.
    """
    if max_length is not None and max_length < 1:
        raise UsageError(
            f"--max-length is {max_length}; expected at least 1 token (max_length=None for the model's own)."
        )
    limits = [tokenizer.model_max_length, *_positions(model), max_length]
    return min(_ENDLESS, *(int(limit) for limit in limits if limit is not None and limit > 0))


def _positions(model: Any) -> Iterator[int]:
    """How many positions a model has; RoBERTa and its heirs count them from the padding token on."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if isinstance(most, int):
        yield most
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(getattr(module, "weight", None), nn.Parameter):
            padding = getattr(module, "padding_idx", None)
            if padding is not None:
                yield len(module.weight) - padding - 1
