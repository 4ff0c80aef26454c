"""Every input is what the model's own tokenizer and a user's Trainer would make of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

import foretune as ft
from foretune.model.batches import outputs_and_features
from foretune.model.encoding import Accepted, PlainEncoder, PromptEncoder
from foretune.model.kinds import kind_of
from foretune.model.outputs import body_of
from foretune.text.template import template_pieces
from tests.cases import TASK, tokenizer
from tests.families import FAMILIES
from tests.tokenizers_of_people import (
    bases,
    byte_level,
    marks_with_words,
    pieces_with_space,
    python_bytes,
    word_pieces,
    words_without_marks,
)

TEXTS = [
    ft.Example("the film was good", "a dull story"),
    ft.Example("terrible", "the plot ends and it starts and it ends"),
    ft.Example("it is slow , dark and sad"),
    ft.Example("film " * 50, "scene"),
]
GOOD_BAD = {"negative": "bad", "positive": "good"}
SOME = ["bert", "bert-body", "roberta", "electra", "albert", "deberta-v3", "distilbert", "modernbert", "mpnet", "xlm",
        "t5", "gpt2", "llama", "opt-350m", "bloom", "gemma3-images", "xlnet", "squeezebert", "layoutlm", "t5gemma",
        "llama4"]  # fmt: skip
UNEVEN = {"nystromformer": "its windows need a length of their own", "funnel": "it pools two tokens into none"}


def asked(template: str, words: dict[str, str] | None = None, **options: Any) -> ft.Task:
    return ft.Task(name="asked", labels=["negative", "positive"], template=template, words=words or GOOD_BAD, **options)


def made(name: str, tokens: transformers.PreTrainedTokenizerBase | None = None) -> ft.LanguageModel:
    """A model of a family in memory, read as its folder would be."""
    module = FAMILIES[name].made()
    module.config.architectures = [type(module).__name__]
    if tokens is not None and len(tokens) > len(module.get_input_embeddings().weight):
        torch.manual_seed(1)
        module.resize_token_embeddings(len(tokens))
    kind = kind_of(module.config)
    if kind == "encoder" and hasattr(module, "get_encoder") and getattr(module.config, "is_encoder_decoder", False):
        module = module.get_encoder()
    return ft.LanguageModel(module, tokens or tokenizer(), name, None, kind)


def fed(
    tokens: transformers.PreTrainedTokenizerBase, examples: list[ft.Example], limit: int
) -> dict[str, torch.Tensor]:
    """What a Trainer with its usual collator feeds."""
    rows = [tokens(each.text, each.text2, truncation=True, max_length=limit) for each in examples]
    return dict(transformers.DataCollatorWithPadding(tokens)(rows))


def stripped(batch: dict[str, torch.Tensor]) -> list[dict[str, list[int]]]:
    """The rows of a batch without their padding, wherever it stands."""
    masks = batch["attention_mask"].bool()
    return [{name: values[row][mask].tolist() for name, values in batch.items()} for row, mask in enumerate(masks)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("limit", [8, 64])
def test_pairs_are_what_a_trainer_feeds(side: str, limit: int) -> None:
    tokens = word_pieces(side)
    encode = PlainEncoder(tokens, limit, Accepted(frozenset({"token_type_ids"})))
    outputs = ft.HeadLogits(made("bert-body", tokens), max_length=limit)
    batch = outputs.collate([encode(each) for each in TEXTS])
    position = batch.pop("position")
    assert stripped(batch) == stripped(fed(tokens, TEXTS, limit))
    assert position.tolist() == (batch["attention_mask"].sum(1) - 1).tolist()
    assert any(1 in row["token_type_ids"] for row in stripped(batch))
    assert [encode(each).cut for each in TEXTS] == [len(tokens(e.text, e.text2)["input_ids"]) > limit for e in TEXTS]


def test_token_types_reach_the_model_and_its_training() -> None:
    lm = made("bert-body", word_pieces())
    outputs = ft.HeadLogits(lm, 3, "cls", difference=False)
    plain = lm.module(**fed(lm.tokenizer, TEXTS, 64)).last_hidden_state[:, 0]
    _, features = outputs.logits_and_features(outputs.batch(TEXTS))
    assert (features - plain).abs().max() < 2e-6
    untyped = {name: value for name, value in fed(lm.tokenizer, TEXTS, 64).items() if name != "token_type_ids"}
    assert (lm.module(**untyped).last_hidden_state[:, 0] - plain).abs().max() > 1e-3
    blocks = ft.block_kernels(outputs, TEXTS, blocks="*token_type*")
    assert blocks.total().any()


def test_one_row_of_token_types_gets_none() -> None:
    lm = made("roberta", word_pieces())
    lm.module.config.type_vocab_size = 1
    outputs = ft.HeadLogits(lm)
    assert "token_type_ids" not in outputs.batch(TEXTS)


def features_of(lm: ft.LanguageModel, outputs: ft.HeadLogits, example: ft.Example) -> torch.Tensor:
    """The features of one example by a plain call of the body."""
    module: Any = lm.module
    body = body_of(module)
    taken = inspect.signature(body.forward).parameters
    inputs = fed(lm.tokenizer, [example], outputs.encode.limit)
    found = body(**{name: value for name, value in inputs.items() if name in taken or name == "attention_mask"})[0]
    return found[0, -1] if outputs.pooling == "last" else found[0].mean(0)


def check_head(name: str) -> None:
    lm = made(name)
    outputs = ft.HeadLogits(lm, 3, "last" if lm.left_to_right else "mean", difference=False)
    for example in TEXTS:
        with torch.no_grad():
            expected = features_of(lm, outputs, example) @ outputs.module.output_layer.weight.T
            found = outputs.forward(outputs.batch([example]))[0]
        assert (found - expected).abs().max() < 2e-6 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("name", SOME)
def test_a_head_reads_the_features_of_the_plain_call(name: str) -> None:
    check_head(name)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(SOME) - set(UNEVEN)))
def test_a_head_reads_the_features_of_the_plain_call_in_every_family(name: str) -> None:
    check_head(name)


def check_prompt(name: str) -> None:
    lm = made(name)
    outputs = ft.AnswerLogits(lm, TASK, difference=False)
    tokens, words = lm.tokenizer, [tokenizer().convert_tokens_to_ids(word) for word in ("terrible", "great")]
    for text in ("the film", "a dull story and a slow plot"):
        prompt = f"{text} it was" if lm.kind == "causal" else f"{text} it was <mask> ."
        inputs = tokens(prompt, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        place = len(ids) - 1 if lm.kind == "causal" else ids.index(tokens.mask_token_id)
        with torch.no_grad():
            expected = lm.module(**inputs).logits[0, place, words]
            found = outputs.forward(outputs.batch([text]))[0]
        assert (found - expected).abs().max() < 2e-6 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("name", [name for name in SOME if name not in (
    "bert-body", "t5", "t5gemma", "xlnet")])  # fmt: skip
def test_a_prompt_reads_the_logits_of_the_plain_call(name: str) -> None:
    check_prompt(name)


def test_a_model_with_an_order_of_its_own_answers_no_prompt() -> None:
    with pytest.raises(ft.ForetuneError, match=r"target mapping.*--output head"):
        ft.AnswerLogits(made("xlnet"), TASK)


KINDS = {
    "llama": "causal", "xlnet": "causal", "gemma3-images": "causal", "qwen2-vl": "causal", "llava": "causal",
    "flaubert": "masked", "xlm": "masked", "bert-pretraining": "masked", "electra": "masked",
    "electra-discriminator": "encoder", "t5": "encoder", "t5gemma": "encoder", "llama-classifier": "encoder",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_read_as_it_was_trained(name: str) -> None:
    assert made(name).kind == KINDS[name]


def test_a_body_that_reads_left_to_right_is_read_at_its_end() -> None:
    assert [made(name).left_to_right for name in ("llama-classifier", "gpt2", "bert-classifier", "t5", "xlm")] == [
        True, True, False, False, False,
    ]  # fmt: skip


CLOSING: dict[str, Callable[[], Any]] = {
    "post-processor": lambda: byte_level("<s> $A </s>"),
    "end alone": lambda: byte_level("$A </s>"),
    "two ends": lambda: byte_level("$A </s> </s>"),
    "bert": word_pieces,
    "t5": pieces_with_space,
    "python": python_bytes,
    "none": byte_level,
}


@pytest.mark.parametrize("name", CLOSING)
def test_a_causal_prompt_ends_where_the_answer_begins(name: str) -> None:
    tokens = CLOSING[name]()
    encode = PromptEncoder(tokens, asked("{text} It was {mask}"), 64, masked=False)
    for text in ("the film", "the film was bad"):
        read = encode(ft.Example(text))
        both = tokens(f"{text} It was good")["input_ids"]
        assert list(read.ids) == both[: len(read.ids)]
        assert both[len(read.ids) :][: len(encode._follows.pieces[1])] == encode._follows.pieces[1]
        assert read.position == len(read.ids) - 1
        assert read.ids[-1] not in tokens.all_special_ids or name == "t5"


def test_a_causal_prompt_ends_where_the_answer_begins_also_where_marks_have_no_tokens() -> None:
    words = {"negative": "N", "positive": "Y"}
    encode = PromptEncoder(bases(), asked("{text}={mask}", words), 64, masked=False)
    assert bases().convert_ids_to_tokens(encode(ft.Example("ACGT")).ids) == ["<s>", *"ACGT="]
    assert bases().convert_ids_to_tokens(encode.answer_ids()) == ["N", "Y"]
    encode = PromptEncoder(words_without_marks(), asked("{text} It was {mask}"), 64, masked=False)
    read = encode(ft.Example("The film, good."))
    assert words_without_marks().convert_ids_to_tokens(read.ids) == ["<s>", "the", "film", "good", "it", "was"]
    assert read.position == len(read.ids) - 1


def test_a_tokenizer_that_reads_neither_words_nor_letters_answers_no_prompt() -> None:
    words = {"negative": "\u2639", "positive": "\u263a"}
    inner = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "\u5b57": 2, "\u8a9e": 3, "\u6587": 4}, []))
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64)
    with pytest.raises(ft.ForetuneError, match=r"no tokens for any of '\.', 'a'.*--output head"):
        PromptEncoder(tokens, asked("{text} {mask}", words), 64, masked=False)


@pytest.mark.parametrize(("lead", "clear"), [("(", False), ("/", False), (":", True), (" (", True), (" Answer:", True)])
def test_a_mark_that_touches_text_and_answer_is_tried_on_the_text(lead: str, clear: bool) -> None:
    tokens = marks_with_words()
    encode = PromptEncoder(tokens, asked("{text}" + lead + "{mask}"), 64, masked=False)
    if not clear:
        with pytest.raises(
            ft.ForetuneError, match=r"not clear where the prompt ends.*Put words or a mark and one space"
        ):
            encode(ft.Example("the film"))
        return
    ids = encode(ft.Example("the film")).ids
    for word, pieces in zip(GOOD_BAD.values(), encode._follows.pieces, strict=True):
        assert [*ids, *pieces] == tokens(f"the film{lead}{word}")["input_ids"]


def test_a_special_token_of_the_template_itself_stays() -> None:
    tokens = byte_level("<s> $A </s>")
    read = PromptEncoder(tokens, asked("{text}</s>{mask}"), 64, masked=False)(ft.Example("a film"))
    assert tokens.decode(read.ids) == "<s>a film</s>"


AS_TYPED = {
    "a space": ("{text} It was {mask}", "a film It was", " good"),
    "no mask": ("{text} It was", "a film It was", " good"),
    "no mask, a newline": ("{text}\nAnswer:\n", "a film\nAnswer:\n", "good"),
    "a newline": ("{text}\n### Response:\n{mask}", "a film\n### Response:\n", "good"),
    "two newlines": ("{text}\nAnswer:\n\n{mask}", "a film\nAnswer:\n\n", "good"),
    "nothing": ("{text} Answer:{mask}", "a film Answer:", "good"),
    "a tab": ("{text}\tAnswer:\t{mask}", "a film\tAnswer:\t", "good"),
    "a newline and a space": ("{text}\nAnswer:\n {mask}", "a film\nAnswer:\n", " good"),
    "two spaces": ("{text} It was  {mask}", "a film It was ", " good"),
    "a chat": ("user\n{text}</s>\nassistant\n{mask}", "user\na film</s>\nassistant\n", "good"),
}


@pytest.mark.parametrize("name", AS_TYPED)
def test_the_model_reads_the_prompt_as_it_is_typed(name: str) -> None:
    template, prompt, answer = AS_TYPED[name]
    tokens = byte_level()
    encode = PromptEncoder(tokens, asked(template), 64, masked=False)
    assert tokens.decode(encode(ft.Example("a film")).ids) == prompt
    assert tokens.decode(encode.answer_ids()[1:]) == answer


@settings(max_examples=60, deadline=None)
@given(blank=st.text(alphabet=" \n\t", max_size=4), lead=st.sampled_from(["It was", "Answer:", "\n", "the"]))
def test_prompt_and_answer_are_what_both_are_together(blank: str, lead: str) -> None:
    for tokens in (byte_level(), pieces_with_space(closing=False)):
        encode = PromptEncoder(tokens, asked("{text} " + lead + blank + "{mask}"), 64, masked=False)
        ids = encode(ft.Example("the film")).ids
        for word, pieces in zip(GOOD_BAD.values(), encode._follows.pieces, strict=True):
            assert [*ids, *pieces] == tokens("the film " + lead + blank + word)["input_ids"]


def test_a_prompt_that_grows_into_the_answer_is_refused() -> None:
    with pytest.raises(ft.ForetuneError, match=r"not clear where the prompt ends.*one space right before \{mask\}"):
        PromptEncoder(byte_level(), asked("{text} g{mask}", {"negative": "ood", "positive": "reat"}), 64, masked=False)
    encode = PromptEncoder(
        byte_level(), asked("{text}{mask}", {"negative": "bad", "positive": "ood"}), 64, masked=False
    )
    with pytest.raises(ft.ForetuneError, match="not clear where the prompt ends"):
        encode(ft.Example("the film was g"))


@pytest.mark.parametrize("template", ["{text!r} It was {mask}", "{text:>9} It was {mask}", "{text} {text2!s} {mask}"])
def test_formats_in_a_template_are_refused(template: str) -> None:
    with pytest.raises(ft.ForetuneError, match=r"asks for a format.*Write \{text2?\}"):
        template_pieces(template)


CHARACTERS = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("\U0001f9ff\u9fa5\u0336\u0301\U0001f1e9 a.")),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(text=CHARACTERS, text2=CHARACTERS, limit=st.integers(12, 30), most=st.one_of(st.none(), st.integers(1, 9)))
def test_cuts_end_for_every_text_and_spare_the_prompt(text: str, text2: str, limit: int, most: int | None) -> None:
    tokens = byte_level("<s> $A </s>")
    task = asked("Q: {text}|{text2} It was {mask}", text2="text2", text_limit=most)
    encode = PromptEncoder(tokens, task, limit + 8, masked=False)
    read = encode(ft.Example(text, text2))
    assert len(read.ids) <= limit + 8
    shown = tokens.decode(read.ids, skip_special_tokens=False)
    assert shown.startswith("<s>Q: ")
    assert shown.endswith(" It was")
    whole = len(tokens(f"Q: {text.strip()}|{text2.strip()} It was")["input_ids"]) - 1
    if most is None and whole <= limit + 8:
        assert not read.cut


@settings(max_examples=15, deadline=None)
@given(text=CHARACTERS, limit=st.integers(12, 30))
def test_cuts_end_without_offsets_too(text: str, limit: int) -> None:
    read = PromptEncoder(python_bytes(), asked("{text} It was {mask}"), limit, masked=False)(ft.Example(text))
    assert len(read.ids) <= limit
    assert python_bytes().decode(read.ids).endswith(" It was ")  # a byte is a token: the space is one of its own


@pytest.mark.parametrize("length", [0, -1, -7])
def test_a_limit_below_one_is_refused(length: int) -> None:
    for make in (lambda: ft.HeadLogits(made("bert"), max_length=length),
                 lambda: ft.AnswerLogits(made("bert"), TASK, max_length=length)):  # fmt: skip
        with pytest.raises(ft.ForetuneError, match=f"--max-length is {length}; expected at least 1"):
            make()


def test_a_limit_leaves_room_for_the_text_or_is_refused_with_one_that_does() -> None:
    lm = made("bert", word_pieces())
    with pytest.raises(ft.ForetuneError, match=r"adds 2 of its own. Use --max-length 3 or more"):
        ft.HeadLogits(lm, max_length=2)
    assert len(ft.HeadLogits(lm, max_length=3).encode(ft.Example("film film")).ids) == 3
    with pytest.raises(ft.ForetuneError, match=r"adds 3 of its own. Use --max-length 5 or more"):
        ft.HeadLogits(lm, max_length=3).encode(TEXTS[0])
    with pytest.raises(ft.ForetuneError, match=r"alone takes 5 tokens.*Use --max-length 6 or more"):
        ft.AnswerLogits(made("bert"), TASK, max_length=5)
    assert len(ft.AnswerLogits(made("bert"), TASK, max_length=6).encode(ft.Example("film film")).ids) == 6


def test_a_limit_of_minus_one_is_no_limit() -> None:
    lm = made("xlnet")
    assert lm.module.config.max_position_embeddings == -1
    assert ft.HeadLogits(lm).encode.limit == tokenizer().model_max_length


@pytest.mark.parametrize("name", ["roberta", "xmod", "luke", "mpnet", "esm", "bert", "opt", "gpt2", "yoso"])
def test_the_longest_input_has_a_position_for_each_token(name: str) -> None:
    outputs = ft.HeadLogits(made(name, byte_level()))
    read = outputs.encode(ft.Example("film " * 99))
    assert read.cut
    assert torch.isfinite(outputs.forward(outputs.collate([read]))).all()


def test_padding_that_only_the_tokenizer_knows_is_written_as_another_token() -> None:
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, unk_token="<unk>", model_max_length=64
    )
    tokens.add_special_tokens({"pad_token": "[PAD]"})
    lm = made("llama", tokens)
    lm.module.resize_token_embeddings(tokens.pad_token_id)
    outputs = ft.HeadLogits(lm, difference=False)
    together = outputs.forward(outputs.batch(["a film", "the film was good and bad"]))
    alone = torch.cat([outputs.forward(outputs.batch([text])) for text in ("a film", "the film was good and bad")])
    assert (together - alone).abs().max() < 1e-6


def test_tokens_that_the_model_has_no_row_for_are_named() -> None:
    lm = replace(made("llama"), tokenizer=byte_level())
    with pytest.raises(ft.ForetuneError, match=r"model's table has 64 rows.*tokenizer belongs to another model"):
        ft.HeadLogits(lm).encode(ft.Example("the film was good"))


def test_texts_of_unknown_tokens_are_counted() -> None:
    outputs = ft.HeadLogits(made("bert"))
    found = [outputs.encode(ft.Example(text)) for text in ("the film", "xyzzy plugh foo", "xyzzy film the")]
    assert [each.mostly_unknown for each in found] == [False, True, False]


def test_texts_whose_characters_are_dropped_are_counted_and_said() -> None:
    tokens = bases()
    heads = ft.HeadLogits(made("bert", tokens), 2)
    prompts = ft.AnswerLogits(made("llama", tokens), asked("{text}={mask}", {"negative": "N", "positive": "Y"}))
    for outputs in (heads, prompts):
        found = outputs_and_features(outputs, ["\u65e5\u672c", "\u4e2d", "ACGT"])
        assert found.dropped == 2
        assert any("2 of 3 texts have no token of their own" in note for note in found.notes)
        found = outputs_and_features(outputs, ["A1", "A2", "A3"])
        assert any("All 3 texts have the same tokens, though they differ" in note for note in found.notes)
        assert outputs_and_features(outputs, ["A", "AC"]).notes == ()
        assert outputs_and_features(outputs, ["A", "A"]).notes == ()


def test_a_text_that_holds_the_mask_token_is_refused_by_its_own_text() -> None:
    read = PromptEncoder(tokenizer(), TASK, 64, masked=True)
    text = f"the film {tokenizer().mask_token} was good"
    with pytest.raises(ft.ForetuneError, match=r"must not contain '<mask>' itself\. Drop this row") as refused:
        read(ft.Example(text))
    assert repr(text) in str(refused.value)
    assert read(ft.Example("the film was good")).position is not None
