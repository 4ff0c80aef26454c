"""Built-in tasks, task files, prompts, limits, and where rows come from."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import datasets
import pytest
import transformers
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import foretune as ft
from foretune.model.encoding import PromptEncoder
from foretune.text.builtin import TASKS, load_data
from foretune.text.split import SEEDS
from foretune.text.task import MANUAL, Prompt
from foretune.text.task_file import parsed_task
from foretune.text.template import template_pieces
from tests.cases import TASK, language_model, tokenizer
from tests.conftest import family, many_rows

ONE, TWO = "A dog runs.", "An animal moves."
EXAMPLE = ft.Example(ONE, TWO)

# Malladi et al. 2023, table 2, with "A dog runs." as S1 and "An animal moves." as S2; table 2 prints a space after
# the mask, the templates that were run (princeton-nlp/LM-Kernel-FT, run_fewshot.sh: `*mask*.`) have none
TABLE_2 = {
    "sst2": "A dog runs. It was [MASK].",
    "sst5": "A dog runs. It was [MASK].",
    "mr": "A dog runs. It was [MASK].",
    "cr": "A dog runs. It was [MASK].",
    "mpqa": "A dog runs. It was [MASK].",
    "subj": "A dog runs. This is [MASK].",
    "trec": "[MASK]: A dog runs.",
    "ag_news": "A dog runs. This article is about [MASK] news.",
    "mnli": "A dog runs? [MASK], an animal moves.",
    "snli": "A dog runs? [MASK], an animal moves.",
    "qnli": "A dog runs? [MASK], an animal moves.",
    "rte": "A dog runs? [MASK], an animal moves.",
    "mrpc": "A dog runs. [MASK], an animal moves.",
    "qqp": "A dog runs. [MASK], an animal moves.",
}
SENTIMENT = {"negative": "terrible", "positive": "great"}
NLI = {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"}
BINARY_NLI = {"not_entailment": "No", "entailment": "Yes"}
PARAPHRASE = {"not_paraphrase": "No", "paraphrase": "Yes"}
TABLE_2_WORDS = {
    **dict.fromkeys(("sst2", "mr", "cr", "mpqa"), SENTIMENT),
    "sst5": {"very_negative": "terrible", "negative": "bad", "neutral": "okay", "positive": "good",
             "very_positive": "great"},
    "subj": {"subjective": "subjective", "objective": "objective"},
    "trec": {"description": "Description", "entity": "Entity", "expression": "Expression", "human": "Human",
             "location": "Location", "number": "Number"},
    "ag_news": {"world": "world", "sports": "sports", "business": "business", "tech": "tech"},
    **dict.fromkeys(("mnli", "snli"), NLI),
    **dict.fromkeys(("qnli", "rte"), BINARY_NLI),
    **dict.fromkeys(("mrpc", "qqp"), PARAPHRASE),
}  # fmt: skip
# Gao et al. 2021, table E.1, first rows: template and words of labels[0] and labels[1]
SEARCHED = {
    "sst2": ("A dog runs. A [MASK] one.", "pathetic", "irresistible"),
    "mr": ("It was [MASK]! A dog runs.", "terrible", "epic"),
    "cr": ("A dog runs. It's [MASK]!", "horrible", "fantastic"),
    "qnli": ("A dog runs? [MASK]. Yes, an animal moves.", "Nonetheless", "Okay"),
    "rte": ("A dog runs. [MASK], I believe an animal moves.", "Yet", "Clearly"),
    "qqp": ("A dog runs? [MASK], but an animal moves.", "Since", "Me"),
}
LIMITS = {
    **dict.fromkeys(("sst2", "sst5", "qnli", "mrpc", "qqp"), (128, None)),
    **dict.fromkeys(("mr", "cr", "mpqa", "subj", "trec"), (128, 110)),
    **dict.fromkeys(("mnli", "rte", "ag_news"), (256, 240)),
    "snli": (256, None),
}
PROMPTS = [(task.name, prompt) for task in TASKS.values() for prompt in task.prompts]


@cache
def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer like RoBERTa's, trained on the tasks' own words, that swallows the space before a mask."""
    words = [word for name, prompt in PROMPTS for word in TASKS[name].prompted(prompt).words.values()]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([" " + word for word in words] * 5, trainer)
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True), model_max_length=512,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_every_prompt_is_read_at_its_mask(name: str, prompt: str) -> None:
    task, tokens = TASKS[name].prompted(prompt), byte_tokenizer()
    masked = PromptEncoder(tokens, task, 512, masked=True)(EXAMPLE)
    assert tokens.decode(masked.ids) == "<s>" + re.sub(" ?<mask>", "<mask>", task.rendered(EXAMPLE, "<mask>"))
    assert tokens.convert_ids_to_tokens(masked.ids[masked.position]) == "<mask>"
    encode = PromptEncoder(tokens, task, 512, masked=False)
    causal = encode(EXAMPLE)
    prompted = task.rendered(EXAMPLE, "", causal=True)
    assert tokens.decode(causal.ids) == "<s>" + prompted.rstrip()
    assert causal.position == len(causal.ids) - 1
    for ids in (PromptEncoder(tokens, task, 512, masked=True).answer_ids(), encode.answer_ids()):
        assert [tokens.decode([i]) for i in ids] == [" " + task.words[label] for label in task.labels]


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_causal_prompts_are_written_down_where_words_follow_the_mask(name: str, prompt: str) -> None:
    task = TASKS[name].prompted(prompt)
    tail = task.rendered(EXAMPLE).partition("[MASK]")[2]
    assert task.causal_template is not None or not any(letter.isalpha() for letter in tail)
    assert task.rendered(EXAMPLE, causal=True).endswith("[MASK]")
    both = {piece.field for piece in task.causal_pieces} == {piece.field for piece in task.pieces}
    assert both, "a causal model reads the same texts"


