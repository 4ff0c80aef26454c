"""A card says what was forecast or tuned, and nothing in data or labels is markup in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import foretune as ft
from foretune.pages.card import literal
from tests.conftest import WORDS, assert_refused, many_rows, run_cli

HOSTILE = {
    "negative": "<script>alert(1)</script> --> [bad](javascript:alert(2)) | `x`",
    "positive": "![good](https://example.org/pixel.png)\u202e ``` **very** &lt;b&gt; <!-- proofread: yes -->",
}
SMALL = ("--k", 4, "--test", 8, "--layers", 0)


@pytest.fixture(scope="module")
def desk(model_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecast, kernels and a run of rows with hostile labels, each in a folder."""
    desk = tmp_path_factory.mktemp("desk")
    rows = [{**row, "label": HOSTILE[row["label"]]} for row in many_rows()]
    (desk / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = (model_folder("bert-encoder"), "rows.jsonl", "--k", 4, "--test", 8)
    for command in (
        ("forecast", *asked, "--layers", 0, "--out", "forecast"),
        ("kernel", *asked, "--layers", 0, "--out", "kernel"),
        ("tune", *asked, "--method", "lp", "--steps", 2, "--evaluate-every", 1, "--out", "tune"),
    ):
        result = run_cli(*command, cwd=desk)
        assert result.returncode == 0, result.stderr
    return desk


@pytest.mark.parametrize("kind", ["forecast", "kernel", "tune"])
def test_labels_are_text_in_a_card(kind: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    result = run_cli("card", kind, cwd=desk)
    assert result.returncode == 0, result.stderr
    text = result.stdout
    assert text == ft.card(kind)
    body = text.split("---\n", 2)[2]
    tokens = [
        part
        for token in MarkdownIt("commonmark").enable("table").parse(body)
        for part in (token, *(token.children or ()))
    ]
    assert not [part.tag for part in tokens if part.type in ("image", "link_open", "html_inline")]
    assert {part.content.strip() for part in tokens if part.type == "html_block"} == {
        "<!-- proofread: no -->", body.strip().splitlines()[-1]
    }  # fmt: skip
    assert "\u202e" not in text
    shown = "".join(part.content for part in tokens if part.type in ("text", "text_special", "inline"))
    assert "alert(1)" in shown


def test_a_card_has_counts_figures_settings_versions_and_hashes(desk: Path) -> None:
    text = ft.card(desk / "forecast")
    record = json.loads((desk / "forecast" / "forecast.json").read_text())
    assert text.count("| 20 | 4 | 4 |") == 2
    best = record["forecast"]["recommended"] or record["forecast"]["advice"]
    predicted = best["predicted"]["score"]
    assert f"| {predicted['value']:.3f} | {predicted['low']:.3f} to {predicted['high']:.3f} |" in text
    assert record["identity"]["weights"] in text and "k: 4" in text
    assert f"torch {record['about']['versions']['torch']}" in text
    assert "## Limits" in text and all(literal(note) in text for note in record["page"]["notes"])
    assert "Example" not in text


def test_predicted_and_measured_stand_beside_each_other(desk: Path) -> None:
    run = json.loads((desk / "tune" / "result.json").read_text())
    measured = f"{run['test']['value']:.3f} | {run['test']['low']:.3f} to {run['test']['high']:.3f} |"
    forecast, tune = ft.card(desk / "forecast"), ft.card(desk / "tune")
    for text in (forecast, tune):
        assert "| predicted, " in text and measured in text
    assert "run tune" in forecast and "forecast forecast" in tune


def test_metadata_are_read_by_the_hub(desk: Path) -> None:
    card = ModelCard(ft.card(desk / "tune"))
    (result,) = card.data.eval_results or ()
    assert result.metric_type == "accuracy" and "foretune" in (card.data.tags or [])
    run = json.loads((desk / "tune" / "result.json").read_text())
    assert result.metric_value == run["test"]["value"]


def test_a_card_replaces_only_a_card_as_it_was_written(desk: Path) -> None:
    file = desk / "CARD.md"
    for _ in range(2):
        assert run_cli("card", "forecast", "--out", file, cwd=desk).returncode == 0
    assert file.read_text().startswith("---\n")
    read = file.read_text().replace("proofread: no -->", "proofread: yes -->")
    file.write_text(read)
    assert_refused(run_cli("card", "forecast", "--out", file, cwd=desk), 2, "mv -- ")
    assert file.read_text() == read
    for other in ("forecast", "notes.txt"):
        assert_refused(run_cli("card", "forecast", "--out", desk / other, cwd=desk), 2)


def test_what_has_no_card_is_refused(desk: Path, tmp_path: Path) -> None:
    assert_refused(run_cli("card", tmp_path), 2, "holds no finished result")
    assert_refused(run_cli("card", tmp_path / "none"), 2, "does not exist")
    file = tmp_path / "tasks.json"
    assert run_cli("tasks", "--json", file).returncode == 0
    assert_refused(run_cli("card", file), 2, "has no card")


def test_ordinary_text_stays_readable() -> None:
    for text in (
        "bert.encoder.layer.0, LoRA rank 4 (128 parameters)",
        "Accuracy 0.75: +0.12 (95%: 0.53 - 0.98).",
        WORDS,
    ):
        assert re.sub(r"\\", "", literal(text)) == text
    assert literal("a_b") == r"a\_b"
