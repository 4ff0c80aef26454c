"""Logits of label words: at the mask of a masked language model, or after the prompt of a causal one.

Malladi et al. 2023, section 2, prompt-based fine-tuning: `f(s) = Phi~^T h(s)`, the columns of the output embedding
that belong to the label words, applied to the hidden state at the answer's place.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from foretune.errors import ModelError
from foretune.model.encoding import Batch, PromptEncoder
from foretune.model.limits import token_limit
from foretune.model.load import LanguageModel
from foretune.model.outputs import (
    LabelRows,
    Outputs,
    accepted_by,
    answering_copy,
    base_of,
    body_of,
    cache_off,
    model_inputs,
    picked,
    reading_at,
    refusing,
)
from foretune.shapes import Float
from foretune.text.task import Task


class _AnswerModule(nn.Module):
    """The language model with its vocabulary cut down to the label words, read at one position.

    A model that reaches for its output matrix from outside the layer (MobileBERT), or adds a bias behind it (ESM),
    keeps its whole vocabulary, and the label words are taken from all logits.
    """

    def __init__(self, model: Any, word_ids: list[int], *, difference: bool) -> None:
        super().__init__()
        self.model = model
        inner = base_of(model)
        layer = inner.get_output_embeddings()
        owner_name = next((name for name, module in inner.named_modules() if module is layer), None) if layer else None
        rows = getattr(layer, "weight", None)
        if owner_name is None or rows is None or rows.dim() != 2 or len(rows) <= max(word_ids):
            raise ModelError(
                f"{type(inner).__name__} has no output layer over the vocabulary, so no words to answer with. Use a "
                "classification head: ft.HeadLogits, or --output head."
            )
        if hasattr(layer, "base_layer"):
            raise ModelError(
                f"The output layer {owner_name!r} carries an adapter, and only its own rows can be read for label words. "
                "Merge the adapter into it (peft's merge_and_unload), or adapt other modules only."
            )
        owner, _, attribute = owner_name.rpartition(".")
        cut = LabelRows(layer, word_ids)
        whole = _logits(model)[..., word_ids]
        setattr(inner.get_submodule(owner), attribute, cut)
        self._is_cut = _is_same(model, whole)
        if not self._is_cut:
            setattr(inner.get_submodule(owner), attribute, layer)
            layer.register_buffer("ids", cut.ids, persistent=False)
        self._words = [cut if self._is_cut else layer]  # in a list: its weight belongs to the model already
        self._body = [body_of(inner)]
        self._options = cache_off(inner)
        self.difference = difference

    @property
    def body(self) -> nn.Module:
        return self._body[0]

    @property
    def output_layer(self) -> nn.Module:
        return self._words[0]

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        with reading_at(self._body[0], batch["position"]):
            out = self.model(**model_inputs(batch), **self._options)
        logits = picked(out.logits, batch["position"])
        logits = logits if self._is_cut else logits[:, self._words[0].ids]  # (n, w)
        return logits[:, 1:] - logits[:, :1] if self.difference else logits


def _logits(model: Any) -> Tensor:
    """The logits of eight tokens."""
    ids = torch.ones(1, 8, dtype=torch.long, device=next(model.parameters()).device)
    with torch.no_grad(), refusing(type(model).__name__, ids):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **cache_off(base_of(model))).logits


def _is_same(model: Any, expected: Tensor) -> bool:
    """Whether a model with few words gives the logits that these words have among all."""
    try:
        found = _logits(model)
    except ModelError:
        return False
    near = 0.05 if expected.element_size() < 4 else 1e-3
    return found.shape == expected.shape and torch.allclose(found, expected, near, near, equal_nan=True)


class AnswerLogits(Outputs):
    """Label-word logits of a prompted language model.

    Args:
        lm: a causal or masked language model.
        task: template and label words.
        difference: `f_1 - f_0` (c = 1); the default for two labels.
        max_length: longest input in tokens, the task's own limit by default; longer texts are cut, the prompt never.
        first_piece: answer with the first token of a label word that is several tokens.

    Raises:
        ModelError: the model has no output layer over the vocabulary.
        DataError: a label word is not one token, or two words are the same token.
        UsageError: a longest input that leaves no room for a text.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        lm: LanguageModel,
        task: Task,
        difference: bool | None = None,
        max_length: int | None = None,
        *,
        first_piece: bool = False,
    ) -> None:
        if lm.kind == "encoder":
            raise ModelError(
                f"{lm.name} has no output layer over the vocabulary, so it cannot answer a prompt with words. Use a "
                "classification head: ft.HeadLogits, or --output head."
            )
        inner = base_of(lm.module)
        if "target_mapping" in inspect.signature(inner.forward).parameters:
            raise ModelError(
                f"{type(inner).__name__} predicts words in a special order, by a target mapping that a prompt does not "
                "have. Use a classification head: ft.HeadLogits, or --output head."
            )
        limit = token_limit(lm.tokenizer, inner, task.max_length if max_length is None else max_length)
        encode = PromptEncoder(lm.tokenizer, task, limit, accepted_by(inner), masked=lm.kind == "masked")
        difference = len(task.labels) == 2 if difference is None else difference
        module = _AnswerModule(answering_copy(lm), encode.answer_ids(first_piece=first_piece), difference=difference)
        super().__init__(lm, module.eval(), encode, len(task.labels), difference=difference)
        self.task, self.template, self.first_piece = task, encode.template, first_piece

    @property
    def pieces(self) -> dict[str, str]:
        """Label words of several tokens -> the first piece, which answers for them."""
        words = [self.task.words[label] for label in self.task.labels]
        shown = [str(self.lm.tokenizer.decode([number])).strip() for number in self.module.output_layer.ids.tolist()]
        return {word: piece for word, piece in zip(words, shown, strict=True) if piece.lower() != word.lower()}

    @property
    def description(self) -> dict[str, object]:
        """What determines the outputs besides the weights, for result files."""
        return {
            "kind": "answer",
            "difference": self.difference,
            "template": self.template,
            "words": {label: self.task.words[label] for label in self.task.labels},
            "first_piece": self.first_piece,
            "word_ids": self.module.output_layer.ids.tolist(),
            "max_length": self.encode.limit,
            "text_limit": self.task.text_limit,
            "text2_limit": self.task.text2_limit,
        }
