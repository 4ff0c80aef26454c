"""Tokenizers as people's models have them, small and made at test time."""

from __future__ import annotations

from functools import cache
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "the film was good and the plot was bad", "a dull story", "it was terrible, not great", "Response: good", "Answer: bad",
    "the actor is very funny in this scene\n\nand it ends", "### Response:\ngood", "system user assistant",
]  # fmt: skip
_NAMES: dict[str, str] = {
    "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip
SPECIAL = list(_NAMES.values())


def _fast(inner: Tokenizer, **options: Any) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **{"model_max_length": 64, **_NAMES, **options})


def _closing(inner: Tokenizer, single: str, pair: str) -> None:
    inner.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 1), ("</s>", 2)]
    )


@cache
def byte_level(single: str = "$A", *, space: bool = False) -> transformers.PreTrainedTokenizerFast:
    """GPT-2's kind: bytes, words with the space before them; characters that it never saw are several tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXT * 5, trainer)
    _closing(inner, single, f"{single} $B")
    return _fast(inner)


_MARK_AND_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def marks_with_words() -> transformers.PreTrainedTokenizerFast:
    """GPT-4's and Qwen's kind: bytes, a mark before a word is read with it, unless it follows another mark."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_MARK_AND_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([*TEXT, "film(good) film(bad) and/good or/bad"] * 9, trainer)
    return _fast(inner)


@cache
def bases() -> transformers.PreTrainedTokenizerFast:
    """Of DNA models: a letter is a token, and every other character is dropped without a mark."""
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate([*SPECIAL, *"ACGTYN="])}, []))
    _closing(inner, "<s> $A </s>", "<s> $A </s> $B </s>")
    return _fast(inner)


@cache
def words_without_marks() -> transformers.PreTrainedTokenizerFast:
    """Whole words in small letters; marks are taken out first."""
    vocabulary = [*SPECIAL, *sorted({word.strip(",:#") for text in TEXT for word in text.lower().split()} - {""})]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z ]"), "")])
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    _closing(inner, "<s> $A </s>", "<s> $A </s> $B </s>")
    return _fast(inner)


@cache
def word_pieces(side: str = "right") -> transformers.PreTrainedTokenizerFast:
    """BERT's kind: a token before and behind each text, and numbers that tell the two texts of a pair apart."""
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.train_from_iterator(
        TEXT * 5, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    )
    _closing(inner, "<s>:0 $A:0 </s>:0", "<s>:0 $A:0 </s>:0 $B:1 </s>:1")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return _fast(inner, model_input_names=names, padding_side=side, truncation_side=side)


@cache
def pieces_with_space(*, closing: bool = True) -> transformers.PreTrainedTokenizerFast:
    """T5's and Llama's kind: a mark for the space at the start of each word, and `</s>` behind every text."""
    words = [("<pad>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0), ("▁", -2.0)]
    words += [(f"▁{word}", -1.0) for word in ("the", "film", "was", "good", "bad", "It", "It", "great")]
    words += [("good", -3.0), ("bad", -3.0), (":", -3.0)]
    inner = Tokenizer(models.Unigram(list(dict(words).items()), unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    if closing:
        _closing(inner, "$A </s>", "$A </s> $B </s>")
    return _fast(inner)


@cache
def python_bytes() -> transformers.PreTrainedTokenizerBase:
    """One in Python, without offsets: a byte is a token, and `</s>` closes every text."""
    return transformers.ByT5Tokenizer(model_max_length=64)
