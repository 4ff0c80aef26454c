"""Files as people have them: each is read as it was meant, or refused with one message whose hint works."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import foretune as ft
from foretune.cli.data import asked_setting
from foretune.cli.options import DataOptions, OutputOptions
from foretune.experiment.data import Drawn, drawn
from foretune.text.builtin import load_data
from foretune.text.cells import label_name
from foretune.text.files.content import Reading
from foretune.text.rows import read_rows
from foretune.text.split import full_split, sampled_split
from tests.conftest import WORDS, assert_valid, jsonl, many_rows, run_cli

ROWS = many_rows(40)
TEXTS = [row["text"] for row in ROWS]
LABELS = [row["label"] for row in ROWS]


def lines(rows: list[dict[str, Any]] = ROWS) -> str:
    return jsonl(rows)


def table(delimiter: str = ",", header: str | None = None, rows: list[dict[str, Any]] = ROWS) -> str:
    header = f"text{delimiter}label" if header is None else header
    return "\n".join([header, *(f"{row['text'].replace(',', '')}{delimiter}{row['label']}" for row in rows), ""])


def relabelled(change: Any) -> list[dict[str, Any]]:
    """The rows with `change(number, label)` as label."""
    return [{"text": row["text"], "label": change(number, row["label"])} for number, row in enumerate(ROWS)]


def number(label: str) -> int:
    return int(label == "positive")


CLASSES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
)
NUMBERED = datasets.Dataset.from_dict({"text": TEXTS, "label": list(map(number, LABELS))}, features=CLASSES)


def arrow_bytes(stream: bool) -> bytes:
    sink, made = pa.BufferOutputStream(), NUMBERED.data.table
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, made.schema) as writer:
        writer.write_table(made)
    return sink.getvalue().to_pybytes()


def parquet_bytes(made: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(made, sink)
    return sink.getvalue().to_pybytes()


SAME: dict[str, str | bytes] = {
    "rows.jsonl": lines(),
    "rows.ndjson": lines(),
    "lines.json": lines(),
    "crlf.jsonl": lines().replace("\n", "\r\n"),
    "cr.jsonl": lines().replace("\n", "\r"),
    "bom.jsonl": b"\xef\xbb\xbf" + lines().encode(),
    "blank.jsonl": lines().replace("\n", "\n\n"),
    "array.json": json.dumps(ROWS),
    "array.jsonl": json.dumps(ROWS, indent=1),
    "wrapped.json": json.dumps({"version": "1", "data": ROWS}),
    "table.json": json.dumps({"schema": {"fields": [{"name": "text"}, {"name": "label"}]}, "data": ROWS}).replace(
        '"fields": [{"name": "text"}, {"name": "label"}]', '"fields": []'
    ),
    "columns.json": json.dumps({"text": TEXTS, "label": LABELS}),
    "pandas.json": json.dumps({"text": dict(enumerate(TEXTS)), "label": dict(enumerate(LABELS))}),
    "index.json": json.dumps(dict(enumerate(ROWS))),
    "split.json": json.dumps({"columns": ["text", "label"], "index": [0], "data": list(zip(TEXTS, LABELS, strict=True))}),
    "rows.csv": table(),
    "UPPER.CSV": table(),
    "bom.csv": b"\xef\xbb\xbf" + table().encode(),
    "crlf.csv": table().replace("\n", "\r\n"),
    "cr.csv": table().replace("\n", "\r"),
    "blank.csv": table().replace("\n", "\n\n"),
    "index.csv": "\n".join([",text,label", *(f"{n},{line}" for n, line in enumerate(table().splitlines()[1:]))]),
    "quoted.csv": "\n".join(["text,label", *(f'"{row["text"].replace(",", "")}","{row["label"]}"' for row in ROWS)]),
    "spaced.csv": "\n".join(["text, label", *(f'"{row["text"].replace(",", "")}", "{row["label"]}"' for row in ROWS)]),
    "excel.csv": "sep=;\n" + table(";"),
    "rows.tsv": table("\t"),
    "quoted.tsv": "\n".join(["text\tlabel", *(f'"{row["text"]}"\t"{row["label"]}"' for row in ROWS)]),
    "rows.csv.gz": gzip.compress(table().encode()),
    "rows.jsonl.gz": gzip.compress(lines().encode()),
    "names.parquet": parquet_bytes(NUMBERED.data.table),
    "file.arrow": arrow_bytes(stream=False),
    "stream.arrow": arrow_bytes(stream=True),
    "rows.feather": arrow_bytes(stream=False),
    "spaces and ümläuts.csv": table(),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_every_form_of_the_same_rows_is_read_alike(name: str, tmp_path: Path) -> None:
    content = SAME[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = read_rows(tmp_path / name)
    assert [row["label"] for row in rows] == LABELS
    assert [str(row["text"]).replace(",", "") for row in rows] == [text.replace(",", "") for text in TEXTS]


def read(path: Path, **options: Any) -> Drawn:
    return drawn(asked_setting(DataOptions(str(path), **{"k": 2, "test": 8, **options}), OutputOptions()))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_a_quote_in_a_tab_separated_file_merges_no_rows(tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    rows[3]["text"] = '"' + rows[3]["text"]
    rows[7]["text"] += '"'
    rows[9]["text"] = 'a "good" one'
    rows[11]["text"] = '"in quotes"'
    found = read_rows(written(tmp_path, "glue.tsv", table("\t", rows=rows)))
    assert [row["text"] for row in found] == [row["text"].replace(",", "") for row in rows]
    assert [row["label"] for row in found] == LABELS
    assert found.notes == ("Quotes are read as characters of the text: line 5 has one that does not enclose a field.",)
    assert any("Quotes are read" in note for note in read(tmp_path / "glue.tsv").account.notes)


def stretch(delimiter: str, ids: bool, ragged: int | None, last: int = 9) -> str:
    """Rows with a quote that opens in one and closes in another, and perhaps one with a field too many."""
    found = [delimiter.join([*(["id"] if ids else []), "text", "label"])]
    for place, row in enumerate(ROWS[:32]):
        text = f"film number {place}"
        text = f'"{text}' if place == 3 else f'{text}"' if place == last else text
        text = f"well{delimiter}{text}" if place == ragged else text
        found.append(delimiter.join([*([f"{place}"] if ids else []), text, row["label"]]))
    return "\n".join([*found, ""])


@pytest.mark.parametrize("last", [4, 5, 9])
@pytest.mark.parametrize("ragged", [None, 3, 4])
@pytest.mark.parametrize("ids", [True, False])
def test_no_stretch_of_rows_becomes_one_text(ids: bool, ragged: int | None, last: int, tmp_path: Path) -> None:
    said = (
        f"lines 5 to {last + 2}: a quote opens in line 5" if ragged != 3 else "line 5: . fields do not fit the header"
    )
    with pytest.raises(ft.ForetuneError, match=said):
        read_rows(written(tmp_path, "r.csv", stretch(",", ids, ragged, last)))
    tabs = written(tmp_path, "r.tsv", stretch("\t", ids, ragged, last))
    if ragged is None:
        assert len(read_rows(tabs)) == 32
    else:
        with pytest.raises(
            ft.ForetuneError, match=f"line {ragged + 2}: {3 + ids} fields where the header has {2 + ids}"
        ):
            read_rows(tabs)


@pytest.mark.parametrize("ids", [True, False])
def test_a_label_that_only_a_swallowed_row_has_hides_no_rows(ids: bool, tmp_path: Path) -> None:
    content = stretch(",", ids, None, 5).replace(f"film number 4,{LABELS[4]}", "film number 4,other")
    with pytest.raises(ft.ForetuneError, match="lines 5 to 7"):
        read_rows(written(tmp_path, "r.csv", content))


GENUINE = (
    "Dear all,\nit was fine",
    "one, two\nthree, four\n\nfive",
    'he said "no",\nand "yes"',
    "it cost 1,000\nand more",
    "Hello,friend\nbye",
    "good,\nbad,\nneither",
    "a list:\n- one\n- two",
)


@pytest.mark.parametrize("ids", [True, False])
def test_texts_of_several_lines_are_read_as_they_are(ids: bool, tmp_path: Path) -> None:
    rows = [{**({"id": n} if ids else {}), "text": text, "label": label}
            for n, (text, label) in enumerate(zip([*GENUINE, *TEXTS], LABELS, strict=False))]  # fmt: skip
    for name, delimiter in (("r.csv", ","), ("r.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        found = read_rows(tmp_path / name)
        assert [(row["text"], row["label"]) for row in found] == [(row["text"], row["label"]) for row in rows]


def test_a_tab_separated_file_with_consistent_quotes_is_unquoted(tmp_path: Path) -> None:
    quoted = table("\t").replace("label\n", 'label\n"two\nlines\tand ""a tab"""\tpositive\n', 1)
    found = read_rows(written(tmp_path, "r.tsv", quoted))
    assert (len(found), found[0]["text"], found.notes) == (41, 'two\nlines\tand "a tab"', ())


