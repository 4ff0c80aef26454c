"""A page is an answer first: on one screen of a terminal, as Markdown, and as JSON with a schema that is shipped."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from foretune.page import Column, Curve, Fact, Figure, Listing, Page, Quantity, Repeats, Span, Table
from foretune.pages.console import PlainConsole
from foretune.pages.json import FORMAT, document, read_page, write_page_json
from foretune.pages.markdown import csv_text, markdown
from foretune.pages.schema import FOLDER, KINDS, document_model, schema_text
from foretune.pages.terminal import SCREEN, print_page
from tests.conftest import assert_refused, assert_valid, run_cli

LONG = "a text of many words that goes on and on " * 12
WORD = "x" * 300
TABLE = Table(
    (Column("what", words=True), Column("loss", ".3f"), Column("trained", "count", drop=1), Column("spread", drop=2)),
    (
        ("first", 0.123456789, 162_816, Span(0.2, 0.85)),
        ("second", float("inf"), 999, None),
        ("third", float("nan"), 5, Quantity(8.5, "+.1f", "points")),
        ("fourth", None, 7, Repeats((0.75, 0.77))),
    ),
    "A table",
    few=(0, 3),
    details=True,
)
FIGURE = Figure("f", "A figure", "step", "loss (nats)", (Curve("one", np.array([1.0, np.inf]), np.array([0.0, 1.0])),))
PAGE = Page(
    "model on data",
    ("a note",),
    (TABLE,),
    (FIGURE,),
    answer="Yes: accuracy 0.60 -> 0.84.",
    about=(Fact("Read", "data: 60 rows"),),
    facts=(Fact("Will it work?", "Yes. Accuracy 0.60 -> 0.84."), Fact("How?", "AdamW at 1.0e-03.", 1)),
    details=("A detail.",),
    listings=(Listing("Python", "x = 1", "python"),),
    next=("foretune show runs/a",),
    kind="reproduce",
    data={"versions": {}},
)


def shown(page: Page, width: int = 80, *, details: bool = False, where: str = "foretune show DIR --details") -> str:
    console = PlainConsole(width=width, file=io.StringIO())
    print_page(console, page, details=details, where=where)
    return console.file.getvalue()  # type: ignore[attr-defined]


def crowded(text: str, notes: int) -> Page:
    """A page whose texts are all longer than there is room for."""
    about = tuple(Fact(f"About {number}", text, 2) for number in range(7))
    facts = tuple(Fact(name, text, 3) for name in ("Will it work?", "Train what?", "How?", "How sure?", "Cost"))
    return dataclasses.replace(
        PAGE, title=text, about=about, facts=facts, notes=(text,) * notes, next=(f"foretune tune {text}",)
    )


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("notes", [0, 1, 9])
@pytest.mark.parametrize("text", ["short", LONG, WORD, "評価 " * 90], ids=["short", "long", "word", "wide"])
def test_a_short_page_is_one_screen_whatever_it_says(text: str, notes: int, width: int) -> None:
    lines = shown(crowded(text, notes), width).splitlines()
    assert sum(max(1, -(-cell_len(line) // width)) for line in lines) <= SCREEN
    assert max(cell_len(line) for line in lines if "foretune tune" not in line) <= width
    assert lines[-1] == PAGE.answer
    assert notes == 0 or any(line.startswith("Note: ") for line in lines)


def test_a_page_whose_numbers_need_every_line_leaves_out_gaps_and_the_count_of_notes() -> None:
    """Numbers on the last line of every fact, so that none can be cut: 21 lines of facts, a title and what comes next."""
    numbers = " ".join(f"{number:05d}" for number in range(29))  # three lines of 65 columns at most
    facts = tuple(Fact(name, numbers, 3) for name in ("Will it work?", "Train what?", "How?", "How sure?", "Cost"))
    about = tuple(Fact(name, numbers, 2) for name in ("Read", "Used"))
    page = dataclasses.replace(PAGE, title="a", about=about, facts=facts, notes=("a", "b"), next=())
    printed = shown(page, 80)
    assert printed.count("00028") == 7
    assert len(printed.splitlines()) <= SCREEN
    assert "among the details" not in printed
    assert printed.splitlines()[-1] == PAGE.answer


ANSWERS = {
    "yes": "Yes. Accuracy 0.62 (zero-shot, threshold set on validation) -> 0.81 (95%: 0.72 - 0.88).\n"
    "A linear probe alone: 0.75, the majority label: 0.51.",
    "no": "Adapting is not expected to beat linear probing. Linear probing: no: training is not expected to help. Accuracy "
    "0.85 (head of linear probing, as it starts) -> 0.86 (95%: 0.74 - 0.92).\nA linear probe alone: 0.83, the majority "
    "label: 0.42.",
    "cannot tell": "It cannot be told: a gain on validation examples, none on test examples. Matthews correlation 0.123 "
    "(head of linear probing, as it starts, threshold set on validation) -> 0.124 (95%: 0.074 - 0.192).\nA linear probe "
    "alone: 0.111, the majority label: 0.000.",
}
QUESTIONS = {
    "two labels": "negative 5,331, positive 5,331",
    "many labels": ", ".join(f"a label of people {each} {each * 37}" for each in range(1, 9)) + " and 142 more labels",
}


@pytest.mark.parametrize("width", [80, 90, 100, 120, 200])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_number_of_the_answer_is_never_cut_off(answer: str, question: str, width: int) -> None:
    about = (
        Fact("Labels", QUESTIONS[question], 1),
        Fact("Used", "24 examples for training, 24 for validation, 60 for testing", 1),
        Fact("Example", "a text of people, " * 30, 2),
    )
    facts = (Fact("Will it work?", ANSWERS[answer], 3), Fact("How sure?", f"{LONG} 97 test examples.", 2))
    page = dataclasses.replace(PAGE, about=about, facts=facts, notes=(LONG,) * 5)
    text = " ".join(shown(page, width).split())
    for fact in (*about[:2], *facts):
        for line in fact.text.split("\n"):
            words = line.split()
            last = max(at for at, word in enumerate(words) if any(map(str.isdigit, word)))
            assert " ".join(words[: last + 1]) in text
    assert text.count("a text of people") < 30


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "a falling one"])
def test_a_number_keeps_the_unit_on_the_line_behind_it(schedule: str) -> None:
    text = (
        f"AdamW at 2.2e-02 ({schedule}; the highest tried, so try lower too), batches of 8, 20 steps, best checkpoint by "
        "validation loss (0.670 nats expected)."
    )
    page = dataclasses.replace(PAGE, facts=(Fact("How?", text, 2), *PAGE.facts[1:]))
    for width in range(80, 100):
        assert "(0.670 nats expected)." in " ".join(shown(page, width).split())


def test_a_short_page_says_the_answer_and_where_the_rest_is() -> None:
    short, long = shown(PAGE), shown(PAGE, details=True)
    assert "Yes. Accuracy 0.60 -> 0.84." in short and "foretune show DIR --details" in short
    for hidden in ("0.123", "A detail.", "x = 1"):
        assert hidden in long and hidden not in short
    assert short.splitlines()[-1] == long.splitlines()[-1] == PAGE.answer
    assert "Note: a note" in short


def test_commands_are_not_broken_and_can_be_copied() -> None:
    command = "foretune tune " + "word " * 30
    assert f"Next: {command.strip()}" in shown(dataclasses.replace(PAGE, next=(command.strip(),)), details=True)


def test_a_table_keeps_values_and_who_draws_it_rounds() -> None:
    assert TABLE.texts[0] == ("first", "0.123", "163k", "0.20 - 0.85")
    assert [row[1] for row in TABLE.texts] == ["0.123", "inf", "", ""]
    assert TABLE.texts[2][3] == "+8.5 points" and TABLE.texts[3][3] == "76.0 (1.4)"
    assert [column.words for column in TABLE.columns] == [True, False, False, False]
    assert "second" not in shown(PAGE, details=True) and "second" in markdown(PAGE)
    assert csv_text(TABLE).splitlines()[:2] == ["what,loss,trained,spread", "first,0.123,163k,0.20 - 0.85"]


def test_json_holds_unrounded_values_and_the_page_reads_back(tmp_path: Path) -> None:
    write_page_json(tmp_path / "page.json", PAGE, "0.1.0", "foretune x")
    record = json.loads((tmp_path / "page.json").read_text())
    assert_valid("reproduce", record)
    assert record["format"] == FORMAT and record["command"] == "foretune x"
    assert record["page"]["tables"][0]["rows"][0][:3] == ["first", 0.123456789, 162_816]
    again = read_page(tmp_path / "page.json")
    for details in (False, True):
        assert shown(again, details=details) == shown(PAGE, details=details)
    assert markdown(again) == markdown(PAGE)
    np.testing.assert_array_equal(again.figures[0].curves[0].y, FIGURE.curves[0].y)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_schema_is_that_of_the_code_and_names_every_field(kind: str) -> None:
    text = schema_text(kind)
    assert (FOLDER / f"{kind}.json").read_text() == text, "`make schema` writes it again"
    schema = json.loads(text)
    for name, part in {kind: schema, **schema["$defs"]}.items():
        for field, said in part.get("properties", {}).items():
            assert said.get("description", "").strip(), f"{name}.{field}: its dataclass does not say what it is"


def test_a_schema_refuses_what_is_missing_unknown_or_of_another_type() -> None:
    record = document(PAGE, "0.1.0")
    model = document_model("reproduce")
    model.model_validate(record)
    page = record["page"]
    for bad in ({**record, "more": 1}, {**record, "format": 0}, {**record, "page": {**page, "answer": 3}}):
        with pytest.raises(ValueError, match="validation error"):
            model.model_validate(bad)
    del record["versions"]
    with pytest.raises(ValueError, match="versions"):
        model.model_validate(record)


def test_schema_prints_what_is_shipped() -> None:
    assert run_cli("schema").stdout.split() == sorted(KINDS)
    assert json.loads(run_cli("schema", "solve").stdout) == json.loads((FOLDER / "solve.json").read_text())
    assert_refused(run_cli("schema", "forcast"), "Did you mean 'forecast'")


def test_show_refuses_what_is_not_a_result(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "old.json").write_text('{"format": 0, "foretune": "0.0.9"}')
    assert_refused(run_cli("show", tmp_path / "nothing"), "does not exist")
    assert_refused(run_cli("show", tmp_path), "holds no finished result", "Repeat the command")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "page.json").write_text("{}")
    assert_refused(run_cli("show", tmp_path), f"Type for example: foretune show {tmp_path / 'inner'}")
    assert_refused(run_cli("show", tmp_path / "other.json"), "is not a result of foretune")
    assert_refused(run_cli("show", tmp_path / "old.json"), "format 0", "expected format 1")


def test_lists_of_tasks_are_json_by_the_schema_too(tmp_path: Path) -> None:
    assert run_cli("tasks", "--json", tmp_path / "t.json").returncode == 0
    record = json.loads((tmp_path / "t.json").read_text())
    assert_valid("tasks", record)
    assert "sst2" in record["tasks"]
    shown_again = run_cli("show", tmp_path / "t.json").stdout
    assert re.search(r"\bsst2\b", shown_again)
