"""`foretune labels`: wrong labels are found, counted and corrected, and nothing else is touched."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import foretune as ft
from foretune.experiment.data import found_examples
from foretune.experiment.experiment import load_experiment
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.kernels.block_kernel import BlockKernel
from foretune.labelling import kernel
from foretune.labelling.kernel import usual_kernel
from foretune.labelling.rows import Row, as_training, labelled_rows
from foretune.labelling.twins import contradicting_twins
from tests.conftest import assert_refused, assert_valid, run_cli

SUBJECTS = ("the film", "this movie", "her story", "the plot", "every scene", "the cast", "his play", "that song")
GOOD = ("wonderful", "a delight", "warm and funny", "superb", "touching", "brilliant", "charming", "lovely")
BAD = ("terrible", "a bore", "cold and dull", "awful", "clumsy", "dreadful", "tiresome", "ugly")
ENDINGS = ("from start to end", "in every way", "as always", "tonight", "again", "to the last minute")
PLANTED = (7, 31, 58, 90, 122, 155, 187, 214, 246, 280)


def written_reviews(file: Path, count: int = 300) -> list[dict[str, str]]:
    """Rows of made-up reviews as a CSV file, ten of them with the wrong label."""
    generator, rows = np.random.default_rng(0), []
    while len(rows) < count:
        good = bool(generator.integers(2))
        words = [generator.choice(part) for part in (SUBJECTS, GOOD if good else BAD, ENDINGS)]
        text = f"{words[0]} is {words[1]} {words[2]}"
        if text not in {row["text"] for row in rows}:
            rows.append({"text": text, "label": "good" if good else "bad"})
    for place in PLANTED:
        if place < count:
            rows[place]["label"] = {"good": "bad", "bad": "good"}[rows[place]["label"]]
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ("text", "label"))
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.csv"
    written_reviews(file)
    return file


@pytest.mark.slow
def test_ten_planted_labels_among_300_rows_come_first_and_are_corrected(reviews: Path, tmp_path: Path) -> None:
    before, target, clean = reviews.read_bytes(), tmp_path / "labels.json", tmp_path / "clean.csv"
    options = ("--output", "head", "--json", target, "--write", clean)
    result = run_cli("labels", "bert-tiny", reviews, *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert_valid("labels", found)
    assert len(set(PLANTED) & {row["row"] for row in found["rows"][:12]}) >= 9
    assert found["wrong"]["can_tell"] and found["wrong"]["low"] <= 10 <= found["wrong"]["high"]
    assert reviews.read_bytes() == before
    with clean.open(newline="") as opened:
        copied = list(csv.DictReader(opened))
    with reviews.open(newline="") as opened:
        given = list(csv.DictReader(opened))
    assert [row["text"] for row in copied] == [row["text"] for row in given]
    changed = [place for place, (one, other) in enumerate(zip(copied, given, strict=True)) if one != other]
    likely = [row["row"] for row in found["rows"] if row["likely_probability"] > 1 - row["probability"]]
    assert sorted(likely) == changed and len(likely) == found["suspicious"]
    assert f"{len(changed)} of 300 labels look wrong" in result.stdout
    again = run_cli("labels", "bert-tiny", reviews, *options)
    assert_refused(again, 2, "already exists", "clean-corrected.csv")


@pytest.fixture
def few_reviews(tmp_path: Path) -> Path:
    file = tmp_path / "few.csv"
    written_reviews(file, 40)
    return file


@pytest.mark.parametrize("kernel", ["gradients", "features"])
def test_a_folder_keeps_the_labels_and_reads_them_again(
    kernel: str, bert_folder: Path, few_reviews: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("labels", bert_folder, few_reviews, "--kernel", kernel, "--out", out)
    first = run_cli(*arguments)
    assert first.returncode == 0, first.stderr
    kept = json.loads((out / "labels.json").read_text())
    assert {"run.yaml", "report.html", "labels.json", "features.safetensors"} <= {file.name for file in out.iterdir()}
    assert kept["kernel"] == kernel and len(kept["rows"]) == 40
    if kernel == "gradients":
        names = BlockKernel.open(out / "kernels" / "layers" / "sgd").names
        assert names and all(name.endswith("output.dense.weight") for name in names)
    again = run_cli(*arguments)
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "labels.json").read_text())["rows"] == kept["rows"]
    shown = run_cli("show", out)
    assert kept["page"]["answer"] in shown.stdout, shown.stderr
    other = run_cli("labels", bert_folder, few_reviews, "--seed", 1, "--kernel", kernel, "--out", out)
    assert_refused(other, 2)


def test_prompts_of_a_causal_model_ask_about_labels_too(llama_folder: Path, few_reviews: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels.json"
    result = run_cli("labels", llama_folder, few_reviews, "--words", "good=good,bad=bad", "--json", target)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert sorted(row["row"] for row in found["rows"]) == list(range(40))
    assert all(0 <= row["probability"] <= 1 and row["likely"] in ("good", "bad") for row in found["rows"])


def test_a_forecast_gives_model_and_rows(bert_folder: Path, few_reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "forecast"
    made = run_cli("forecast", bert_folder, few_reviews, "--k", 4, "--test", 4, "--layers", 0, "--out", out)
    assert made.returncode == 0, made.stderr
    result = run_cli("labels", "--from", out, "--kernel", "features")
    assert result.returncode == 0, result.stderr
    assert f"Labels of {few_reviews}" in result.stdout


def test_rows_of_several_files_and_of_many_classes_keep_their_numbers(bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 30), ("test", 12)):
        rows = [{"text": f"{SUBJECTS[n % 8]} number {n} {name}", "label": n % 3} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "labels.json"
    result = run_cli("labels", bert_folder, folder, "--json", target)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())["rows"]
    assert len(found) == 42
    assert {(Path(row["source"]).name, row["row"]) for row in found} == {
        *(("train.jsonl", n) for n in range(30)),
        *(("test.jsonl", n) for n in range(12)),
    }
    assert_refused(run_cli("labels", bert_folder, folder, "--write", tmp_path / "copy.jsonl"), 2, "Name one of them")


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    """Rows of three labels, one word of which says the label."""
    file, words = tmp_path / "topics.csv", ("good", "bad", "day")
    rows = [{"text": f"{SUBJECTS[n % 8]} {words[n % 3]} {n}", "label": words[n % 3]} for n in range(96)]
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ("text", "label"))
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_the_curve_of_more_than_two_labels_is_that_of_training(
    bert_folder: Path, topics: Path, few_reviews: Path
) -> None:
    found = ft.label_budget(bert_folder, topics)
    budget = found.record["budget"]
    assert found.record["kernel"] == budget["kernel"] == "gradients" and budget["tells"]
    title = "Accuracy by the number of labels: training, by fits to gradients and features"
    assert title in {table["caption"] for table in found.record["page"]["tables"]}
    more = next(fact["text"] for fact in found.record["page"]["facts"] if fact["name"] == "More labels")
    assert "training would reach" in more and "fit to the features" not in more
    assert ft.label_budget(bert_folder, few_reviews).record["kernel"] == "features"  # two labels


def test_a_fit_to_the_features_of_more_than_two_labels_says_nothing_of_training(
    bert_folder: Path, topics: Path, few_reviews: Path
) -> None:
    result = run_cli("labels", bert_folder, topics, "--kernel", "features")
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "cannot tell: with more than two labels" in said and "--kernel gradients" in said
    budget = ft.label_budget(bert_folder, topics, kernel="features").record["budget"]
    assert not budget["tells"] and not any(point["can_tell"] for point in budget["points"])
    assert ft.label_budget(bert_folder, few_reviews).record["budget"]["tells"]  # two labels


def test_gradients_that_take_long_are_computed_only_where_they_are_asked_for(
    bert_folder: Path, topics: Path, few_reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usual(file: Path) -> str:
        setting = Setting(DataSource(file), test=None, question=Question(output="head", head="random"))
        found = found_examples(setting)
        made = load_experiment(setting, bert_folder, found=as_training(found, labelled_rows(found)))
        return usual_kernel(made, made.split.train)

    assert (usual(topics), usual(few_reviews)) == ("gradients", "features")
    monkeypatch.setattr(kernel, "MOST_UNASKED", 1e6)  # one row of this model
    assert usual(topics) == "features"
    monkeypatch.undo()
    monkeypatch.setattr(kernel, "MOST_SQUARE", 4)
    assert usual(topics) == "features"


@pytest.mark.parametrize(
    ("file", "said"), [("clean.xlsx", "expected a name that ends in"), ("few.csv", "already exists")]
)
def test_a_copy_replaces_nothing_and_is_of_a_known_kind(
    bert_folder: Path, few_reviews: Path, tmp_path: Path, file: str, said: str
) -> None:
    before = few_reviews.read_bytes()
    assert_refused(run_cli("labels", bert_folder, few_reviews, "--write", tmp_path / file), 2, said)
    assert few_reviews.read_bytes() == before


def test_a_label_of_few_rows_is_refused(bert_folder: Path, few_reviews: Path) -> None:
    with few_reviews.open("a") as opened:
        opened.write("one of a kind,odd\n")
    refused = run_cli("labels", bert_folder, few_reviews)
    assert_refused(refused, "'odd' has 1 row", "--labels")


def test_texts_that_are_nearly_the_same_with_different_labels_are_named() -> None:
    texts = ("A fine film, really.", "a FINE film; really", "a fine film not really", "other words entirely here")
    rows = [Row("f", place, text, None, label) for place, (text, label) in enumerate(zip(texts, "abba", strict=True))]
    found = contradicting_twins(rows)
    assert [(pair.first.row, pair.second.row, pair.same) for pair in found] == [(0, 1, True), (0, 2, False)]
    assert contradicting_twins([Row("f", 0, "one two three four", None, "a")]) == ()


def test_the_library_says_what_the_command_says(bert_folder: Path, few_reviews: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels.json"
    assert run_cli("labels", bert_folder, few_reviews, "--json", target).returncode == 0
    found = ft.suspicious_labels(bert_folder, few_reviews)
    assert found.record["rows"] == json.loads(target.read_text())["rows"]
    assert list(found.to_frame()["row"]) == [row["row"] for row in found.record["rows"]]
    with few_reviews.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    curve = ft.label_budget(bert_folder, rows).to_frame()
    assert list(curve["rows"][-4:]) == [40, 80, 160, 320]
    assert (curve["low"] <= curve["high"]).all()
    influences = ft.influences(bert_folder, rows, row=3).to_frame()
    assert set(influences["asked"]) == {3} and len(influences) == 39
    with pytest.raises(ft.ForetuneError, match="no option 'rows'"):
        ft.influences(bert_folder, rows, rows=3)
    with pytest.raises(ft.ForetuneError, match="expected"):
        ft.suspicious_labels(bert_folder, rows, kernel="both")


def test_explain_names_the_rows_that_a_prediction_rests_on(
    bert_folder: Path, few_reviews: Path, tmp_path: Path
) -> None:
    target = tmp_path / "explain.json"
    arguments = ("explain", bert_folder, few_reviews, "--row", "3,7", "--ask", "this movie is superb tonight")
    result = run_cli(*arguments, "--json", target)
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert_valid("explain", found)
    assert [each["asked"]["row"] for each in found["explained"]] == [3, 7, -1]
    for each, count in zip(found["explained"], (39, 39, 40), strict=True):
        removals = [row["removal"] for row in each["rows"]]
        assert removals == sorted(removals, reverse=True) and len(removals) == count
        assert sum(row["share"] for row in each["rows"]) == pytest.approx(each["output"], abs=1e-6)
        assert each["asked"]["row"] not in {row["row"] for row in each["rows"]}
    assert_refused(run_cli("explain", bert_folder, few_reviews), 2, "no row or text to explain", "--row")
    assert_refused(run_cli("explain", bert_folder, few_reviews, "--row", 99), 2, "from 0 to 39")


def test_rows_to_label_next_are_new_and_differ(bert_folder: Path, few_reviews: Path, tmp_path: Path) -> None:
    fresh = [f"{subject} was {word}" for subject in SUBJECTS for word in ("fine", "poor")]
    with few_reviews.open(newline="") as opened:
        known = [row["text"] for row in csv.DictReader(opened)]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"text": text}) + "\n" for text in (*known[:5], *fresh, *fresh)))
    found = ft.next_rows(bert_folder, few_reviews, pool, batch=6)
    frame = found.to_frame()
    assert len(frame) == 6 and len(set(frame["text"])) == 6 and set(frame["text"]) <= set(fresh)
    assert found.record["next_rows"]["unlabelled"] == len(fresh)
    assert list(frame["row"]) == [5 + fresh.index(text) for text in frame["text"]]
    refused = run_cli("labels", bert_folder, few_reviews, "--batch", 3)
    assert_refused(refused, 2, "--unlabelled")


def test_a_forecast_says_which_labels_of_its_sample_look_wrong(bert_folder: Path, tmp_path: Path) -> None:
    file, target, out = tmp_path / "plain.csv", tmp_path / "forecast.json", tmp_path / "out"
    rows = [{"text": f"{word} {word} {word} {i}", "label": word} for i in range(40) for word in ("good", "bad")]
    for place in (7, 31, 58, 70):
        rows[place]["label"] = {"good": "bad", "bad": "good"}[rows[place]["label"]]
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ("text", "label"))
        writer.writeheader()
        writer.writerows(rows)
    options = ("--output", "head", "--k", 16, "--json", target, "--out", out)
    result = run_cli("forecast", bert_folder, file, *options)
    assert result.returncode == 0, result.stderr
    assert "Your labels" in result.stdout and "; twice as many: " in result.stdout
    found = json.loads(target.read_text())
    assert_valid("forecast", found)
    labels = found["labels"]
    assert labels["asked"] == 64
    suspicious = {row["row"] for row in labels["suspicious"]}
    assert suspicious and suspicious <= {7, 31, 58, 70}
    for row in labels["suspicious"]:
        assert (rows[row["row"]]["text"], rows[row["row"]]["label"]) == (row["text"], row["label"])
    page = (out / "report.html").read_text()
    assert "The most suspicious labels" in page and "Accuracy by the number of labels" in page


def test_a_forecast_of_more_than_two_labels_does_not_say_what_more_would_bring(bert_folder: Path, topics: Path) -> None:
    result = run_cli("forecast", bert_folder, topics, "--output", "head", "--k", 8, "--layers", 0)
    assert result.returncode == 0, result.stderr
    assert "twice as many: cannot tell" in " ".join(result.stdout.split())


def test_a_forecast_of_few_rows_says_nothing_of_their_labels(
    llama_folder: Path, few_reviews: Path, tmp_path: Path
) -> None:
    target = tmp_path / "forecast.json"
    options = ("--words", "good=good,bad=bad", "--k", 1, "--json", target)
    result = run_cli("forecast", llama_folder, few_reviews, *options)
    assert result.returncode == 0, result.stderr
    assert json.loads(target.read_text())["labels"] is None
    assert "Your labels" not in result.stdout
