"""A model to train beside the user's own: new memory for what is trained, shared memory for the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import nn

from foretune.errors import UsageError
from foretune.model.answer import AnswerLogits
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel
from foretune.model.outputs import Outputs
from foretune.model.sharing import shared_copy


def copy_with_own(lm: LanguageModel, names: Collection[str]) -> LanguageModel:
    """A structural copy of a language model in which the parameters of these names have memory of their own."""
    module = shared_copy(lm.module)
    for (name, parameter), original in zip(module.named_parameters(), lm.module.parameters(), strict=True):
        if name in names:
            parameter.data = parameter.data.clone()
        parameter.requires_grad_(original.requires_grad)
    return replace(lm, module=module)


def outputs_on(lm: LanguageModel, like: Outputs) -> Outputs:
    """The outputs `like` on another model of the same architecture; a head is copied.

    Raises:
        UsageError: outputs of an unknown kind.
    """
    if isinstance(like, AnswerLogits):
        return AnswerLogits(lm, like.task, like.difference, like.encode.limit, first_piece=like.first_piece)
    if isinstance(like, HeadLogits):
        head: Any = like.module.output_layer
        return HeadLogits(
            lm,
            like.n_classes,
            like.pooling,
            like.seed,
            weight=head.weight.detach(),
            bias=head.bias.detach(),
            difference=like.difference,
            max_length=like.encode.limit,
        )
    raise UsageError(f"Outputs of kind {type(like).__name__} cannot be trained. Use ft.AnswerLogits or ft.HeadLogits.")


def head_names(outputs: Outputs) -> list[str]:
    """The parameters of a classification head; none where words answer."""
    if not isinstance(outputs, HeadLogits):
        return []
    head: nn.Module = outputs.module.output_layer
    inside = {id(tensor) for tensor in head.parameters()}
    return [name for name, tensor in outputs.parameters().items() if id(tensor) in inside]
