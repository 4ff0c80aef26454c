"""Tiny random models of every architecture family, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import foretune as ft

WORDS = [
    "a",
    "an",
    "the",
    "film",
    "movie",
    "plot",
    "story",
    "was",
    "is",
    "it",
    "good",
    "bad",
    "great",
    "terrible",
    "fine",
    "dull",
    "actor",
    "scene",
    "funny",
    "sad",
    "very",
    "not",
    "but",
    "and",
    "of",
    "in",
    "with",
    "ends",
    "starts",
    "this",
    "that",
    "slow",
    "fast",
    "bright",
    "dark",
    ".",
    ",",
    "?",
    "!",
]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
VOCABULARY = SPECIAL + WORDS

ROWS = [
    {"text": "the film was good and the plot was good", "label": "positive"},
    {"text": "a dull story", "label": "negative"},
    {"text": "it is slow , dark and sad but not bad", "label": "positive"},
    {"text": "terrible", "label": "negative"},
    {"text": "the actor is very funny in this scene", "label": "positive"},
    {"text": "the plot ends and it starts and it ends", "label": "negative"},
]
TASK = ft.Task(
    name="tiny",
    labels=["negative", "positive"],
    template="{text} it was {mask} .",
    words={"negative": "terrible", "positive": "great"},
)


@cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word tokenizer over a few dozen words."""
    words = {word: number for number, word in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=64,
    )


@dataclass(frozen=True)
class Family:
    """One architecture: how to make a tiny random model, and what its outputs can be."""

    name: str
    kind: str
    build: Callable[[], torch.nn.Module]
    tolerance: float = 1e-10

    def __str__(self) -> str:
        return f"{self.name}-{self.kind}"


_SMALL: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_SMALL, "num_key_value_heads": 2, "head_dim": 4}
_GPT = {
    "vocab_size": len(VOCABULARY), "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_DISTIL = {
    "vocab_size": len(VOCABULARY), "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_OPT = {**_SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}
_MOE = {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "num_local_experts": 4}


def _family(name: str, kind: str, model: str, config: str, options: dict[str, Any], tolerance: float = 1e-10) -> Family:
    def build() -> torch.nn.Module:
        made = getattr(transformers, config)(**options)
        torch.manual_seed(7)
        module = getattr(transformers, model)(made)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return module

    return Family(name, kind, build, tolerance)


_RMS = 1e-7  # RMSNorm computes in float32 even inside a float64 model
FAMILIES = [
    _family("bert", "masked", "BertForMaskedLM", "BertConfig", _SMALL),
    _family("bert", "encoder", "BertModel", "BertConfig", _SMALL),
    _family("roberta", "masked", "RobertaForMaskedLM", "RobertaConfig", _SMALL),
    _family("distilbert", "masked", "DistilBertForMaskedLM", "DistilBertConfig", _DISTIL),
    _family("gpt2", "causal", "GPT2LMHeadModel", "GPT2Config", _GPT),
    _family("opt", "causal", "OPTForCausalLM", "OPTConfig", _OPT),
    _family("llama", "causal", "LlamaForCausalLM", "LlamaConfig", _DECODER, _RMS),
    _family("llama-tied", "causal", "LlamaForCausalLM", "LlamaConfig", {**_DECODER, "tie_word_embeddings": True}, _RMS),
    _family("qwen3", "causal", "Qwen3ForCausalLM", "Qwen3Config", _DECODER, _RMS),
    _family("gemma", "causal", "GemmaForCausalLM", "GemmaConfig", _DECODER, _RMS),
    _family("mixtral", "causal", "MixtralForCausalLM", "MixtralConfig", _MOE, _RMS),
]


def language_model(family: Family, dtype: torch.dtype = torch.float64) -> ft.LanguageModel:
    """A tiny random language model of a family."""
    return ft.LanguageModel(family.build().to(dtype).eval(), tokenizer(), str(family), None, family.kind)


def outputs_of(lm: ft.LanguageModel, *, head: bool = False, difference: bool | None = None):
    """Answer logits where the model has words to answer with, else a head."""
    if head or lm.kind == "encoder":
        return ft.HeadLogits(lm, n_outputs=3 if difference is None else 2, difference=difference)
    return ft.AnswerLogits(lm, TASK, difference=difference)