def test_a_letter_in_quotes_is_one_text(tmp_path: Path) -> None:
    letter = table().replace("label\n", 'label\n"Dear all,\nit was fine",positive\n', 1)
    assert read_rows(written(tmp_path, "r.csv", letter))[0] == {"text": "Dear all,\nit was fine", "label": "positive"}


def test_a_text_of_any_length_is_read(tmp_path: Path) -> None:
    long = "word " * 60_000
    for name, content in (("r.csv", f"text,label\n{long},x\n"), ("r.jsonl", json.dumps({"text": long, "label": "x"}))):
        assert read_rows(written(tmp_path, name, content))[0]["text"] == long


def test_delimiter_and_encoding_are_read_as_named(tmp_path: Path) -> None:
    other = table(";").replace("film", "café")
    file = written(tmp_path, "r.csv", other.encode("cp1252"))
    rows = read_rows(file, reading=Reading(delimiter=";", encoding="cp1252"))
    assert [row["label"] for row in rows] == LABELS
    assert any("café" in str(row["text"]) for row in rows)
    tabs = written(tmp_path, "excel.csv", table("\t").encode("utf-16"))
    assert [row["label"] for row in read_rows(tabs, reading=Reading("tab", "utf-16"))] == LABELS


@pytest.mark.parametrize(
    ("content", "said"),
    {
        "two rows": ('"a day of,rare\nplot",positive\n', "1 text has several lines (lines 42 to 43 of the file)."),
        "texts": (
            '"good, and\nlong",positive\n"bad, but\nshort",negative\n',
            "2 texts have several lines (lines 42 to 43 of the file, for example).",
        ),
    }.values(),
    ids=["two rows", "texts"],
)
def test_lines_of_a_text_are_said_where_they_may_be_rows(content: str, said: str, tmp_path: Path) -> None:
    """Two rows that a quote lays together, the first with a label of its own, have the form of a text with a comma."""
    found = read(written(tmp_path, "r.csv", table() + content))
    assert any(note.startswith(said) for note in found.account.notes), found.account.notes


