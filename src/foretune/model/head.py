"""Logits of a linear classification head on `[CLS]`, mean or last-token features.

Malladi et al. 2023, section 2, standard fine-tuning: `f(s) = Gamma(h(s))`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from foretune.errors import UsageError, nearest
from foretune.model.encoding import Batch, PlainEncoder
from foretune.model.limits import token_limit
from foretune.model.load import LanguageModel
from foretune.model.outputs import (
    Outputs,
    accepted_by,
    answering_copy,
    base_of,
    body_of,
    cache_off,
    model_inputs,
    picked,
    refusing,
)
from foretune.shapes import Float

POOLINGS = ("mean", "cls", "last")
HEAD = ("head.weight", "head.bias")
"""The parameters of a classification head, by name."""


class _Unpooled(nn.Module):
    """Stands where a body had its pooler: features are pooled by the head, and the pooler's weights would have no part."""

    def forward(self, hidden: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        return hidden


class _HeadModule(nn.Module):
    """The transformer body, pooled features, and a linear head."""

    def __init__(self, model: Any, head: nn.Linear, pooling: str, *, difference: bool) -> None:
        super().__init__()
        self.model, self.head = model, head
        body = body_of(base_of(model))
        if getattr(body, "pooler", None) is not None:
            body.pooler = _Unpooled()
        self._body, self._options = [body], cache_off(body)
        self.pooling, self.difference = pooling, difference

    @property
    def body(self) -> nn.Module:
        return self._body[0]

    @property
    def output_layer(self) -> nn.Module:
        return self.head

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        hidden = self._body[0](**model_inputs(batch), **self._options)[0]  # (n, t, i)
        if self.pooling == "cls":
            features = hidden[:, :1]
        elif self.pooling == "last":
            features = picked(hidden, batch["position"])[:, None]
        else:
            mask = batch["attention_mask"].to(hidden.dtype)[:, :, None]
            features = (hidden * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        logits = self.head(features.to(self.head.weight.dtype))[:, 0]  # (n, c); Mamba's features are float32
        return logits[:, 1:] - logits[:, :1] if self.difference else logits


class HeadLogits(Outputs):
    """A linear head on pooled features.

    Args:
        lm: any language model or encoder; its output layer, if any, is not used.
        n_outputs: classes.
        pooling: `mean` (over real tokens), `cls` (first token) or `last` (last real token).
        seed: of the head's initial weights, N(0, 1/features); biases start at zero.
        weight, bias: the head's weights instead, shapes (n_outputs, features) and (n_outputs,); the linear-probing
            solution for example.
        difference: `f_1 - f_0` (c = 1); the default for two outputs.
        max_length: longest input in tokens; longer texts are cut.

    Attributes:
        drawn: the head's weights are random.

    Raises:
        UsageError: an unknown pooling, weights of the wrong shape, or a longest input that leaves no room for a text.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        lm: LanguageModel,
        n_outputs: int = 2,
        pooling: str = "mean",
        seed: int = 0,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        difference: bool | None = None,
        max_length: int | None = None,
    ) -> None:
        if pooling not in POOLINGS:
            raise UsageError(
                f"Unknown pooling {pooling!r}. Expected {', '.join(POOLINGS)}.{nearest(pooling, POOLINGS)}"
            )
        if n_outputs < 2:
            raise UsageError(f"A head needs two or more outputs, got {n_outputs}.")
        model = answering_copy(lm)
        features = _feature_size(model)
        head = nn.Linear(features, n_outputs, dtype=lm.dtype)
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(n_outputs, features, generator=generator, dtype=torch.float64) / math.sqrt(features)
        with torch.no_grad():
            head.weight.copy_(_shaped("weight", start if weight is None else weight, head.weight))
            head.bias.copy_(_shaped("bias", torch.zeros(n_outputs) if bias is None else bias, head.bias))
        head = head.to(lm.device).requires_grad_(False)
        difference = n_outputs == 2 if difference is None else difference
        module = _HeadModule(model, head, pooling, difference=difference)
        inner = base_of(model)
        encode = PlainEncoder(lm.tokenizer, token_limit(lm.tokenizer, inner, max_length), accepted_by(body_of(inner)))
        super().__init__(lm, module.eval(), encode, n_outputs, difference=difference)
        self.pooling, self.seed, self.drawn = pooling, seed, weight is None

    def of_features(self, features: Float[Tensor, "n i"]) -> Float[Tensor, "n c"]:
        """What the head says of pooled features, without a graph."""
        layer = self.module.output_layer
        with torch.no_grad():
            logits = layer(features.to(layer.weight))
        return logits[:, 1:] - logits[:, :1] if self.difference else logits

    def reads_as(self, other: HeadLogits) -> bool:
        """Whether its features are those of another head."""
        return self.lm is other.lm and (self.pooling, self.encode.limit) == (other.pooling, other.encode.limit)

    @property
    def description(self) -> dict[str, object]:
        """What determines the outputs besides the weights, for result files."""
        return {
            "kind": "head",
            "difference": self.difference,
            "classes": self.n_classes,
            "pooling": self.pooling,
            "seed": self.seed,
            "max_length": self.encode.limit,
        }


def _feature_size(model: Any) -> int:
    """How many features the body gives a token; what a configuration calls its hidden size can be another (OPT-350m)."""
    body = body_of(base_of(model))
    ids = torch.ones(1, 8, dtype=torch.long, device=next(model.parameters()).device)
    with torch.no_grad(), refusing(type(body).__name__, ids):
        return body(input_ids=ids, attention_mask=torch.ones_like(ids), **cache_off(body))[0].shape[-1]


def _shaped(name: str, value: Tensor, like: Tensor) -> Tensor:
    value = torch.as_tensor(value)
    if value.shape != like.shape:
        raise UsageError(f"The head's {name} has shape {tuple(value.shape)}, expected {tuple(like.shape)}.")
    return value.to(like)
