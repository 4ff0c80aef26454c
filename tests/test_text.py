"""Rows, tasks, splits, prompts and label words."""

from __future__ import annotations

import json
import re

import datasets
import peft
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foretune as ft
from foretune.model.encoding import PromptEncoder
from foretune.text.rows import read_rows
from foretune.text.split import few_shot_split, full_split, sampled_split
from tests.cases import TASK, language_model, tokenizer
from tests.conftest import family, many_rows

ROWS = st.lists(
    st.tuples(st.text(min_size=1, max_size=6), st.sampled_from(["negative", "positive"])), min_size=4, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, k=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_splits_are_disjoint_balanced_and_independent_of_row_order(rows, k, seed) -> None:
    mappings = [{"text": text, "label": label} for text, label in rows]
    try:
        split = TASK.few_shot(mappings, k=k, seed=seed)
    except ft.ForetuneError:
        return
    parts = [split.train, split.validation, split.test]
    texts = [example.text for part in parts for example in part]
    assert len(texts) == len(set(texts))
    assert len(texts) + split.duplicates + split.conflicts == len(rows)
    for part in parts[:2]:
        assert [sum(e.label == label for e in part) for label in TASK.labels] == [k, k]
    assert TASK.few_shot(mappings[::-1], k=k, seed=seed) == split


@pytest.mark.parametrize("apart", [False, True], ids=["part", "own test rows"])
@pytest.mark.parametrize("draw", [few_shot_split, sampled_split])
def test_the_spare_rows_are_those_that_a_larger_test_takes_too(draw, *, apart: bool) -> None:
    rows = [ft.Example(**row) for row in many_rows(60)]
    others = [ft.Example(f"{row.text} again", label=row.label) for row in rows[:30]] if apart else None
    few = draw(rows, ["negative", "positive"], 4, 13, 5, others)
    assert len(few.test) == 5 and few.spare > 0
    all_of_them = draw(rows, ["negative", "positive"], 4, 13, 5 + few.spare, others)
    assert len(all_of_them.test) == 5 + few.spare and all_of_them.spare == 0
    assert draw(rows, ["negative", "positive"], 4, 13, 10_000, others).test == all_of_them.test
    assert full_split(rows, ["negative", "positive"], 4, 13, 5).spare == 0  # they would be missed in training


def test_a_seed_means_the_same_split_everywhere() -> None:
    split = TASK.few_shot(many_rows(), k=2, seed=13, test=3)
    assert [example.text.split()[-3:] for example in split.train] == [
        ["plot", "actor", "story"], ["scene", "movie", "actor"], ["scene", "actor", "actor"], ["film", "story", "film"],
    ]  # fmt: skip
    assert len(split.test) == 3
    assert TASK.few_shot(many_rows(), k=2, seed=21, test=3).train != split.train


def test_every_kind_of_file_gives_the_same_rows(tmp_path) -> None:
    rows = [{"text": 'a "quoted"\nline', "label": "x"}, {"text": "b", "label": "y"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "r.json").write_text(json.dumps(rows))
    (tmp_path / "r.csv").write_text('text,label\n"a ""quoted""\nline",x\nb,y\n')
    (tmp_path / "r.tsv").write_text('text\tlabel\n"a ""quoted""\nline"\tx\nb\ty\n')
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    for suffix in ("jsonl", "json", "csv", "tsv", "parquet"):
        assert list(read_rows(tmp_path / f"r.{suffix}")) == rows, suffix


def test_hub_datasets_give_label_names(monkeypatch) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    dataset = datasets.Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": 0}], features=features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or dataset)
    rows = read_rows("owner/name:config", split="test", revision="main")
    assert [row["label"] for row in rows] == ["yes", "no"]
    assert asked == [(("owner/name", "config"), {"split": "test", "revision": "main"})]


def test_prompts_of_masked_and_causal_models() -> None:
    masked = PromptEncoder(tokenizer(), TASK, 64, masked=True)(ft.Example("the film"))
    tokens = tokenizer().convert_ids_to_tokens(list(masked.ids))
    assert tokens == ["<s>", "the", "film", "it", "was", "<mask>", "."]
    assert tokens[masked.position] == "<mask>"
    causal = PromptEncoder(tokenizer(), TASK, 64, masked=False)(ft.Example("the film"))
    tokens = tokenizer().convert_ids_to_tokens(list(causal.ids))
    assert tokens == ["<s>", "the", "film", "it", "was"]
    assert causal.position == 4


@settings(max_examples=40, deadline=None)
@given(words=st.integers(0, 150), limit=st.integers(8, 30), masked=st.booleans())
def test_cutting_never_touches_the_prompt(words: int, limit: int, masked: bool) -> None:
    encoded = PromptEncoder(tokenizer(), TASK, limit, masked=masked)(ft.Example(" ".join(["film"] * words)))
    tokens = tokenizer().convert_ids_to_tokens(list(encoded.ids))
    kept = tokens.count("film")
    prompt = ["<s>", *["film"] * kept, "it", "was"] + (["<mask>", "."] if masked else [])
    assert tokens == prompt
    assert encoded.cut == (kept < words)
    assert len(tokens) == min(limit, words + len(prompt) - kept)


def test_a_causal_model_cannot_answer_before_a_text() -> None:
    task = ft.Task(name="t", labels=["a", "b"], template="{mask} : {text}")
    with pytest.raises(ft.ForetuneError, match=r"Put \{mask\} last"):
        ft.AnswerLogits(language_model(family("llama-causal")), task)


def test_an_adapted_output_layer_is_refused() -> None:
    lm = language_model(family("llama-causal"))
    adapted = peft.get_peft_model(lm.module, peft.LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(ft.ForetuneError, match=r"'lm_head' carries an adapter.*merge_and_unload"):
        ft.AnswerLogits(ft.LanguageModel(adapted, lm.tokenizer, lm.name, None, lm.kind), TASK)


def test_encoders_have_no_words_to_answer_with() -> None:
    with pytest.raises(ft.ForetuneError, match="HeadLogits"):
        ft.AnswerLogits(language_model(family("bert-encoder")), TASK)


def test_label_words_take_the_form_they_have_in_the_prompt() -> None:
    lm = language_model(family("roberta-masked"))
    outputs = ft.AnswerLogits(lm, TASK)
    ids = outputs.module.output_layer.ids.tolist()
    assert tokenizer().convert_ids_to_tokens(ids) == ["terrible", "great"]


def test_answer_logits_are_the_models_own() -> None:
    # the shortcut reads one position and two rows of the vocabulary
    for name in (
        "bert-masked",
        "roberta-masked",
        "distilbert-masked",
        "llama-tied-causal",
        "gpt2-causal",
        "opt-causal",
    ):
        lm = language_model(family(name))
        outputs = ft.AnswerLogits(lm, TASK, difference=False)
        batch = outputs.batch(many_rows(5))
        logits = lm.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        words = [tokenizer().convert_tokens_to_ids(word) for word in ("terrible", "great")]
        expected = logits[range(5), batch["position"]][:, words]
        assert (outputs.logits(outputs.parameters(), batch) - expected).abs().max() < 1e-12


def test_unknown_labels_and_tasks_name_the_nearest() -> None:
    with pytest.raises(ft.ForetuneError, match=r"'positve'.*Did you mean 'positive'"):
        TASK.targets([ft.Example("a", label="positve")])
    with pytest.raises(ft.ForetuneError, match="Did you mean 'movies'"):
        ft.load_task("movie")


@pytest.mark.slow
def test_the_built_in_text_is_real() -> None:
    rows = ft.load_rows("movies")
    assert len(rows) == 10072
    assert {row["label"] for row in rows} == {"negative", "positive"}
    assert all((row["rating"] > 0) == (row["label"] == "positive") for row in rows)
    assert sum("naïve" in row["text"] for row in rows) > 0
    for row in rows:  # none is UTF-8 that was read as another encoding
        if not row["text"].isascii():
            with pytest.raises(UnicodeError):
                row["text"].encode("latin-1").decode("utf-8")


COUNTS = [(11, 11), (20, 3), (7, 30, 5), (2, 9), (1, 4), (40, 41, 3)]


@pytest.mark.parametrize("apart", [False, True], ids=["part", "own test rows"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_the_sample_that_an_error_names_can_be_drawn_and_leaves_test_rows(counts: tuple[int, ...], apart: bool) -> None:
    names = [f"label {number}" for number in range(len(counts))]
    rows = [
        ft.Example(f"{name} {row}", None, name)
        for name, count in zip(names, counts, strict=True)
        for row in range(count)
    ]
    others = [ft.Example("a new text", None, names[0])] if apart else None
    for option, drawn in {"--k": few_shot_split, "--n": sampled_split}.items():
        with pytest.raises(ft.ForetuneError) as refused:
            drawn(rows, names, 50, 13, None, others)
        named = re.search(rf"se {option} (\d+) or less", str(refused.value))
        if named is None:
            assert min(counts) == 1 and "dd rows" in str(refused.value)  # only more rows help
        else:
            assert drawn(rows, names, int(named[1]), 13, None, others).test
            with pytest.raises((ft.ForetuneError, AssertionError)):
                assert drawn(rows, names, int(named[1]) + 1, 13, None, others).test
