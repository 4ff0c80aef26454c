"""Rows in memory: every container is read by rows, or refused with a message; never by its columns or characters."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import foretune as ft
from foretune.text.containers import row_list
from foretune.text.example import as_examples
from tests.cases import TASK, language_model
from tests.conftest import family, many_rows

ROWS = many_rows(40)
TEXTS = [row["text"] for row in ROWS]
CLASSES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
)
FRAME = pd.DataFrame(ROWS)
DATASET = datasets.Dataset.from_list(ROWS)
NUMBERED = datasets.Dataset.from_dict(
    {"text": TEXTS, "label": [int(row["label"] == "positive") for row in ROWS]}, features=CLASSES
)
LABELLED: dict[str, Any] = {
    "list": ROWS,
    "tuple": tuple(ROWS),
    "generator": (row for row in ROWS),
    "examples": [ft.Example(row["text"], label=row["label"]) for row in ROWS],
    "frame": FRAME,
    "frame with another index": FRAME.set_index(FRAME.index + 7),
    "categories": FRAME.assign(label=FRAME["label"].astype("category")),
    "records": FRAME.to_dict("records"),
    "columns": {name: list(FRAME[name]) for name in FRAME},
    "series": {"text": FRAME["text"], "label": FRAME["label"].to_numpy()},
    "dataset": DATASET,
    "dataset slice": DATASET[:],
    "classes": NUMBERED,
    "arrow": pa.Table.from_pylist(ROWS),
}
PLAIN: dict[str, Any] = {
    "texts": TEXTS,
    "series of texts": FRAME["text"],
    "array": FRAME["text"].to_numpy(),
    "unicode array": np.array(TEXTS),
    "column of a dataset": DATASET["text"],
}


@pytest.mark.parametrize("name", LABELLED)
def test_every_container_gives_the_same_split(name: str) -> None:
    rows = list(LABELLED[name]) if name == "generator" else LABELLED[name]
    assert TASK.few_shot(iter(rows) if name == "generator" else rows, k=4) == TASK.few_shot(ROWS, k=4)


@pytest.mark.parametrize("name", sorted({**LABELLED, **PLAIN}.keys() - {"generator", "classes"}))
def test_every_container_gives_the_same_texts(name: str) -> None:
    rows = {**LABELLED, **PLAIN}[name]
    assert [example.text for example in as_examples(rows)] == TEXTS
    assert [example.text for example in as_examples(iter(as_examples(rows)))] == TEXTS


def test_kernels_and_batches_of_a_table_are_those_of_its_rows() -> None:
    outputs = ft.AnswerLogits(language_model(family("llama-causal")), TASK)
    expected = ft.block_kernels(outputs, ROWS[:3]).array
    for rows in (FRAME[:3], DATASET[:3], (row for row in ROWS[:3])):
        assert np.array_equal(ft.block_kernels(outputs, rows).array, expected)  # pyright: ignore[reportArgumentType]
    assert outputs.batch(FRAME[:3])["input_ids"].equal(outputs.batch(ROWS[:3])["input_ids"])


REFUSED = {
    "one text": (lambda: "a film", r"one text, 'a film'.*write \[text\].*load_rows"),
    "bytes": (lambda: b"a film", "are bytes"),
    "one row": (lambda: ROWS[0], r"one mapping with 'text', 'label'.*write \[row\]"),
    "datasets": (lambda: datasets.DatasetDict(train=DATASET), r"several datasets, 'train'. Pass one: rows\['train'\]"),
    "unequal columns": (lambda: {"text": ["a"], "label": []}, "different lengths: 'text' 1, 'label' 0"),
    "set": (lambda: {"a", "b"}, "a set, which has no order"),
    "array without a dimension": (lambda: np.array("a"), "These rows are ndarray"),
    "nothing": (lambda: None, "These rows are NoneType"),
    "pairs": (lambda: [("a", "negative")], r"Row 1 is \('a', 'negative'\); expected an Example"),
    "number": (lambda: ["a", 3], "Row 2 is 3"),
    "other columns": (lambda: [{"sentence": "a"}], "Row 1 has no 'text'; its columns are 'sentence'"),
    "no text": (lambda: [{"text": "a"}, {"text": None}], "Row 2, column 'text', has no value"),
    "nan": (lambda: pd.DataFrame({"text": ["a", float("nan")]}), "Row 2, column 'text', has no value"),
    "list": (lambda: [{"text": ["a"]}], "Row 1, column 'text', holds a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_rows_is_refused(name: str) -> None:
    made, message = REFUSED[name]
    with pytest.raises(ft.ForetuneError, match=message):
        as_examples(made())


def test_a_table_is_not_a_file() -> None:
    with pytest.raises(ft.ForetuneError, match=r"this is DataFrame. Rows in memory need no reading"):
        ft.load_rows(FRAME)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ft.ForetuneError, match="expected strings"):
        ft.Example(None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ft.ForetuneError, match="expected a list"):
        ft.Task("t", "ab")
    assert row_list([]) == []


def test_labels_of_any_type_match_the_tasks() -> None:
    for labels in ([0, 1], [0.0, 1.0], ["0", "1"], [False, True]):
        rows = [{"text": row["text"], "label": labels[row["label"] == "positive"]} for row in ROWS]
        assert len(ft.Task("t", labels).few_shot(rows, k=2).train) == 4
        if labels[0] is not False:
            assert len(ft.Task("t", [0, 1]).few_shot(rows, k=2).train) == 4
