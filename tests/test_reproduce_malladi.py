"""The tables of Malladi et al. 2023 as recipes: on tiny models and made-up rows, and the paper's own figures as data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import foretune as ft
from foretune.errors import DataError, ModelError, UsageError
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment, Work
from foretune.experiment.outcome import Outcome
from foretune.finetune import search
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.formula import Formula
from foretune.page import Page
from foretune.papers.malladi import measures
from foretune.papers.malladi.findings import apart, moved_little, reached, recovered
from foretune.papers.malladi.measures import K_SGD, SGD_FT, analog_scores, zero_shot
from foretune.papers.malladi.recipes import MALLADI_RECIPES
from foretune.papers.malladi.scores import PrintedLayout, Scores, difference_notes
from foretune.papers.malladi.verdict import Verdicts, task_verdict
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Recipe, Study
from tests.cases import language_model
from tests.conftest import family, many_rows

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in MALLADI_RECIPES}
CUT = Budget(steps=2, evaluate_every=1, batch_sizes=(4,), learning_rates={"sgd": (1e-3,), "adamw": (1e-3,)})


def write_rows(folder: Path, tasks: tuple[str, ...], offset: int = 0) -> Path:
    rows = many_rows(40)
    for task in tasks:
        (folder / task).mkdir(parents=True, exist_ok=True)
        for name, part in (("train", rows[offset:30]), ("test", rows[30:])):
            lines = [json.dumps({"text": row["text"], "label": row["label"]}) for row in part]
            (folder / task / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def lm() -> ft.LanguageModel:
    return language_model(family("roberta-masked"), torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("malladi")
    write_rows(made / "data", ("mr", "mpqa"))
    return made


@pytest.fixture
def study(lm: ft.LanguageModel, folder: Path) -> Study:
    return Study(lm, ("mr",), (2,), (13,), 6, folder / "cells", folder / "data", CUT)


def refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object, **_options: object) -> None:
        raise AssertionError("this was computed before")

    for module, name in ((search, "fine_tuned"), (measures, "linearization"), (measures, "block_kernels"),
                         (measures, "analog_solution"), (Experiment, "kernels")):  # fmt: skip
        monkeypatch.setattr(module, name, refused)


ROWS = {
    "malladi-4": ("SGD-FT", "K(SGD)", "Adam-FT", "K(SignGD)", "K(A-SignGD)"),
    "malladi-6": ("k = 2: Distance", "k = 2: Frobenius"),
    "malladi-7": tuple(f"{asked}, {name}" for asked in ("Prompt", "Standard") for name in ("Adam-FT", "SGD-FT", "K(SGD)")),
    "malladi-8": ("0-shot", "Lin.", "FT"),
    "malladi-11": ("SGD-FT", "SGD-LoRA FT", "K(SGD)", "K(LoRA)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_table_has_the_papers_rows_and_is_read_again_without_computing(
    name: str, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = RECIPES[name].page(study)
    (table,) = page.tables
    assert tuple(row[0] for row in table.texts) == ROWS[name]
    assert table.header[1:] == ("MR",)
    assert all(math.isfinite(float(row[1])) for row in table.texts)
    drawn = {curve.name for figure in page.figures for curve in figure.curves}
    assert drawn <= {row[0] for row in table.texts} and bool(drawn) == (name in ("malladi-7", "malladi-8"))
    for figure in page.figures:
        assert figure.ticks == ("MR",)
        assert all(f"{curve.y[0]:.1f}" == dict(table.texts)[curve.name] for curve in figure.curves)
    refuse_work(monkeypatch)
    assert RECIPES[name].page(study) == page


def test_table_1_reuses_what_other_tables_measured(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("malladi-4", "malladi-6", "malladi-8"):
        RECIPES[name].page(study)
    refuse_work(monkeypatch)
    page = RECIPES["malladi-1"].page(study)
    marks, numbers = page.tables
    assert [row[0] for row in marks.texts] == [
        "Num. classes C", "eNTK solvable", "Linearization", "Fixed Features", "Kernel behavior",
    ]  # fmt: skip
    assert marks.texts[0][1] == "2"
    assert {row[1] for row in marks.texts[1:]} <= {"✓", "(✓)", "✗"}
    assert [row[0] for row in numbers.texts][:2] == [
        "SGD-FT, k = 2: kernel - tuned, points", "Adam-FT, k = 2: kernel - tuned, points",
    ]  # fmt: skip
    assert "of 1 task(s)" in page.findings[0]


def test_a_task_without_a_prompt_has_a_dash(study: Study) -> None:
    page = RECIPES["malladi-9"].page(dataclasses.replace(study, tasks=("mpqa",)))
    cells = {row[0]: row[1] for row in page.tables[0].texts}
    assert {cells[f"Search, {name}"] for name in ("Adam-FT", "SGD-FT", "K(SGD)")} == {"-"}
    assert all(math.isfinite(float(cells[f"{asked}, K(SGD)"])) for asked in ("Manual", "Null"))
    assert not any("Search" in sentence for sentence in page.findings)


def test_the_output_derivative_needs_no_training(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_work(monkeypatch)
    (table,) = RECIPES["malladi-5"].page(dataclasses.replace(study, ks=(1, 2))).tables
    assert table.texts[0][0] == "roberta-masked"
    assert 0 < float(table.texts[0][1]) < 1
    assert len(table.texts) == 1


def test_changed_data_are_computed_anew_and_the_former_ones_kept(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = dataclasses.replace(study, root=tmp_path / "cells", data=write_rows(tmp_path / "data", ("mr",)))
    before = RECIPES["malladi-8"].page(moved)
    write_rows(tmp_path / "data", ("mr",), offset=1)
    first, second = study.cell("mr", 2, 13), moved.cell("mr", 2, 13)
    assert second.folder != first.folder
    assert not (second.folder / "values").exists()
    RECIPES["malladi-8"].page(moved)
    assert list((second.folder / "values").iterdir())
    write_rows(tmp_path / "data", ("mr",))
    refuse_work(monkeypatch)
    assert RECIPES["malladi-8"].page(moved) == before


def test_kernels_of_a_table_come_from_one_pass_where_memory_allows(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, kernels = [], Experiment.kernels

    def counted(cell: Experiment, formulas: list[Formula]) -> dict[str, BlockKernel]:
        asked.append(len(formulas))
        return kernels(dataclasses.replace(cell, work=Work("2GiB")), formulas)

    monkeypatch.setattr(Experiment, "kernels", counted)
    analogs = (K_SGD, measures.K_SIGNGD, measures.K_A_SIGNGD)
    cell = dataclasses.replace(study, root=tmp_path).cell("mr", 2, 13)
    found = analog_scores(cell, analogs)
    assert asked == [4]  # both orientations of the asymmetric one
    assert found == analog_scores(cell, analogs)
    assert asked == [4]
    tight = dataclasses.replace(cell, folder=tmp_path / "tight", work=Work("80KiB"))  # a kernel takes 18.4 KiB
    assert found == analog_scores(tight, analogs)
    assert asked == [4, 2, 2]
    assert all(0 <= score <= 1 for score in found.values())


def test_zero_shot_is_the_score_of_the_pretrained_model(study: Study) -> None:
    cell = study.cell("mr", 2, 13)
    tuned = measures.AdamTuned(cell, CUT).linearization()
    assert zero_shot(cell, "accuracy") == tuned.pretrained
    assert tuned.tuned == measures.ADAM_FT.score(cell, CUT)


def test_a_grid_that_fails_leaves_no_numbers_and_is_counted(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experiment, "outcome", lambda *_: Outcome(failure="the loss became undefined"))
    assert math.isnan(SGD_FT.score(study.cell("mr", 2, 13), CUT))
    (table,) = RECIPES["malladi-8"].page(study).tables
    cells = {row[0]: row[1] for row in table.texts}
    assert cells["FT"] == cells["Lin."] == "-, 1 failed"
    assert math.isfinite(float(cells["0-shot"]))


def test_words_and_data_are_checked_before_anything_is_computed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_work(monkeypatch)
    with pytest.raises(UsageError, match="sst2: this file does not exist"):
        RECIPES["malladi-4"].page(dataclasses.replace(study, tasks=("mr", "sst2")))
    with pytest.raises(DataError, match="epic"):  # the second prompt's word is not a word of the tiny tokenizer
        RECIPES["malladi-9"].page(study)
    encoder = language_model(family("bert-encoder"), torch.float32)
    with pytest.raises(ModelError, match="cannot answer a prompt"):
        RECIPES["malladi-7"].page(dataclasses.replace(study, lm=encoder, root=study.root / "encoder"))


def test_the_papers_figures_stand_below_ours_where_the_model_is_the_same(study: Study) -> None:
    same = dataclasses.replace(study.lm, name="somebody/RoBERTa-base")
    page: Page = RECIPES["malladi-5"].page(dataclasses.replace(study, lm=same, root=study.root / "same"))
    assert list(page.tables[0].texts[1:]) == [
        ("paper: RoBERTa-base", "0.32"), ("paper: RoBERTa-large", "0.25"),
    ]  # fmt: skip
    assert any("printed there" in note for note in page.notes)
    scores = Scores({"SGD-FT": {"sst2": (0.9, 0.92), "qqp": (0.5, float("nan"))}}, 16)
    assert PrintedLayout(4).drawn(scores, "", beside=True).texts == (
        ("SGD-FT", "91.0 (1.4)", "50.0, 1 failed"),
        ("paper: SGD-FT", "89.0 (1.5)", "62.1 (2.3)"),
    )
    assert PrintedLayout(4).drawn(scores, "", beside=True).header == ("Method", "SST-2", "QQP (F1)")
    assert len(PrintedLayout(4).drawn(scores, "", beside=False).texts) == 1
    assert len(PrintedLayout(4).drawn(dataclasses.replace(scores, k=8), "", beside=True).texts) == 1


def test_a_page_says_what_differs_from_the_paper(study: Study) -> None:
    recipe = RECIPES["malladi-4"]
    (differs,) = [note for note in difference_notes(study, recipe.defaults, "T") if note.startswith("What differs")]
    for part in ("roberta-masked (RoBERTa-base there", "k = 2 (16, 64 there)", "1 seed(s) (5 there)",
                 "at most 6 test examples (1000 there)", "without SST-2, SST-5, CR"):  # fmt: skip
        assert part in differs


TABLES = {4: 14, 5: 9, 6: 14, 7: 6, 8: 14, 9: 6, 11: 6}


def test_the_papers_figures_are_complete() -> None:
    printed = printed_figures("malladi")
    assert list(printed["tables"]) == list(TABLES)
    for number, ks in printed["tables"].items():
        recipe = RECIPES[f"malladi-{number}"]
        assert {len(tasks) for rows in ks.values() for tasks in rows.values()} == {TABLES[number]}
        assert {task for rows in ks.values() for tasks in rows.values() for task in tasks} == set(recipe.defaults.tasks)
    assert [sorted(printed["tables"][number]) for number in (4, 7, 8, 9)] == [
        [16, 64],
        [16, 64, 512],
        [0, 16, 64],
        [16],
    ]
    assert {len(tasks) for tasks in printed["marks"].values()} == {14}


@pytest.mark.parametrize(
    ("table", "k", "row", "task", "figures"),
    [
        (4, 16, "K(A-SignGD)", "trec", [22.7, 2.8]),
        (4, 64, "SGD-FT", "qqp", [69.2, 1.3]),
        (5, 0, "RoBERTa-large", "mr", [0.25]),
        (6, 16, "Distance", "ag_news", [1.87, 1.42]),
        (7, 512, "Standard, K(SGD)", "sst2", [84.9, 2.3]),
        (8, 0, "0-shot", "mpqa", [68.2]),
        (8, 64, "Lin.", "rte", [59.6, 2.9]),
        (9, 16, "Null, K(SGD)", "cr", [91.7, 0.8]),
        (11, 64, "K(LoRA)", "qqp", [63.9, 4.5]),
    ],
)
def test_the_papers_figures_are_those_printed(table: int, k: int, row: str, task: str, figures: list[float]) -> None:
    assert printed_figures("malladi")["tables"][table][k][row][task] == figures


def printed_scores(table: int, k: int, seeds: int = 1) -> Scores:
    tables = printed_figures("malladi")["tables"][table]
    rows = {**tables.get(0, {}), **tables[k]}
    scale = 1.0 if table == 6 else 0.01
    return Scores({row: {t: (f[0] * scale,) * seeds for t, f in tasks.items()} for row, tasks in rows.items()}, k)


def test_the_marks_of_table_1_follow_from_the_papers_figures_but_where_the_paper_departs_from_them() -> None:
    settings = [printed_scores(4, k) for k in (16, 64)]
    both = {**printed_scores(8, 64).values, **printed_scores(6, 64).values}
    properties = Scores({**both, "Frobenius": both["Distance"]}, 64)
    found = Verdicts({task: task_verdict(task, settings, properties) for task in properties.tasks}, 64)
    rows = {row[0]: row[1:] for row in found.marks(beside=True).texts}
    odd = {
        (name, task)
        for name in printed_figures("malladi")["marks"]
        for task, ours, theirs in zip(properties.tasks, rows[name], rows[f"paper: {name}"], strict=True)
        if ours != theirs
    }
    assert {task for name, task in odd if name == "eNTK solvable"} == {"mnli", "mpqa"}
    assert {task for name, task in odd if name == "Linearization"} == {"qnli", "rte"}
    assert not {task for name, task in odd if name == "Fixed Features"}
    assert rows["Num. classes C"][:2] == ("2", "5")


def test_marks_from_numbers_made_by_hand() -> None:
    def scores(kernel: float, tuned: float, k: int) -> Scores:
        methods = {"SGD-FT": tuned, "K(SGD)": kernel, "Adam-FT": 0.9, "K(A-SignGD)": 0.5}
        return Scores({name: {"mr": (value,)} for name, value in methods.items()}, k)

    def properties(linear: float, distance: float) -> Scores:
        rows = {"0-shot": 0.5, "Lin.": linear, "FT": 0.9, "Distance": distance, "Frobenius": 0.1}
        return Scores({name: {"mr": (value,)} for name, value in rows.items()}, 64)

    def column(*arguments: object) -> tuple[str, ...]:
        found = Verdicts({"mr": task_verdict("mr", *arguments)}, 64)  # pyright: ignore[reportArgumentType]
        return tuple(row[1] for row in found.marks(beside=False).rows[1:])

    good, bad = scores(0.86, 0.9, 16), scores(0.8, 0.9, 64)
    assert column([good], properties(0.71, 0.9)) == ("✓", "✓", "✓", "✓")  # one of two settings
    assert column([good, bad], properties(0.71, 0.9)) == ("(✓)", "✓", "✓", "(✓)")  # one of four
    assert column([bad, bad], properties(0.71, 0.9)) == ("✗", "✓", "✓", "✗")
    assert column([good, good], properties(0.69, 0.9)) == ("✓", "✗", "✓", "✗")
    assert column([good, good], properties(0.71, 1.0)) == ("✓", "✓", "✗", "✗")
    assert column([good, good], properties(0.71, float("nan"))) == ("✓", "✓", "✗", "✗")


def test_findings_say_what_the_numbers_say() -> None:
    rows = {"K(SGD)": {"mr": (0.8, 0.8), "subj": (0.7,)}, "SGD-FT": {"mr": (0.84, 0.82), "subj": (0.771,)}}
    scores = Scores({**rows, "none": {"mr": (), "subj": ()}}, 16)
    assert reached(scores, "K(SGD)", "SGD-FT") == (
        "k = 16: K(SGD) is within 5 points of SGD-FT, or above it, on 1 of 2 task(s) (lowest: Subj, -7.1).",
    )
    assert reached(scores, "none", "SGD-FT") == apart(scores, "none", "SGD-FT") == ()
    assert apart(scores, "SGD-FT", "K(SGD)") == (
        "k = 16: SGD-FT and K(SGD) are at most 7.1 points apart (Subj, +7.1).",
    )
    assert reached(printed_scores(4, 16), "K(SGD)", "SGD-FT", 0.10) == (
        "k = 16: K(SGD) is within 10 points of SGD-FT, or above it, on 13 of 14 task(s) (lowest: TREC, -24.3).",
    )
    assert moved_little(printed_scores(6, 16), "Distance")[0].startswith("k = 16: the distance is below 1 on 12 of 14")
    assert "on 10 of 14 task(s)" in recovered(printed_scores(8, 16), "0-shot", "Lin.", "FT")[0]