UNLABELLED = {
    "null": [None],
    "empty": [""],
    "blanks": ["  "],
    "nan": [float("nan")],
    "words": ["nan", "None", "null"],
    "minus one": [-1],
    "minus one as a word": ["-1"],
    "index that losses ignore": [-100],
    "missing key": [...],
}


@pytest.mark.parametrize("mark", UNLABELLED)
def test_rows_without_a_label_are_left_out_counted_and_said(mark: str, tmp_path: Path) -> None:
    marks = UNLABELLED[mark]
    rows = relabelled(lambda n, label: marks[n // 5 % len(marks)] if n % 5 == 0 else label)
    rows = [{key: value for key, value in row.items() if value is not ...} for row in rows]
    found = read(written(tmp_path, "r.jsonl", lines(rows)), test=100)
    assert found.account.labels == Counter(label for n, label in enumerate(LABELS) if n % 5)
    assert sum(count for reason, count in found.account.left_out.items() if "without a label" in reason) == 8
    assert found.split.unlabelled == 8
    direct = ft.Task("t", ["negative", "positive"]).few_shot(rows, k=2)
    assert (direct.unlabelled, sorted(map(str, direct.train))) == (8, sorted(map(str, found.split.train)))


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "save_to_disk"])
def test_the_rule_for_no_label_is_the_same_in_every_format(kind: str, tmp_path: Path) -> None:
    values = [-1 if n % 5 == 0 else number(label) for n, label in enumerate(LABELS)]
    made = datasets.Dataset.from_dict({"text": TEXTS, "label": values}, features=CLASSES)
    if kind == "csv":
        named = ["" if value < 0 else ("negative", "positive")[value] for value in values]
        file = written(
            tmp_path, "r.csv", table(rows=[{"text": t, "label": n} for t, n in zip(TEXTS, named, strict=True)])
        )
    elif kind == "save_to_disk":
        made.save_to_disk(file := tmp_path / "saved")
    else:
        file = tmp_path / f"r.{kind}"
        made.to_parquet(file) if kind == "parquet" else file.write_bytes(
            (tmp_path / (made.save_to_disk(tmp_path / "s") or "s") / "data-00000-of-00001.arrow").read_bytes()
        )
    found = read(file)
    assert found.account.labels == Counter(label for n, label in enumerate(LABELS) if n % 5)
    assert found.account.left_out == {"without a label (empty)": 8}


