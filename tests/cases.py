"""Tiny random models of every architecture family, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from benchmarks.gpu.models import SPECIAL, word_tokenizer

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
VOCABULARY = [*SPECIAL, *WORDS]

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
    return word_tokenizer(WORDS, longest=64)


@dataclass(frozen=True)
class Family:
    """One architecture: how to make a tiny random model, and what its outputs can be.

    `single`: it mixes or flattens the examples of a batch, so that they go through it one at a time.
    """

    name: str
    kind: str
    build: Callable[[], torch.nn.Module]
    tolerance: float = 1e-10
    single: bool = False

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
_MOE_ALL = {**_MOE, "num_local_experts": 2}  # every token goes to every expert, in another order
_ELECTRA = {**_SMALL, "embedding_size": 8}
_DEBERTA = {**_SMALL, "relative_attention": True, "pos_att_type": "p2c|c2p", "share_att_key": True}
_DEBERTA_V3 = {**_DEBERTA, "position_biased_input": False, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
_CONVOLVED = {**_DEBERTA_V3, "conv_kernel_size": 3, "conv_act": "gelu"}
_MODERN = {**_SMALL, "cls_token_id": 1, "sep_token_id": 2}
_T5 = {"vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
       "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "pad_token_id": 0,
       "eos_token_id": 2}  # fmt: skip


def _family(
    name: str,
    kind: str,
    model: str,
    config: str,
    options: dict[str, Any],
    tolerance: float = 1e-10,
    *,
    single: bool = False,
) -> Family:
    def build() -> torch.nn.Module:
        made = getattr(transformers, config)(**options)
        torch.manual_seed(7)
        module = getattr(transformers, model)(made)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return module

    return Family(name, kind, build, tolerance, single)


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
    _family("mixtral", "causal", "MixtralForCausalLM", "MixtralConfig", _MOE, _RMS, single=True),
    _family("mixtral-all-experts", "causal", "MixtralForCausalLM", "MixtralConfig", _MOE_ALL, _RMS, single=True),
    _family("qwen2", "causal", "Qwen2ForCausalLM", "Qwen2Config", _DECODER, _RMS),
    _family("electra", "masked", "ElectraForMaskedLM", "ElectraConfig", _ELECTRA),
    _family("electra", "encoder", "ElectraModel", "ElectraConfig", _ELECTRA),
    _family("deberta-v2", "masked", "DebertaV2ForMaskedLM", "DebertaV2Config", _DEBERTA_V3, single=True),
    _family("deberta-v2", "encoder", "DebertaV2Model", "DebertaV2Config", _DEBERTA, single=True),
    _family("t5", "encoder", "T5EncoderModel", "T5Config", _T5, _RMS, single=True),
    _family("modernbert", "masked", "ModernBertForMaskedLM", "ModernBertConfig", _MODERN),
]
FALLBACKS = [
    _family("deberta", "masked", "DebertaForMaskedLM", "DebertaConfig", _DEBERTA, single=True),
    _family("deberta-v2-conv", "encoder", "DebertaV2Model", "DebertaV2Config", _CONVOLVED, single=True),
]
"""Families with parameters that no factor rule covers."""


def language_model(family: Family, dtype: torch.dtype = torch.float64) -> ft.LanguageModel:
    """A tiny random language model of a family."""
    return ft.LanguageModel(family.build().to(dtype).eval(), tokenizer(), str(family), None, family.kind)


def outputs_of(lm: ft.LanguageModel, *, head: bool = False, difference: bool | None = None):
    """Answer logits where the model has words to answer with, else a head."""
    if head or lm.kind == "encoder":
        return ft.HeadLogits(lm, n_outputs=3 if difference is None else 2, difference=difference)
    return ft.AnswerLogits(lm, TASK, difference=difference)
