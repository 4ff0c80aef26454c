"""Tiny random models of the families that people fine-tune, as data: `FAMILIES[name]` says how each is made.

`tests/cases.py` holds the twenty that most tests use, in float64 and in memory; these are saved as folders,
as a user has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.cases import tokenizer

VOCABULARY = 64  # more than the tokenizer's words: real checkpoints are padded too
Options = Mapping[str, Any]

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BASE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 24, "max_position_embeddings": 64, **_IDS}  # fmt: skip
_GROUPED = {**_BASE, "num_key_value_heads": 2, "head_dim": 4}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64, **_IDS}
_FROM_PADDING = {**_BASE, "max_position_embeddings": 66}  # RoBERTa and its heirs count positions from the padding id on
_LATENT = {**_BASE, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 4,
           "qk_nope_head_dim": 4, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
           "first_k_dense_replace": 1, "moe_intermediate_size": 8}  # fmt: skip
_DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 4}
_SCAN = {"state_size": 4, "expand": 2, "conv_kernel": 3}
_T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
       "eos_token_id": 2, "decoder_start_token_id": 0}  # fmt: skip
_BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
_DISENTANGLED = {**_BASE, "relative_attention": True, "pos_att_type": "p2c|c2p"}
_DEBERTA_V3 = {**_DISENTANGLED, "share_att_key": True, "position_biased_input": False, "position_buckets": 8,
               "norm_rel_ebd": "layer_norm"}  # fmt: skip
_XLM = {"vocab_size": VOCABULARY, "emb_dim": 16, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64, "pad_index": 0,
        "bos_index": 1, "eos_index": 2, "mask_index": 4, "causal": False, "asm": False, "n_langs": 1}  # fmt: skip
_GEMMA3 = {**_GROUPED, "query_pre_attn_scalar": 4, "sliding_window": 4}
_SCREEN = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@dataclass(frozen=True)
class SavedFamily:
    """How a tiny model of one family is made.

    Attributes:
        model: transformers class.
        options: arguments of its configuration; keys that end in `_config` and hold a pair are configurations of their own.
        config: transformers class of the configuration; the model's own by default.
    """

    model: str
    options: Options = field(default_factory=dict)
    config: str | None = None

    def made(self) -> Any:
        """A model with random weights, none of them at a special value such as 0 or 1; the same at every call."""
        kind = getattr(transformers, self.model)
        options = {name: _configured(value) for name, value in self.options.items()}
        config = (kind.config_class if self.config is None else getattr(transformers, self.config))(**options)
        torch.manual_seed(7)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return model.eval()


def _configured(value: Any) -> Any:
    return getattr(transformers, value[0])(**value[1]) if isinstance(value, tuple) else value


def _causal(stem: str, options: Options, config: str | None = None) -> SavedFamily:
    return SavedFamily(f"{stem}ForCausalLM", options, config)


def _masked(stem: str, options: Options) -> SavedFamily:
    return SavedFamily(f"{stem}ForMaskedLM", options)


_HALF_ROTARY = {"partial_rotary_factor": 0.5}
CAUSAL = {
    "llama": _causal("Llama", _GROUPED),
    "llama-tied": _causal("Llama", {**_GROUPED, "tie_word_embeddings": True}),
    "llama-biases": _causal("Llama", {**_GROUPED, "attention_bias": True, "mlp_bias": True}),
    "mistral-window": _causal("Mistral", {**_GROUPED, "sliding_window": 4}),
    "qwen2-tied": _causal("Qwen2", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen2-window": _causal(
        "Qwen2", {**_GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    ),
    "qwen3-tied": _causal("Qwen3", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen2-moe": _causal("Qwen2Moe", {**_EXPERTS, "shared_expert_intermediate_size": 8}),
    "qwen3-moe": _causal("Qwen3Moe", _EXPERTS),
    "qwen3-next": _causal(
        "Qwen3Next", {**_EXPERTS, **_DELTA, "num_hidden_layers": 4, "shared_expert_intermediate_size": 8}
    ),
    "qwen3.5": _causal("Qwen3_5", {**_GROUPED, **_DELTA, "num_hidden_layers": 4}, "Qwen3_5TextConfig"),
    "gemma": _causal("Gemma", _GROUPED),
    "gemma2-softcap": _causal("Gemma2", {**_GEMMA3, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0}),
    "gemma3": _causal("Gemma3", _GEMMA3, "Gemma3TextConfig"),
    "gemma3n": _causal(
        "Gemma3n",
        {**_GROUPED, "num_hidden_layers": 4, "intermediate_size": [24] * 4, "vocab_size_per_layer_input": VOCABULARY,
         "hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "laurel_rank": 4, "num_kv_shared_layers": 0,
         "activation_sparsity_pattern": [0.0] * 4},
        "Gemma3nTextConfig",
    ),
    "phi": _causal("Phi", {**_BASE, **_HALF_ROTARY}),
    "phi3": _causal("Phi3", _GROUPED),
    "falcon-7b": _causal("Falcon", {**_BASE, "multi_query": True, "parallel_attn": True, "bias": False}),
    "falcon-alibi": _causal("Falcon", {**_BASE, "alibi": True, "multi_query": False, "bias": True}),
    "falcon-new": _causal("Falcon", {**_BASE, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "bloom": _causal("Bloom", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 3, "n_head": 4, **_IDS}),
    "gpt2": SavedFamily("GPT2LMHeadModel", _GPT),
    "gpt-bigcode": _causal("GPTBigCode", {**_GPT, "multi_query": True}),
    "gpt-neo": _causal(
        "GPTNeo",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "window_size": 4,
         "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, **_IDS},
    ),
    "gpt-neox": _causal("GPTNeoX", {**_BASE, "rotary_pct": 0.5}),
    "gptj": _causal("GPTJ", {**_GPT, "rotary_dim": 2}),
    "codegen": _causal("CodeGen", {**_GPT, "rotary_dim": 2}),
    "openai-gpt": SavedFamily(
        "OpenAIGPTLMHeadModel", {name: value for name, value in _GPT.items() if name not in _IDS}
    ),
    "mpt": _causal(
        "Mpt",
        {"vocab_size": VOCABULARY, "d_model": 16, "n_layers": 3, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    ),
    "opt": _causal("OPT", {**_BASE, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "opt-350m": _causal("OPT", {**_BASE, "ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "stablelm": _causal("StableLm", {**_GROUPED, **_HALF_ROTARY}),
    "stablelm-normed": _causal(
        "StableLm", {**_GROUPED, **_HALF_ROTARY, "qk_layernorm": True, "use_parallel_residual": True}
    ),
    "olmo": _causal("Olmo", _GROUPED),
    "olmo2": _causal("Olmo2", _GROUPED),
    "olmoe": _causal("Olmoe", _EXPERTS),
    "granite": _causal(
        "Granite",
        {**_GROUPED, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
         "attention_multiplier": 0.3},
    ),
    "granite-moe": _causal("GraniteMoe", {**_EXPERTS, "logits_scaling": 4.0}),
    "cohere": _causal("Cohere", {**_GROUPED, "logit_scale": 0.25}),
    "cohere2": _causal("Cohere2", {**_GROUPED, "logit_scale": 0.25, "sliding_window": 4}),
    "mixtral": _causal("Mixtral", _EXPERTS),
    "gpt-oss": _causal("GptOss", {**_EXPERTS, "sliding_window": 4}),
    "deepseek-v2": _causal("DeepseekV2", _LATENT),
    "deepseek-v3": _causal("DeepseekV3", {**_LATENT, "n_group": 2, "topk_group": 1}),
    "mamba": _causal(
        "Mamba", {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "time_step_rank": 4, **_SCAN, **_IDS}
    ),
    "mamba2": _causal(
        "Mamba2",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 8, "n_groups": 1,
         "chunk_size": 8, **_SCAN, **_IDS},
    ),
    "jamba": _causal(
        "Jamba",
        {**_GROUPED, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
         "expert_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_d_conv": 3,
         "mamba_expand": 2, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    ),
    "bamba": _causal(
        "Bamba",
        {**_GROUPED, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_expand": 2,
         "mamba_chunk_size": 8, "attn_layer_indices": [1]},
    ),
    "recurrent-gemma": _causal(
        "RecurrentGemma",
        {**_BASE, "num_key_value_heads": 1, "lru_width": 16, "attention_window_size": 8,
         "block_types": ["recurrent", "attention"]},
    ),
    "lfm2": _causal(
        "Lfm2",
        {**_GROUPED, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3, "block_multiple_of": 8},
    ),
    "smollm3": _causal("SmolLM3", {**_GROUPED, "no_rope_layers": [1, 0, 1]}),
    "xglm": _causal(
        "XGLM",
        {"vocab_size": VOCABULARY, "d_model": 16, "num_layers": 3, "attention_heads": 4, "ffn_dim": 24,
         "max_position_embeddings": 64, **_IDS},
    ),
    "biogpt": _causal("BioGpt", _BASE),
    "starcoder2": _causal("Starcoder2", _GROUPED),
    "persimmon": _causal("Persimmon", {**_BASE, **_HALF_ROTARY}),
    "nemotron": _causal("Nemotron", {**_GROUPED, **_HALF_ROTARY}),
    "glm4": _causal("Glm4", {**_GROUPED, **_HALF_ROTARY}),
    "exaone4": _causal("Exaone4", {**_GROUPED, "sliding_window": 4, "sliding_window_pattern": 2}),
    "modernbert-decoder": _causal("ModernBertDecoder", {**_BASE, "cls_token_id": 1, "sep_token_id": 2}),
    "nanochat": _causal("NanoChat", _GROUPED),
    "llama4": _causal(
        "Llama4",
        {**_EXPERTS, "intermediate_size_mlp": 24, "attention_chunk_size": 8, "interleave_moe_layer_step": 2},
        "Llama4TextConfig",
    ),
    "minimax": _causal("MiniMax", {**_EXPERTS, "block_size": 8}),
    "bitnet": _causal("BitNet", _GROUPED),
    "xlnet": SavedFamily(
        "XLNetLMHeadModel", {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 3, "n_head": 4, "d_inner": 24, **_IDS}
    ),
}  # fmt: skip
MASKED = {
    "bert": _masked("Bert", _BASE),
    "roberta": _masked("Roberta", _FROM_PADDING),
    "xlm-roberta": _masked("XLMRoberta", _FROM_PADDING),
    "camembert": _masked("Camembert", _FROM_PADDING),
    "roberta-prelayernorm": _masked("RobertaPreLayerNorm", _FROM_PADDING),
    "albert": _masked("Albert", {**_BASE, "embedding_size": 8}),
    "albert-groups": _masked("Albert", {**_BASE, "embedding_size": 8, "num_hidden_groups": 3, "inner_group_num": 1}),
    "distilbert": _masked(
        "DistilBert",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "pad_token_id": 0,
         "max_position_embeddings": 64},
    ),
    "electra": _masked("Electra", {**_BASE, "embedding_size": 8}),
    "deberta": _masked("Deberta", _DISENTANGLED),
    "deberta-v3": _masked("DebertaV2", _DEBERTA_V3),
    "modernbert": _masked(
        "ModernBert",
        {**_BASE, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4, "global_attn_every_n_layers": 2},
    ),
    "mpnet": _masked("MPNet", _FROM_PADDING),
    "rembert": _masked("RemBert", {**_BASE, "input_embedding_size": 8, "output_embedding_size": 12}),
    "convbert": _masked("ConvBert", {**_BASE, "embedding_size": 8}),
    "mobilebert": _masked(
        "MobileBert", {**_BASE, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8}
    ),
    "squeezebert": _masked(
        "SqueezeBert",
        {**_BASE, "embedding_size": 16, "q_groups": 2, "k_groups": 2, "v_groups": 2, "post_attention_groups": 1,
         "intermediate_groups": 2, "output_groups": 2},
    ),
    "funnel": _masked(
        "Funnel",
        {"vocab_size": VOCABULARY, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 4, "d_head": 4,
         "d_inner": 24},
    ),
    "fnet": _masked("FNet", {**_BASE, "use_tpu_fourier_optimizations": False}),
    "longformer": _masked("Longformer", {**_FROM_PADDING, "attention_window": [4, 4, 4]}),
    "big-bird": _masked("BigBird", {**_BASE, "attention_type": "original_full"}),
    "esm": _masked("Esm", {**_BASE, "mask_token_id": 4, "position_embedding_type": "rotary"}),
    "eurobert": _masked("EuroBert", {**_GROUPED, "mask_token_id": 4}),
    "nomic-bert": _masked("NomicBert", _BASE),
    "roformer": _masked("RoFormer", {**_BASE, "embedding_size": 16}),
    "nystromformer": _masked("Nystromformer", {**_BASE, "num_landmarks": 4, "segment_means_seq_len": 8}),
    "ibert": _masked("IBert", _FROM_PADDING),
    "luke": _masked("Luke", {**_FROM_PADDING, "entity_vocab_size": 8, "entity_emb_size": 8}),
    "ernie": _masked("Ernie", _BASE),
    "data2vec": _masked("Data2VecText", _FROM_PADDING),
    "xmod": _masked("Xmod", {**_FROM_PADDING, "default_language": "en_XX"}),
    "megatron-bert": _masked("MegatronBert", _BASE),
    "roc-bert": _masked("RoCBert", {**_BASE, "enable_pronunciation": False, "enable_shape": False}),
    "layoutlm": _masked("LayoutLM", _BASE),
    "yoso": _masked("Yoso", _FROM_PADDING),
    "flaubert": SavedFamily("FlaubertWithLMHeadModel", {**_XLM, "pre_norm": False}),
    "xlm": SavedFamily("XLMWithLMHeadModel", _XLM),
    "bert-pretraining": SavedFamily("BertForPreTraining", _BASE),
}  # fmt: skip
OTHERS = {
    "electra-discriminator": SavedFamily("ElectraForPreTraining", {**_BASE, "embedding_size": 8}),
    "deberta-v3-body": SavedFamily("DebertaV2Model", _DEBERTA_V3),
    "bert-body": SavedFamily("BertModel", _BASE),
    "bert-generation": SavedFamily("BertGenerationEncoder", _BASE),
    "splinter": SavedFamily("SplinterModel", _BASE),
    "t5": SavedFamily("T5ForConditionalGeneration", {**_T5, **_BUCKETS}),
    "mt5": SavedFamily("MT5ForConditionalGeneration", {**_T5, **_BUCKETS}),
    "umt5": SavedFamily("UMT5ForConditionalGeneration", _T5),
    "t5gemma": SavedFamily(
        "T5GemmaForConditionalGeneration", {"encoder": _GEMMA3, "decoder": _GEMMA3, "vocab_size": VOCABULARY}
    ),
    "bert-classifier": SavedFamily("BertForSequenceClassification", {**_BASE, "num_labels": 2}),
    "roberta-classifier": SavedFamily("RobertaForSequenceClassification", {**_FROM_PADDING, "num_labels": 2}),
    "llama-classifier": SavedFamily("LlamaForSequenceClassification", {**_GROUPED, "num_labels": 2}),
    "gpt2-classifier": SavedFamily("GPT2ForSequenceClassification", {**_GPT, "num_labels": 2}),
    "gemma3-images": SavedFamily(
        "Gemma3ForConditionalGeneration",
        {"text_config": _GEMMA3, "vision_config": {**_SCREEN, "num_hidden_layers": 1}, "mm_tokens_per_image": 1},
    ),
    "qwen2-vl": SavedFamily(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {
                **_GROUPED,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 10000.0},
            },
            "vision_config": {"embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2},
        },
    ),
    "llava": SavedFamily(
        "LlavaForConditionalGeneration",
        {
            "text_config": ("LlamaConfig", _GROUPED),
            "vision_config": ("CLIPVisionConfig", {**_SCREEN, "num_hidden_layers": 2}),
            "image_token_id": 63,
        },
    ),
}
FAMILIES: dict[str, SavedFamily] = {**CAUSAL, **MASKED, **OTHERS}


def saved(name: str, folder: Path) -> Path:
    """A tiny model of a family and its tokenizer in `folder`, as `save_pretrained` writes them."""
    FAMILIES[name].made().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