ALIKE = {
    "blanks": (lambda n, label: label + " " * (n % 3), ["negative", "positive"]),
    "int and float": (lambda n, label: float(number(label)) if n % 3 else number(label), ["0", "1"]),
    "words of numbers": (lambda n, label: f"{number(label)}.0" if n % 3 else number(label), ["0", "1"]),
    "truth": (lambda n, label: label == "positive" if n % 3 else str(label == "positive"), ["False", "True"]),
    "signs": (lambda n, label: f"+{number(label) + 1}" if n % 3 else number(label) + 1, ["1", "2"]),
    "points and exponents": (lambda n, label: f"{number(label) + 1}{('.', 'e0', '.00')[n % 3]}", ["1", "2"]),
    "zeros at the end": (lambda n, label: f"{number(label)}.5" + "0" * (n % 3), ["0.5", "1.5"]),
    "negative zero": (lambda n, label: number(label) or ("-0.0" if n % 3 else 0), ["0", "1"]),
    "wide digits": (lambda n, label: "\uff10\uff11"[number(label)] if n % 3 else number(label), ["0", "1"]),
    "minus signs": (lambda n, label: ("\u2212" if n % 3 else "-") + str(number(label) + 2), ["-3", "-2"]),
    "no width": (
        lambda n, label: ("\u200b", "\ufeff", "")[n % 3] + label + "\u200b" * (n % 2),
        ["negative", "positive"],
    ),
    "not seen": (
        lambda n, label: label + ("\u180e", "\ufe0f", "\U000e0041", "")[n % 4],
        ["negative", "positive"],
    ),
    "blanks inside": (
        lambda n, label: f"very{(' ', '  ', chr(160))[n % 3]}{label}",
        ["very negative", "very positive"],
    ),
    "long numbers": (
        lambda n, label: 9007199254740993 + 2 * number(label) if n % 3 else f"{9007199254740993 + 2 * number(label)}.0",
        ["9007199254740993", "9007199254740995"],
    ),
    "composed letters": (lambda n, label: label + ("e\u0301" if n % 3 else "\xe9"), ["negative\xe9", "positive\xe9"]),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_one_label_in_two_spellings_is_one_label(kind: str, tmp_path: Path) -> None:
    change, labels = ALIKE[kind]
    rows = relabelled(change)
    found = read(written(tmp_path, "r.jsonl", lines(rows)))
    assert list(found.task.labels) == labels
    assert [found.account.labels[label] for label in labels] == [20, 20]
    assert bool(found.account.notes) == (kind != "truth")
    assert len(ft.Task("t", labels).few_shot(rows, k=2).train) == 4


def test_numbers_that_differ_and_codes_stay_apart(tmp_path: Path) -> None:
    exact = lines().replace('"negative"', "9007199254740993.0").replace('"positive"', "9007199254740992.0")
    assert list(read(written(tmp_path, "r.jsonl", exact)).task.labels) == ["9007199254740992", "9007199254740993"]
    codes = relabelled(lambda _, label: ("7", "007")[number(label)])
    assert list(read(written(tmp_path, "c.jsonl", lines(codes))).account.labels) == ["007", "7"]
    assert label_name("1e9999") == label_name("10E9998")
    assert label_name("1e999999999") == "1e999999999"
    assert label_name("1" * 40 + ".0") == label_name(int("1" * 40))


def test_the_signature_of_a_file_that_was_joined_is_no_part_of_a_text(tmp_path: Path) -> None:
    for name, content in (("r.csv", table()), ("r.jsonl", lines())):
        half = len(content.splitlines()) // 2
        parts = ["\n".join(part) for part in (content.splitlines()[:half], content.splitlines()[half:])]
        joined = read_rows(written(tmp_path, name, "\ufeff" + "\n\ufeff".join(parts)))
        assert [str(row["text"]).replace(",", "") for row in joined] == [text.replace(",", "") for text in TEXTS]


def test_minus_one_beside_zero_and_one_is_asked_about_and_the_hints_work(tmp_path: Path) -> None:
    rows = relabelled(lambda n, label: -1 if n % 5 == 0 else number(label))
    file = written(tmp_path, "r.jsonl", lines(rows))
    with pytest.raises(ft.ForetuneError, match=r"row 1, .*Use --labels 0,1 .* 8 rows .* or --labels=-1,0,1"):
        read(file)
    assert read(file, labels="0,1").account.left_out == {"without a label (-1)": 8}
    assert list(read(file, labels="-1,0,1").task.labels) == ["-1", "0", "1"]
    signed = written(tmp_path, "s.jsonl", lines(relabelled(lambda _, label: 2 * number(label) - 1)))
    assert list(read(signed).task.labels) == ["-1", "1"]


def test_labels_that_are_not_named_are_left_out_and_said(tmp_path: Path) -> None:
    rows = relabelled(lambda n, label: "rare" if n in (3, 8, 9) else label)
    file = written(tmp_path, "r.jsonl", lines(rows))
    with pytest.raises(
        ft.ForetuneError, match=r"Label 'rare' has 3 different texts, .*naming the other labels with --lab"
    ):
        read(file)
    found = read(file, labels="positive,negative")
    assert found.task.labels == ("positive", "negative")
    assert found.account.left_out == {"with a label that --labels does not name ('rare')": 3}
    with pytest.raises(
        ft.ForetuneError, match=r"--labels names 'positve', but no row .* has it; their labels are 'negative'"
    ):
        read(file, labels="positve,negative")


def test_labels_with_commas_and_equals_signs_are_named_in_quotes(tmp_path: Path) -> None:
    names = {"negative": "bad = not good", "positive": "good, very"}
    file = written(tmp_path, "r.jsonl", lines(relabelled(lambda _, label: names[label])))
    asked = asked_setting(
        DataOptions(str(file), labels='"good, very","bad = not good"', k=2, test=8),
        OutputOptions(words='"good, very"=great,"bad = not good"=terrible'),
    )
    found = drawn(asked)
    assert found.task.words == {"good, very": "great", "bad = not good": "terrible"}


def test_many_labels_are_read_when_allowed(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": f"intent {n % 150}"} for n in range(600)]
    file = written(tmp_path, "r.jsonl", lines(rows))
    with pytest.raises(ft.ForetuneError, match=r"150 different values in 600 rows.*--max-labels 150"):
        read(file)
    assert len(read(file, max_labels=150).task.labels) == 150


def test_a_validation_file_is_used(tmp_path: Path) -> None:
    train, dev, test = ROWS[:20], ROWS[20:28], ROWS[28:]
    for name, rows in (("train.csv", train), ("dev.csv", dev), ("test.csv", test), ("extra.csv", test)):
        written(tmp_path / "d", name, table(rows=rows))
    found = read(tmp_path / "d", k=4)
    assert {example.text for example in found.split.validation} <= {row["text"].replace(",", "") for row in dev}
    assert {example.text for example in found.split.train} <= {row["text"].replace(",", "") for row in train}
    assert found.account.rows == {"training": 20, "validation": 8, "testing": 12}
    assert found.account.used == {"training": 8, "validation": 8, "testing": 8}
    assert found.account.notes == ("Not read: extra.csv, in the same folder.",)
    named = read(
        tmp_path / "d" / "train.csv", k=4, validation_data=str(tmp_path / "d/dev.csv"),
        test_data=str(tmp_path / "d/test.csv"),
    )  # fmt: skip
    assert named.split == found.split


@pytest.mark.parametrize("train, other", [("", "data/test"), ("", "test/test"), ("", "test/part"), ("data/", "dev")])
def test_rows_of_a_split_in_another_place_are_named(train: str, other: str, tmp_path: Path) -> None:
    written(tmp_path, f"{train}train.jsonl", lines(ROWS[:30]))
    written(tmp_path, f"{other}.jsonl", lines(ROWS[30:]))
    (note,) = read(tmp_path).account.notes
    assert note.startswith(f"Not read: {other}.jsonl, ")


NO_NAMES = (None, 5, "np", {"0": "n", "x": "p"}, {"1": "n"}, ["n", None], [["n"], ["p"]])


@pytest.mark.parametrize("names", NO_NAMES)
def test_class_names_of_another_shape_name_nothing(names: Any, tmp_path: Path) -> None:
    plain = pa.table({"text": TEXTS, "label": list(map(number, LABELS))})
    features = {"label": {"_type": "ClassLabel", "names": names}}
    marked = plain.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert read(written(tmp_path, "r.parquet", parquet_bytes(marked))).task.labels == ("0", "1")
    written(tmp_path, "d/train.parquet", parquet_bytes(plain))
    for listed in ([{"name": "label", "dtype": {"class_label": {"names": names}}}],
                   [{"dtype": {"class_label": {"names": ["n", "p"]}}}], names):  # fmt: skip
        head = json.dumps({"dataset_info": {"features": listed}})
        written(tmp_path, "d/README.md", f"---\n{head}\n---\n")
        assert read(tmp_path / "d").task.labels == ("0", "1")


def test_an_answer_of_the_dataset_viewer_is_read_with_its_class_names(tmp_path: Path) -> None:
    rows = [{"row_idx": n, "row": {**row, "label": number(row["label"])}, "truncated_cells": []}
            for n, row in enumerate(ROWS)]  # fmt: skip
    answer = {"features": [{"name": "label", "type": {"names": ["negative", "positive"], "_type": "ClassLabel"}}]}
    found = read_rows(written(tmp_path, "r.json", json.dumps({**answer, "rows": rows})))
    assert [row["label"] for row in found] == LABELS
    rows[3]["truncated_cells"] = ["text"]
    with pytest.raises(ft.ForetuneError, match="row 4: the dataset viewer has cut"):
        read_rows(written(tmp_path, "r.json", json.dumps({**answer, "rows": rows})))


@pytest.mark.parametrize("given", ["\t", "tab", "TAB", "\\t"])
def test_a_tab_is_named_as_itself_or_in_words(given: str, llama_folder: Path, tmp_path: Path) -> None:
    file = written(tmp_path, "r.csv", table("\t"))
    options = (llama_folder, file, WORDS, "--k", 2, "--test", 4, "--plan")
    assert run_cli("kernel", *options, "--delimiter", given).returncode == 0
    settings = written(tmp_path, "c.yaml", json.dumps({"delimiter": given}))
    assert run_cli("kernel", *options, "--config", settings).returncode == 0


def test_a_test_file_without_labels_is_refused_and_the_hint_works(tmp_path: Path) -> None:
    written(tmp_path, "train.csv", table())
    written(tmp_path, "dev.csv", table(rows=relabelled(lambda n, label: label)[:8]).replace("the", "this"))
    for content in ("index,text\n0,a film\n", "text,label\na film,-1\nanother,-1\n"):
        written(tmp_path, "test.csv", content)
        with pytest.raises(ft.ForetuneError, match=r"--test-data, or give the training file alone"):
            read(tmp_path)
    assert read(tmp_path / "train.csv").account.used["testing"] == 8


@pytest.mark.parametrize("whole", [True, False])
def test_validation_rows_of_ones_own_are_taken_by_every_split(whole: bool) -> None:
    rows, labels = [ft.Example(row["text"], label=row["label"]) for row in ROWS], ["negative", "positive"]
    train, validation = rows[:30], [*rows[28:], ft.Example("no label")]
    split = (full_split if whole else sampled_split)(train, labels, 4, 13, 100, None, validation)
    assert set(split.validation) <= set(rows[30:])
    assert len(split.validation) == (8 if whole else 4)
    assert {*split.train, *split.test} <= set(rows[:30])
    assert (split.overlaps, split.unlabelled) == (2, 1)


def test_a_cloned_hub_dataset_is_read_with_its_class_names(tmp_path: Path) -> None:
    plain = pa.table({"text": TEXTS, "label": list(map(number, LABELS))})
    for folder, tables in (("metadata", NUMBERED.data.table), ("readme", plain)):
        for part in range(2):
            shard = tables.slice(part * 15, 15)
            written(tmp_path / folder, f"data/train-0000{part}-of-00002.parquet", parquet_bytes(shard))
        written(tmp_path / folder, "data/test-00000-of-00001.parquet", parquet_bytes(tables.slice(30)))
        written(tmp_path / folder, "README.md", "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n"
                "  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': negative\n"
                "          '1': positive\n---\n# A dataset\n")  # fmt: skip
        found = load_data(tmp_path / folder)
        assert [row["label"] for row in found.train] == LABELS[:30]
        assert found.test is not None
        assert [row["text"] for row in found.test] == TEXTS[30:]
    (tmp_path / "readme/data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(ft.ForetuneError, match="train-00001-of-00002 is missing"):
        load_data(tmp_path / "readme")


def test_saved_datasets_are_read(tmp_path: Path) -> None:
    NUMBERED.save_to_disk(tmp_path / "one")
    parts = {"train": NUMBERED.select(range(30)), "validation": NUMBERED.select(range(30, 40))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "several")
    assert [row["label"] for row in load_data(tmp_path / "one").train] == LABELS
    found = load_data(tmp_path / "several")
    assert found.validation is not None
    assert [row["text"] for row in (*found.train, *found.validation)] == TEXTS


FIRST = "label\n"
SWALLOWED = 'label\n"it opens here,negative\nand closes" here,positive\n'
MERGED = 'label\n"it opens,negative\nand closes",positive\n'
REPEATED = pa.table([pa.array(TEXTS)] * 2, names=["text", "text"])
BYTES = pa.table({"text": [text.encode() for text in TEXTS], "label": LABELS})


def more(**row: Any) -> str:
    return lines([*ROWS, row])


CONTENT: dict[str, tuple[str, str | bytes, str]] = {
    "merged rows": ("r.csv", table().replace(FIRST, MERGED, 1), "lines 2 to 3: a quote opens in line 2"),
    "stray quote": ("r.csv", table().replace(FIRST, SWALLOWED, 1), "line 2: the quotes of the record that starts here"),
    "open quote": ("r.csv", table() + '"open,negative\n', "line 42: the quotes"),
    "rows in the header": (
        "r.csv",
        '"' + table().replace("\n", '"\n', 2).replace('"\n', "\n", 1),
        "a quote opens in the header",
    ),
    "header again": ("r.csv", table() + table(), "line 42 repeats the header"),
    "no texts": (
        "r.csv",
        table(rows=[{"text": "", "label": label} for label in LABELS]),
        "Column 'text' of r.csv is empty in every row",
    ),
    "zeros": ("r.csv", b"\0" * 5000, "holds zero bytes only"),
    "web page": ("r.csv", "\n<!DOCTYPE html>\n<html>\n<p>Please log in</p>\n</html>\n", "is a web page (HTML)"),
    "letters that look alike": (
        "r.jsonl",
        lines(relabelled(lambda n, label: label.replace("e", "\u0435") if n % 3 == 0 else label)),
        "one has a cyrillic small letter ie. Write them alike",
    ),
    "ragged": ("r.csv", table() + "a,b,c\n", "line 42: 3 fields do not fit the header"),
    "header twice": ("r.csv", table(header="text,label,label"), "names the column 'label' twice"),
    "no header": ("r.csv", table().split("\n", 1)[1], "put a line such as text,label on top"),
    "semicolons": ("r.csv", table(";"), "Add --delimiter ';'"),
    "tabs": ("r.csv", table("\t"), "Add --delimiter tab"),
    "commas": ("r.tsv", table(), "Add --delimiter ','"),
    "windows": (
        "r.csv",
        table().replace("film", "café").encode("cp1252"),
        "the byte 0xe9. Add --encoding with the one it was written in. Its bytes fit cp1252",
    ),
    "utf-16": ("r.csv", table().encode("utf-16"), "Add --encoding utf-16"),
    "utf-16 unmarked": ("r.csv", table().encode("utf-16-le"), "Add --encoding utf-16-le"),
    "utf-32 unmarked": ("r.csv", table().encode("utf-32-be"), "Add --encoding utf-32-be"),
    "packed": ("r.csv", gzip.compress(table().encode()), "is packed with gzip"),
    "split twice": (
        "r.json",
        json.dumps({"columns": ["text", "text"], "data": [["a", "b"]]}),
        "has the column 'text' twice",
    ),
    "broken line": ("r.jsonl", lines() + '{"text": "a", \n', "line 41: not JSON"),
    "lists": ("r.jsonl", "[1, 2]\n[3, 4]\n", "line 1: a list. Expected an object"),
    "deep": ("r.jsonl", lines() + "[" * 100_000 + "\n", "line 41: not JSON (lists or objects are nested too deeply)"),
    "broken list": ("r.json", json.dumps(ROWS)[:-5], "is not JSON: line 1, column"),
    "key twice": ("r.jsonl", '{"text": "a", "text": "b", "label": "x"}\n', "the name 'text' stands twice"),
    "lists of rows": ("r.json", json.dumps({"train": ROWS, "test": ROWS}), "several lists of rows: 'train', 'test'"),
    "columns apart": ("r.json", json.dumps({"text": ["a"], "label": []}), "different lengths"),
    "digits": ("r.jsonl", lines() + '{"label": ' + "9" * 5000 + "}\n", "thousands of digits"),
    "list as label": ("r.jsonl", lines(relabelled(lambda _, label: [label])), "row 1, column 'label' holds a list"),
    "object as text": ("r.jsonl", more(text={"a": "b"}, label="x"), "row 41, column 'text' holds an object"),
    "bytes": ("r.parquet", parquet_bytes(BYTES), "holds bytes"),
    "no text": ("r.jsonl", more(text=None, label="negative"), "row 41, column 'text' has no value"),
    "no text at first": ("r.jsonl", lines([{"label": "negative"}, *ROWS]), "row 1, column 'text' has no value"),
    "nan text": ("r.jsonl", more(text=float("nan"), label="negative"), "row 41, column 'text' has no value"),
    "half a character": ("r.jsonl", more(text="a \ud800", label="negative"), "row 41, column 'text' holds half a"),
    "infinite": ("r.jsonl", more(text="new", label=float("inf")), "row 41, column 'label' is inf"),
    "case": ("r.jsonl", more(text="new", label="NEGATIVE"), "differ in capital letters alone"),
    "truth and numbers": ("r.jsonl", lines(relabelled(lambda n, _: n % 2 or n % 4 == 0)), "truth values and numbers"),
    "targets": ("r.jsonl", lines(relabelled(lambda n, _: n / 7)), "foretune is for classification only"),
    "texts as labels": ("r.jsonl", lines(relabelled(lambda n, _: f"row {n}")), "texts rather than labels"),
    "generation": ("r.jsonl", '{"prompt": "a", "completion": "b"}\n', "look like data for generation; foretune is for"),
    "conversations": ("r.jsonl", '{"messages": [{"role": "user"}]}\n', "foretune is for classification only"),
    "nested": ("r.jsonl", '{"data": {"text": "a", "label": "b"}}\n', "Column 'data' holds objects"),
    "column twice": ("r.parquet", parquet_bytes(REPEATED), "column 'text' twice"),
    "cut parquet": ("r.parquet", parquet_bytes(NUMBERED.data.table)[:-9], "Cannot read"),
    "cut gz": ("r.csv.gz", gzip.compress(table().encode())[:-9], "Cannot unpack"),
    "pointer": ("r.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "plain text": ("r.txt", "a film\n", "write a .csv or .jsonl file"),
    "workbook": ("r.xlsx", b"PK\3\4", "Save the sheet as CSV UTF-8"),
    "pickle": ("r.pkl", b"", "Pickle files are never opened"),
}
OPTIONS = {
    "delimiter of two": ("r.csv", ["--delimiter", ";;"], "expected one character"),
    "delimiter for json": ("r.jsonl", ["--delimiter", ";"], "--delimiter is for .csv and .tsv files"),
    "unknown encoding": ("r.csv", ["--encoding", "utf-99"], "Python knows no such encoding"),
    "absent label": ("r.csv", ["--labels", "negative,positve"], "Did you mean 'positve'"),
    "open quote in labels": ("r.csv", ["--labels", '"negative,positive'], "double quote that does not close"),
    "same test rows": ("r.csv", ["--test-data", "r.csv"], "All 40 test rows have a text that stands among"),
    "same validation rows": ("r.csv", ["--validation-data", "r.csv"], "Every validation text of the label"),
    "column": ("r.csv", ["--text", "body"], "has no column 'body'. Its columns are 'text', 'label'"),
    "text2 as text": ("r.csv", ["--text2", "text"], "--text2 and --text both name the column 'text'"),
    "text2 as label": ("r.csv", ["--text2", "label"], "--text2 and --label both name the column 'label'"),
    "one label": ("r.csv", ["--labels", "negative"], "--labels names 'negative' only"),
    "blank label": ("r.csv", ["--labels", " "], "--labels is empty"),
    "k": ("r.csv", ["--k", "11"], "Use --k 9 or less"),
}
REFUSED = {
    **{name: (file, content, [], said) for name, (file, content, said) in CONTENT.items()},
    **{name: (file, SAME["rows" + file[1:]], options, said) for name, (file, options, said) in OPTIONS.items()},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_rightly_is_refused_with_one_message(case: str, llama_folder: Path, tmp_path: Path) -> None:
    name, content, options, message = REFUSED[case]
    file = written(tmp_path, name, content)
    before = file.read_bytes()
    command = ("kernel", llama_folder, name, WORDS, "--k", 2, "--test", 4, "--plan", *options)
    result = run_cli(*command, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (error,) = [line for line in result.stderr.splitlines() if not line.startswith("Note: ")]  # those are stages
    assert error.startswith("Error: ")
    assert message in error
    assert file.read_bytes() == before


PLACES = {
    "https://example.org/rows.csv": "is an address. Fetch the file first",
    "pipe.jsonl": "is a pipe. Expected a regular file",
    "device.jsonl": "is a device",
    "folder.jsonl": "holds no train file",
    "nowhere.csv": "does not exist",
    "dangling.csv": "is a link to nowhere.csv, which does not exist",
    "loop.csv": "is a link that leads back to itself",
    "a/loop": "is a link that leads back to itself",
    "a/b/c": "does not exist",
    "x" * 5000: "does not exist",
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[:20])
def test_what_is_not_a_file_is_refused_without_waiting(place: str, llama_folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a").mkdir()
    for link, goal in (("dangling.csv", "nowhere.csv"), ("loop.csv", "loop.csv"), ("a/loop", "loop")):
        (tmp_path / link).symlink_to(goal)
    result = run_cli("kernel", llama_folder, place, WORDS, "--plan", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert PLACES[place] in result.stderr


def test_every_run_says_what_was_read_and_what_is_asked(llama_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    rows = relabelled(lambda n, label: None if n < 3 else label)
    file = written(tmp_path, "r.jsonl", lines([*rows, rows[5]]))
    plan = run_cli("kernel", llama_folder, file, WORDS, "--k", 2, "--test", 4, "--plan", "--json", tmp_path / "p.json")
    shown = " ".join(plan.stdout.split())
    for said in (
        f"Read {file}: 41 rows", "Labels negative", "Left out 3 rows without a label (empty)",
        "; 1 row repeating an earlier text", "Used 4 examples for training, 4 for validation, 4 for testing",
        "Prompt {text} This is {mask} .", "Words negative=terrible, positive=great", "This is [answer]",
    ):  # fmt: skip
        assert said in shown, plan.stdout + plan.stderr
    whole = json.loads((tmp_path / "p.json").read_text())
    assert_valid("plan", whole)
    record = whole["about"]
    assert record["data"]["left_out"] == {"without a label (empty)": 3, "repeating an earlier text": 1}
    assert record["asked"]["words"] == {"negative": "terrible", "positive": "great"}
    tuned = run_cli(
        "tune", bert_folder, file, "--k", 2, "--test", 4, "--steps", 1, "--method", "lp", "--out", tmp_path / "t"
    )
    assert "Head mean of the last layer's features, 2 classes" in " ".join(tuned.stdout.split()), tuned.stderr
    assert json.loads((tmp_path / "t" / "result.json").read_text())["about"]["data"]["rows"] == {"training": 41}


def test_empty_texts_are_said_and_numbers_stand_in_their_order(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}" if n else "", "label": n % 12} for n in range(60)]
    found = read(written(tmp_path, "r.jsonl", lines(rows)))
    assert found.account.notes == ("1 row has an empty text.",)
    assert found.task.labels == tuple(map(str, range(12)))


def test_texts_that_differ_in_blanks_are_one_text() -> None:
    rows = [*ROWS, {"text": ROWS[0]["text"].replace(" ", "\n  "), "label": ROWS[0]["label"]}]
    assert ft.Task("t", ["negative", "positive"]).few_shot(rows, k=2).duplicates == 1


def test_numbers_of_numpy_are_labels_and_texts() -> None:
    rows = [{"text": text, "label": np.int64(number(label))} for text, label in zip(TEXTS, LABELS, strict=True)]
    assert len(ft.Task("t", [0, 1]).few_shot(rows, k=2).train) == 4