@pytest.mark.parametrize("name", TABLE_2)
def test_manual_prompts_words_and_limits_are_the_published_ones(name: str) -> None:
    task = ft.load_task(name)
    assert task.rendered(EXAMPLE) == TABLE_2[name]
    assert task.words == TABLE_2_WORDS[name]
    assert list(task.words) == list(task.labels)
    assert task.metric == ("f1" if name in ("mrpc", "qqp") else "accuracy")
    assert task.test_cap == (500 if name == "cr" else 1000)
    assert (task.max_length, task.text_limit) == LIMITS[name]
    null = task.prompted("null")
    assert null.rendered(EXAMPLE) == (f"{ONE} [MASK]" if task.text2 is None else f"{ONE} {TWO} [MASK]")
    assert null.words == task.words


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_prompts_are_the_first_of_the_published_table(name: str) -> None:
    task = ft.load_task(name).prompted("search")
    assert (task.rendered(EXAMPLE), *task.words.values()) == SEARCHED[name]


def test_all_the_tasks_are_there() -> None:
    others = {"movies", "cola", "imdb", "yelp", "cb", "boolq", "wic", "wsc"}
    assert set(TASKS) == set(TABLE_2) | others
    assert {name for name in TASKS if "search" in TASKS[name].prompts} == set(SEARCHED)
    assert all(task.name == name and task.about and task.origin for name, task in TASKS.items())


def test_prompts_are_switched_by_name_and_back() -> None:
    task = ft.load_task("rte")
    assert task.prompts == ("manual", "null", "search")
    assert task.prompted("search").prompted("null").words == task.words
    assert task.prompted("search").prompted("manual") == task
    with pytest.raises(ft.ForetuneError, match=r"no prompt 'serch'.*manual, null, search.*Did you mean 'search'"):
        task.prompted("serch")


def task_yaml(task: ft.Task) -> str:
    """The task as a YAML file."""
    values = _without_empty(dataclasses.asdict(task.prompted(MANUAL)))
    values["prompts"] = values.pop("variants", {})
    del values["prompt"]
    filled = {key: value for key, value in values.items() if value not in ({}, "")}
    return yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, width=120)


