"""Random models, their tokenizer and their texts, all made at run time: nothing is downloaded.

`TINY` has a few families for comparisons with the CPU, `SIZES` models of the size that people use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import foretune as ft
from foretune.model.outputs import Outputs

_ANSWERS = ("terrible", "great", "it", "was", ".")
_SYLLABLES = ("ba", "de", "fi", "go", "lu", "mar", "ne", "pi", "so", "tu")
_PLAIN = tuple(a + b for a in _SYLLABLES for b in _SYLLABLES)
_TELLING = {"negative": ("dull", "slow", "bad", "sad"), "positive": ("funny", "bright", "good", "fine")}
TASK = ft.Task(
    name="made-up",
    labels=["negative", "positive"],
    template="{text} it was {mask} .",
    causal_template="{text} it was {mask}",
    words={"negative": "terrible", "positive": "great"},
)


SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


def word_tokenizer(words: Sequence[str], longest: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with one token per word: the special tokens, then these words."""
    numbers = {word: number for number, word in enumerate([*SPECIAL, *words])}
    inner = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
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
        model_max_length=longest,
    )


@cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token per word of the made-up texts."""
    return word_tokenizer([*_ANSWERS, *_PLAIN, *(word for group in _TELLING.values() for word in group)], longest=128)


def rows(count: int, words: int, seed: int = 0) -> list[dict[str, str]]:
    """Different texts of about `words` words, and labels that some of their words tell."""
    generator, found = np.random.default_rng(seed), []
    for number in range(count):
        label = ("negative", "positive")[number % 2]
        length = int(generator.integers(max(2, words * 3 // 4), words * 5 // 4 + 1))
        text = [str(word) for word in generator.choice(_PLAIN, length)]
        for place in generator.choice(length, max(1, length // 6), replace=False):
            text[place] = str(generator.choice(_TELLING[label]))
        found.append({"text": " ".join(text), "label": label})
    return found


def examples(count: int, words: int, seed: int = 0) -> list[ft.Example]:
    """The same as examples."""
    return [ft.Example(**row) for row in rows(count, words, seed)]


@dataclass(frozen=True)
class Model:
    """A random model.

    Attributes:
        kind: `causal`, `masked` or `encoder`.
        stem: of the transformers classes, such as `Llama`.
        options: of the configuration.
        head: a classification head answers instead of words.
        exact: largest relative error in float64; norms that compute in float32 inside a float64 model take more.
        dtype: of the speed measurements.
        vocabulary: rows of the table of tokens, more than the tokenizer has.
    """

    kind: str
    stem: str
    options: Mapping[str, Any] = field(default_factory=dict)
    head: bool = False
    exact: float = 1e-9
    dtype: torch.dtype = torch.float32
    vocabulary: int = 128

    def made(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.nn.Module:
        """The model, the same weights at every call on one device."""
        suffix = {"causal": "ForCausalLM", "masked": "ForMaskedLM", "encoder": "Model"}[self.kind]
        stem = "GPT2LMHeadModel" if self.stem == "GPT2" else self.stem + suffix
        config = getattr(transformers, f"{self.stem}Config")(
            vocab_size=self.vocabulary, pad_token_id=0, bos_token_id=1, eos_token_id=2, **self.options
        )
        torch.manual_seed(7)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                return getattr(transformers, stem)(config).eval()
        finally:
            torch.set_default_dtype(before)

    def outputs(self, module: torch.nn.Module, name: str) -> Outputs:
        """The model as a function: words that answer, or a random head."""
        lm = ft.LanguageModel(module, tokenizer(), name, None, self.kind)
        if self.head or self.kind == "encoder":
            return ft.HeadLogits(lm, pooling="last" if self.kind == "causal" else "mean")
        return ft.AnswerLogits(lm, TASK)


_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
          "max_position_embeddings": 128}  # fmt: skip
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 4}
_ROUNDED = 1e-6
TINY: dict[str, Model] = {
    "llama, prompt": Model("causal", "Llama", _GROUPED, exact=_ROUNDED),
    "gpt2, prompt": Model("causal", "GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "mixtral, prompt": Model("causal", "Mixtral", {**_GROUPED, "num_local_experts": 4}, exact=_ROUNDED),
    "mamba, prompt": Model(
        "causal",
        "Mamba",
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
        exact=_ROUNDED,
    ),
    "bert, masked prompt": Model("masked", "Bert", _SMALL),
    "deberta-v2, masked prompt": Model(
        "masked", "DebertaV2", {**_SMALL, "relative_attention": True, "pos_att_type": "p2c|c2p", "share_att_key": True}
    ),
    "bert, head": Model("encoder", "Bert", _SMALL, head=True),
    "llama, head": Model("causal", "Llama", _GROUPED, head=True, exact=_ROUNDED),
}
_MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
         "max_position_embeddings": 512}  # fmt: skip
_135M = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
         "intermediate_size": 1536, "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip
_1B = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
       "intermediate_size": 8192, "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip
SIZES: dict[str, Model] = {
    "MiniLM-size encoder, head": Model("encoder", "Bert", _MINI, head=True, vocabulary=30522),
    "1.2B Llama, prompt, bfloat16": Model("causal", "Llama", _1B, vocabulary=128256, dtype=torch.bfloat16),
    "135M Llama, prompt": Model("causal", "Llama", _135M, vocabulary=49152),
    "135M Llama, prompt, bfloat16": Model("causal", "Llama", _135M, vocabulary=49152, dtype=torch.bfloat16),
}
SMALL_SIZES: dict[str, Model] = {"tiny encoder, head": TINY["bert, head"], "tiny Llama, prompt": TINY["llama, prompt"]}


def with_weights_of(module: torch.nn.Module, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """A copy in another precision at another place."""
    import copy

    return copy.deepcopy(module).to(device=device, dtype=dtype).eval()


def chosen(names: Sequence[str], known: Mapping[str, Model]) -> dict[str, Model]:
    """The models of these names; all where none is named."""
    return {name: model for name, model in known.items() if not names or any(part in name for part in names)}