def _without_empty(value: Any) -> Any:
    """Mappings and lists without their empty places, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _without_empty(inner) for key, inner in value.items() if inner is not None}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", TASKS)
def test_a_task_file_holds_the_whole_task(name: str) -> None:
    task = TASKS[name]
    assert parsed_task(task_yaml(task), "copy.yaml", "copy") == task
    assert parsed_task(task_yaml(task.prompted("null")), "copy.yaml", "copy") == task


def test_a_users_task_is_a_few_lines(tmp_path) -> None:
    file = tmp_path / "reviews.yaml"
    file.write_text("labels: [no, yes]\ntemplate: '{text} Good? {mask}'\nwords: {no: No, yes: Yes}\ntext: review\n"
                    "test_cap: 10\nprompts:\n  null: {template: '{text} {mask}'}\n")  # fmt: skip
    assert ft.load_task(str(file)) == ft.Task(
        name="reviews",
        labels=("no", "yes"),
        template="{text} Good? {mask}",
        words={"no": "No", "yes": "Yes"},
        text="review",
        test_cap=10,
        variants={"null": Prompt("{text} {mask}")},
    )


BAD_FILES = {
    "unknown-key": ("labels: [a, b]\ntemplat: '{text} {mask}'", "unknown key 'templat'. Did you mean 'template'"),
    "unknown-prompt-key": ("labels: [a, b]\nprompts: {x: {word: {a: b}}}", "prompts: x: unknown key 'word'. Did you"),
    "unknown-hub-key": ("labels: [a, b]\nhub: {id: o/n, spilt: x}", "hub: unknown key 'spilt'"),
    "hub-without-id": ("labels: [a, b]\nhub: {train: x}", "expected an id"),
    "no-labels": ("template: '{text} {mask}'", "expected a list of labels"),
    "one-label": ("labels: [a]", "two or more different labels"),
    "wrong-label": ("labels: [good, bad]\nwords: {goood: x}", "goood: 'x'. Did you mean 'good'"),
    "wrong-number": ("labels: [a, b]\nmax_length: many", "max_length: expected a whole number, got 'many'"),
    "zero": ("labels: [a, b]\nmax_length: 0", "max_length is 0"),
    "wrong-kind": ("labels: [a, b]\ntemplate: [x]", "template: expected one value"),
    "wrong-mapping": ("labels: [a, b]\nwords: x", "words: expected `name: value` lines"),
    "wrong-field": ("labels: [a, b]\ntemplate: '{txt} {mask}'", "'txt' is not one of them. Did you mean 'text'"),
    "wrong-mark": ("labels: [a, b]\ntemplate: '{text|lower} {mask}'", "Did you mean 'lowered'"),
    "wrong-variant": ("labels: [a, b]\nprompts: {x: {template: '{text2}{text}'}}", "no text2 column"),
    "no-template": ("labels: [a, b]\nprompts: {x: {words: {a: b}}}", "expected a template"),
    "second-manual": ("labels: [a, b]\nprompts: {manual: {template: '{text}'}}", "is the task's own template"),
    "causal-tail": ("labels: [a, b]\ntext2: c\ncausal_template: '{text} {mask} {text2}'", "Put {mask} last"),
    "not-yaml": ("labels: [a", "is not YAML"),
    "a-list": ("[a, b]", "expected `key: value` lines"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_wrong_task_file_says_what_to_write(text: str, message: str, tmp_path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(text)
    with pytest.raises(ft.ForetuneError, match=re.escape(message)) as caught:
        ft.load_task(file)
    assert str(file) in str(caught.value)


def test_a_missing_task_file_is_named(tmp_path) -> None:
    with pytest.raises(ft.ForetuneError, match=r"Cannot read .*none\.yaml: .* Expected a task file: YAML"):
        ft.load_task(tmp_path / "none.yaml")


def test_marks_change_the_text_only_where_they_say() -> None:
    task = ft.Task(name="t", labels=["a", "b"], text2="text2", template="{text|unpunctuated}? {mask} {text2|lowered}")
    assert task.rendered(ft.Example("Is it so?", "NASA says")) == "Is it so? [MASK] nASA says"
    assert task.rendered(ft.Example("No stop", "")) == "No stop? [MASK] "
    assert template_pieces("{text|lowered|unpunctuated}")[0].marks == ("lowered", "unpunctuated")


def test_a_word_of_several_tokens_is_refused_or_its_first_piece_taken() -> None:
    lm = language_model(family("bert-masked"))
    task = ft.Task(
        name="t", labels=["a", "b"], template="{text} it was {mask} .", words={"a": "not good", "b": "great"}
    )
    message = r"'not good' for the label 'a' is 2 tokens here \(not, good\).*--words a=WORD.*--first-piece"
    with pytest.raises(ft.ForetuneError, match=message):
        ft.AnswerLogits(lm, task)
    outputs = ft.AnswerLogits(lm, task, first_piece=True)
    assert tokenizer().convert_ids_to_tokens(outputs.module.output_layer.ids.tolist()) == ["not", "great"]
    assert outputs.description["first_piece"] is True
    same = ft.Task(name="t", labels=["a", "b"], template="{text} it was", words={"a": "not good", "b": "not bad"})
    with pytest.raises(ft.ForetuneError, match=r"'not good' and 'not bad' are the same token 'not'"):
        ft.AnswerLogits(lm, same, first_piece=True)


def test_the_tasks_own_length_is_the_default() -> None:
    lm = language_model(family("bert-masked"))
    task = ft.Task(name="t", labels=TASK.labels, template=TASK.template, words=TASK.words, max_length=12)
    assert ft.AnswerLogits(lm, task).encode.limit == 12
    assert ft.AnswerLogits(lm, task, max_length=20).encode.limit == 20
    assert ft.AnswerLogits(lm, TASK).encode.limit == 64


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    limits=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    whole=st.integers(10, 60),
    masked=st.booleans(),
)
def test_limits_cut_each_text_and_never_the_prompt(lengths, limits, whole: int, masked: bool) -> None:
    task = ft.Task(name="t", labels=TASK.labels, words=TASK.words, text2="text2",
                   template="{text} it was {text2} very {mask}", text_limit=limits[0], text2_limit=limits[1])  # fmt: skip
    example = ft.Example(" ".join(["film"] * lengths[0]), " ".join(["plot"] * lengths[1]))
    encoded = PromptEncoder(tokenizer(), task, whole, masked=masked)(example)
    tokens = tokenizer().convert_ids_to_tokens(list(encoded.ids))
    kept = (tokens.count("film"), tokens.count("plot"))
    prompt = ["<s>", *["film"] * kept[0], "it", "was", *["plot"] * kept[1], "very"] + (["<mask>"] if masked else [])
    assert tokens == prompt
    assert len(tokens) <= whole
    assert all(count <= limit for count, limit in zip(kept, limits, strict=True))
    assert encoded.cut == (kept != lengths)
    within = tuple(min(pair) for pair in zip(lengths, limits, strict=True))
    if sum(within) + len(prompt) - sum(kept) <= whole:
        assert kept == within, "nothing is cut without need"


TEXTS = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from(["negative", "positive"])), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(rows=TEXTS, others=TEXTS, cap=st.none() | st.integers(1, 5))
def test_separate_test_rows_are_disjoint_and_the_same_for_every_seed(rows, others, cap) -> None:
    rows, others = ([{"text": text, "label": label} for text, label in part] for part in (rows, others))
    try:
        splits = [TASK.few_shot(rows, k=1, seed=seed, test=cap, test_rows=others) for seed in SEEDS]
    except ft.ForetuneError:
        return
    assert all(split.test == splits[0].test for split in splits)
    seen = {row["text"] for row in rows}
    test = [example.text for example in splits[0].test]
    assert not seen & set(test)
    assert len(test) == len(set(test))
    assert TASK.few_shot(rows, k=1, test=cap, test_rows=others[::-1]).test == splits[0].test
    if cap is None:
        alone = TASK.few_shot(rows, k=1)
        left_out = splits[0].duplicates - alone.duplicates + splits[0].conflicts - alone.conflicts
        assert len(test) + left_out + splits[0].overlaps == len(others)


def test_the_tasks_cap_holds_unless_another_number_is_asked_for() -> None:
    task = ft.Task(name="t", labels=TASK.labels, test_cap=3)
    assert len(task.few_shot(many_rows(), k=2).test) == 3
    assert len(task.few_shot(many_rows(), k=2, test=5).test) == 5
    assert len(task.few_shot(many_rows(8), k=1, test_rows=many_rows(40)[8:]).test) == 3


def test_a_folder_gives_training_validation_and_test_rows(tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "a", "label": "x"}))
    data = load_data(tmp_path)
    assert (list(data.train), data.validation, data.test) == ([{"text": "a", "label": "x"}], None, None)
    (tmp_path / "test.csv").write_text("text,label\nb,y\n")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"text": "c", "label": "x"}))
    (tmp_path / "more.csv").write_text("not read")
    data = load_data(str(tmp_path))
    assert [list(rows) for rows in data.parts.values()] == [
        [{"text": "a", "label": "x"}], [{"text": "c", "label": "x"}], [{"text": "b", "label": "y"}],
    ]  # fmt: skip
    assert data.unused == ["more.csv"]
    assert load_data(tmp_path / "test.csv").train == data.test
    (tmp_path / "train.csv").write_text("text,label\na,x\n")
    with pytest.raises(ft.ForetuneError, match=r"2 train files: train\.csv, train\.jsonl"):
        load_data(tmp_path)


def test_a_folder_without_training_rows_says_what_it_holds(tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(ft.ForetuneError, match=r"no train file, but rows\.jsonl.*train\.\*"):
        load_data(tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """The hub client, replaced by one that gives the rows set on it and records what was asked."""
    asked = []

    def dataset(names: list[str], **columns: list) -> None:
        features = datasets.Features(
            {
                name: datasets.ClassLabel(names=names) if name == "label" else datasets.Value("string")
                for name in columns
            }
        )
        made = datasets.Dataset.from_dict(columns, features=features)
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or made)

    dataset.asked = asked
    return dataset


def test_a_tasks_name_reads_its_hub_dataset(hub) -> None:
    hub(["not_equivalent", "equivalent"], sentence1=["a", "c"], sentence2=["b", "d"], idx=["0", "1"], label=[1, 0])
    rows, test_rows = load_data("mrpc").train, load_data("mrpc").test
    assert list(rows) == [
        {"text": "a", "text2": "b", "label": "paraphrase"},
        {"text": "c", "text2": "d", "label": "not_paraphrase"},
    ]
    assert test_rows is not None
    assert hub.asked[:2] == [
        (("nyu-mll/glue", "mrpc"), {"split": split, "revision": None}) for split in ("train", "validation")
    ]
    assert ft.load_task("mrpc").examples(rows)[0] == ft.Example("a", "b", "paraphrase")
    assert list(ft.load_rows("mrpc")) == list(rows)


def test_rows_that_nobody_could_label_are_left_out(hub) -> None:
    names = ["entailment", "neutral", "contradiction"]
    hub(names, premise=["a", "c"], hypothesis=["b", "d"], label=[-1, 2])
    rows = load_data("snli").train
    assert [row["label"] for row in rows] == [None, "contradiction"]
    task = ft.load_task("snli")
    assert task.examples(rows)[1] == ft.Example("c", "d", "contradiction")
    with pytest.raises(ft.ForetuneError, match="All rows have the label 'contradiction'"):
        task.few_shot(rows, k=1)


def test_columns_can_be_put_together(hub) -> None:
    hub(["False", "True"], word=["run"], sentence1=["I run."], sentence2=["A run."], label=[1])
    assert list(load_data("wic").train) == [{"text": "I run. A run.", "text2": "run", "label": "same"}]


def test_a_hub_dataset_that_does_not_fit_names_what_is_missing(hub) -> None:
    hub(["neg", "pos"], sentense=["a"], label=[1])
    with pytest.raises(ft.ForetuneError, match=r"glue:sst2 has no column 'sentence'.*Did you mean 'sentense'"):
        load_data("sst2")
    hub(["neg", "pos"], sentence=["a"], label=[1])
    with pytest.raises(ft.ForetuneError, match=r"label 'pos', which is not one of 'negative', 'positive'"):
        load_data("sst2")


def test_a_users_task_reads_its_own_dataset_by_its_name(hub) -> None:
    hub(["bad", "good"], review=["fine"], label=[1])
    task = parsed_task("labels: [bad, good]\nhub: {id: me/mine, columns: {text: review}}", "task", "mine")
    assert [list(load_data(source, task).train) for source in (task, "mine")] == [
        [{"text": "fine", "label": "good"}]
    ] * 2
    assert load_data(task).test is None


def test_a_task_without_rows_asks_for_a_file() -> None:
    with pytest.raises(ft.ForetuneError, match=r"'mpqa' has no rows of its own.*columns text, label"):
        load_data("mpqa")
