"""`foretune reproduce`: pages as files, the recipes on linear probing and on cost, and the command as a process."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rich.console import Console

from foretune.cli.options import ReportOptions
from foretune.cli.reproduce import run_reproduce
from foretune.cli.study_options import BudgetOptions, ReproduceOptions
from foretune.cli.worker_options import WorkerOptions
from foretune.errors import UsageError
from foretune.experiment.budget import Budget
from foretune.experiment.sample import FewShot, Full
from foretune.finetune import search
from foretune.page import Curve, Figure, Page, Table
from foretune.pages.folder import write_page
from foretune.pages.markdown import csv_text, markdown
from foretune.pages.svg import svg
from foretune.pages.terminal import print_page
from foretune.papers.afzal import cost as afzal
from foretune.papers.afzal.recipes import AFZAL_RECIPES
from foretune.papers.lpft import page
from foretune.papers.lpft.calibration import _pooled
from foretune.papers.lpft.features import Features, smaller_changes
from foretune.papers.lpft.measures import METHODS, Bins, ByMethod, Measures, finished_mean, method_grid
from foretune.papers.lpft.page import three_digits
from foretune.papers.lpft.recipes import LPFT_RECIPES
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Recipe, Study
from foretune.papers.sections import TaskGroup
from foretune.regime.head import head_norm_slopes
from foretune.text.example import Example
from tests.cases import language_model
from tests.command_line import ENVIRONMENT
from tests.conftest import assert_refused, assert_valid, family, interruptible, many_rows, run_cli, write_jsonl

CUT = Budget(steps=2, evaluate_every=1, batch_sizes=(4,), learning_rates={"adamw": (1e-3,)})
COST = AFZAL_RECIPES[0]
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*LPFT_RECIPES, *AFZAL_RECIPES)}
PAGE = Page(
    title="Norms | of $x_1$",
    notes=("made up",),
    tables=(Table(("method", "100 %"), (("LP-FT", "76.2 (1.3)"), ('a "b", | c', "-")), "Two rows"),),
    figures=(
        Figure("lines", "Lines & <more>", "steps", "norm $", (Curve("LP-FT", np.array([1.0, 3.0])),)),
        Figure("bars", "Bars", "rank", "share", (Curve("FT", np.ones(3)), Curve("LoRA", np.zeros(3)))),
        Figure("spectrum", "S", "k", "s", (Curve("FT kernel", 10.0 ** -np.arange(40)),), logarithmic=True),
        Figure("honest", "H", "x", "y", (Curve("w/ TS", np.array([0.4]), np.array([0.5])),), diagonal=True),
        Figure("points", "P", "x", "y", (Curve("LoRA", np.ones(2), np.arange(2.0)), Curve("-", np.ones(0))), points=True),
    ),
    findings=("The first is larger.",),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    labels = {"negative": "not_entailment", "positive": "entailment"}
    for task in ("mr", "rte"):
        (made / task).mkdir()
        for name, rows in (("train", many_rows(40)[:30]), ("test", many_rows(40)[30:])):
            pairs = [
                row if task == "mr" else {"text": row["text"], "text2": "it is fine", "label": labels[row["label"]]}
                for row in rows
            ]
            write_jsonl(made / task / f"{name}.jsonl", pairs)
    return made


@pytest.fixture(scope="module")
def study(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    lm = language_model(family("bert-encoder"), torch.float32)
    return Study(lm, ("rte",), (2,), (13,), 8, tmp_path_factory.mktemp("cells"), data, CUT)


def feature_measures(study: Study) -> ByMethod:
    return Features().measure(study, Features().group_cells(study, "rte", 2))


def _train_rows(study: Study) -> tuple[list[Example], np.ndarray]:
    cell = study.cell("rte", 2, 13, "random head")
    return cell.split.train, cell.labels("train")


def texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(svg(figure))  # noqa: S314 - its own text
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_table_survives_csv_and_markdown() -> None:
    (table,) = PAGE.tables
    header, *rows = csv.reader(io.StringIO(csv_text(table)))
    assert tuple(header) == table.header
    assert tuple(map(tuple, rows)) == table.texts
    lines = markdown(PAGE, "foretune reproduce it").splitlines()
    assert lines[:5] == ["# Norms | of $x_1$", "", "```", "foretune reproduce it", "```"]
    assert "| LP-FT | 76.2 (1.3) |" in lines
    assert r'| a "b", \| c | - |' in lines
    assert "| --- | ---: |" in lines
    assert {"- made up", "- The first is larger.", "**Two rows**", "![Bars](bars.svg)"} <= set(lines)


@pytest.mark.parametrize("figure", PAGE.figures, ids=lambda figure: figure.name)
def test_a_figure_is_an_svg_that_names_its_curves_and_axes(figure: Figure) -> None:
    words = [figure.title, figure.x_label, figure.y_label, *(curve.name for curve in figure.curves)]
    assert set(words) <= set(texts(figure))
    assert svg(figure) == svg(figure)


def test_a_page_replaces_a_page_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "norms"
    write_page(folder, PAGE, "foretune reproduce it")
    names = {"page.md", "table-1.csv", *(f"{figure.name}.svg" for figure in PAGE.figures)}
    assert {file.name for file in folder.iterdir()} == names
    write_page(folder, Page("T", (), PAGE.tables))
    assert {file.name for file in folder.iterdir()} == {"page.md", "table-1.csv"}
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"is not a page of a study: it holds 'thesis.tex'. Choose another --out"):
        write_page(folder, PAGE)
    assert (folder / "thesis.tex").read_text() == "mine"


def test_a_printed_page_shows_brackets_as_they_are() -> None:
    made = io.StringIO()
    print_page(Console(file=made, width=100), Page("[bold]", ("[1]",), (Table(("[a]",), (("[b]",),), "[c]"),)))
    assert all(word in made.getvalue() for word in ("[bold]", "[1]", "[a]", "[b]", "[c]"))


def test_the_feature_table_has_the_posters_rows_and_figures(study: Study) -> None:
    page = RECIPES["lpft-features"].page(study)
    ours, posters = page.tables
    assert [row[0] for row in ours.texts] == ["Pre-trained", "LP", "FT", "LoRA", "LP-FT", "LP-LoRA"]
    assert ours.header[1:-1] == posters.header[1:] == ("rte: CS(F)", "rte: Diff(F)", "rte: FDR(F)", "rte: Norm(C)")
    before, probed = ours.texts[:2]
    assert before[1:4] == probed[1:4]  # a head alone leaves the features as they are
    assert posters.texts[4] == ("LP-FT", "0.942", "4.7", "157", "31")
    found = feature_measures(study)
    assert found["LP"][0].norm != found["Pre-trained"][0].norm
    assert all(one.difference == 0 for one in found["LP"])
    assert all(one.difference > 0 for name in ("FT", "LoRA", "LP-FT", "LP-LoRA") for one in found[name])
    assert len(page.findings) == 2
    assert any("Cut against the paper: 2 steps" in note for note in page.notes)


def test_every_lpft_page_comes_from_the_same_runs(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    feature_measures(study)
    with monkeypatch.context() as patched:
        patched.setattr(search, "fine_tuned", lambda *_: pytest.fail("trained again"))
        calibration = RECIPES["lpft-calibration"].page(study)
        spectra = RECIPES["lpft-singular-values"].page(study)
    norms = RECIPES["lpft-norms"].page(study)  # reads the probed model, for its kernel
    with monkeypatch.context() as patched:
        patched.setattr(search, "fine_tuned", lambda *_: pytest.fail("read again"))
        again = RECIPES["lpft-norms"].page(study)
    assert (again.tables, again.findings) == (norms.tables, norms.findings)
    ours, posters = calibration.tables
    assert [row[:2] for row in ours.texts] == [row[:2] for row in posters.texts]
    assert posters.texts[1] == ("ECE", "LP-FT", "21.72", "5.48", "16.24")
    assert [figure.name for figure in calibration.figures] == [
        f"reliability-rte-k2-{name}" for name in ("ft", "lp-ft", "lora", "lp-lora")
    ]
    assert [len(curve.y) for curve in spectra.figures[0].curves] == [4] * 4  # k = 2 of two classes, one output
    assert spectra.tables[0].texts[0][2:] == spectra.tables[0].texts[3][2:]  # one P for both
    along, against = norms.figures
    _, slopes = norms.tables
    assert [row[0] for row in slopes.texts] == ["not_entailment", "entailment"]
    derivative = head_norm_slopes(study.cell("rte", 2, 13, "random head").outputs, *_train_rows(study))
    assert [float(row[2]) for row in slopes.texts] == pytest.approx(derivative / 4, rel=5e-3)
    assert [curve.name for curve in along.curves] == list(METHODS)
    assert [curve.name for curve in against.curves] == ["FT", "LoRA", "LP-FT", "LP-LoRA"]
    assert all(len(curve.y) == 1 for curve in against.curves)
    assert any("of 5 methods" in finding for finding in norms.findings)
    assert {"steps", *METHODS} <= set(texts(along))


def test_norms_of_two_stages_follow_each_other(study: Study) -> None:
    (both,) = feature_measures(study)["LP-FT"]
    assert both.probing in (1, 2)
    assert both.steps[-1] == both.probing + 2
    assert list(both.steps) == sorted(set(both.steps))
    assert len(both.steps) == len(both.norms)


def test_a_head_alone_keeps_its_own_rates_when_the_others_are_cut() -> None:
    rates = {name: [point.optimiser.learning_rate for point in method_grid(CUT, METHODS[name])] for name in METHODS}
    assert rates == {"LP": [1e-4, 1e-3, 1e-2], "FT": [1e-3], "LoRA": [1e-3], "LP-FT": [1e-3], "LP-LoRA": [1e-3]}


def test_a_task_with_a_rare_label_is_used_whole(study: Study) -> None:
    (cell,) = Features().group_cells(study, "rte", 12)
    assert cell.setting.sample == Full()
    assert len(cell.split.train) + len(cell.split.validation) <= 30
    assert Features().sample(study, "rte", 2) == FewShot(2)


def test_the_rows_of_a_task_are_counted_once_for_all_seeds(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(page, "usual_sample", lambda _source, k: asked.append(k) or FewShot(k))
    cells = Features().group_cells(replace(study, seeds=(13, 21, 42)), "rte", 2)
    assert ([cell.setting.seed for cell in cells], asked) == ([13, 21, 42], [2])


def test_findings_say_what_the_numbers_say() -> None:
    found = {name: [Measures(difference=change, norm=norm)] for name, change, norm in
             (("FT", 9.8, 1.0), ("LP-FT", 3.1, 7.5), ("LoRA", 1.0, 1.0), ("LP-LoRA", 2.0, 7.0))}  # fmt: skip
    assert smaller_changes(TaskGroup("rte", 2, (13,), found)) == [
        "LP-FT changes features less than FT on rte: Diff 3.1 against 9.8 (one seed: no interval), with classifier norms "
        "7.5 against 1.",
        "LP-LoRA changes features more than LoRA on rte: Diff 2 against 1 (one seed: no interval), with classifier norms "
        "7 against 1.",
    ]
    two = [Measures(difference=1.0), Measures(failure="it fell"), Measures(difference=2.0)]
    assert finished_mean(two, "difference") == 1.5
    assert three_digits(finished_mean(two[1:2], "difference")).text == "-"
    failed = {**found, "FT": [Measures(failure="the loss became infinite")]}
    assert len(smaller_changes(TaskGroup("rte", 2, (13,), failed))) == 1


def test_pooled_bins_weigh_every_example_alike() -> None:
    nan = float("nan")
    first = Bins(0.0, 0.0, (nan, 0.6, 0.9), (nan, 0.5, 1.0), (0, 2, 1))
    second = Bins(0.0, 0.0, (nan, 0.7, nan), (nan, 1.0, nan), (0, 6, 0))
    accuracy, confidence = _pooled([first, second])
    assert accuracy == pytest.approx([(2 * 0.5 + 6 * 1.0) / 8, 1.0])
    assert confidence == pytest.approx([(2 * 0.6 + 6 * 0.7) / 8, 0.9])


def test_the_posters_calibration_gains_are_differences() -> None:
    for methods in printed_figures("tomihari")["calibration"].values():
        for before, after, gain in methods.values():
            assert gain == pytest.approx(before - after, abs=0.011)


def test_cost_times_both_together_and_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Study(study.lm, ("mr", "rte"), (), (13,), 8, study.root, study.data, Budget(steps=3))
    page = COST.page(timed)
    ours = page.tables[0]
    assert [row[0] for row in ours.texts] == ["mr", "rte"]
    assert ours.header[-1] == "10 epochs, extrapolated (s)"
    assert any("cut to 3 steps instead of 10 epochs" in note for note in page.notes)
    assert all("(extrapolated)" in finding for finding in page.findings)
    monkeypatch.setattr(afzal, "_timed", lambda *_: pytest.fail("timed again"))
    assert COST.page(timed).tables == page.tables
    value = json.loads(next(study.root.rglob("values/afzal-cost.json")).read_text())["value"]
    assert value["planned"] == np.ceil(10 * value["train"] / 16)
    assert min(value["tuning"], value["kernel"]) > 0


def test_cost_times_one_run() -> None:
    with pytest.raises(UsageError, match=r"One run is timed, but there are 2 batch sizes: \[4, 8\]"):
        afzal._training(Budget(batch_sizes=(4, 8)))
    assert afzal._training(Budget()).epochs == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["lpft-feature"], "no table 'lpft-feature' to reproduce. Did you mean 'lpft-features'"),
        (["x"], "afzal-cost: time of the kernel on 32 random training examples"),
        (["--tasks", "mr,sst3"], "no task 'sst3'"),
        (["--tasks", ","], "--tasks ',' has an empty item; expected mr,sst2"),
        (["--tasks", "mr,sst2"], "has no folder 'sst2'; its folders are mr, rte. Choose among them with --tasks"),
        (["--data", "nowhere"], "--data nowhere is not a folder; expected one with a folder for each task, mr"),
        (["--k", "0"], "--k is 0; expected at least 1"),
        (["--k", "4,many"], "--k '4,many': 'many' is not a number"),
        (["--seeds=-1"], "--seeds '-1': '-1' is not a number"),
        (["--seeds", "4294967296"], "--seeds is 4294967296; expected 0 to 4294967295"),
        (["--test", "0"], "--test is 0; expected at least 1"),
        (["--memory", "2 cats"], "2 cats"),
        (["--steps", "0"], "--steps is 0; expected at least 1"),
        (["--evaluate-every=-2"], "--evaluate-every is -2"),
        (["--batch-sizes", "4,0"], "--batch-sizes is 0; expected at least 1"),
        (["--adam-rates", "1e-3,-1"], "--adam-rates is -1; expected a number above 0"),
        (["--sgd-rates", "fast"], "--sgd-rates 'fast': expected numbers, 1e-3,1e-2 for example"),
        (["afzal-cost", "--k", "16"], "afzal-cost uses whole training sets and so has no k. Leave --k out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_before_anything_is_loaded(
    options: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    usual = ["lpft-norms", "--model", "no-such-model", "--tasks", "mr", "--data", data, "--out", tmp_path / "out"]
    table = options[:1] if not options[0].startswith("--") else usual[:1]
    assert_refused(run_cli("reproduce", *table, *usual[1:], *options[len(table) * (table != usual[:1]) :]), 2, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_a_finished_one_trains_nothing(
    bert_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ReproduceOptions(
        "lpft-features", str(bert_folder), tasks="mr", k="2", seeds="13", test=8, data=data, out=tmp_path
    )
    cut = BudgetOptions(steps=4, evaluate_every=2, batch_sizes="4", adam_rates="1e-3")
    arguments = ["--model", bert_folder, "--tasks", "mr", "--k", 2, "--seeds", 13, "--test", 8, "--data", data, "--out",
                 tmp_path, "--steps", 4, "--evaluate-every", 2, "--batch-sizes", 4, "--adam-rates", 1e-3]  # fmt: skip
    command = [sys.executable, "-m", "foretune", "reproduce", "lpft-features", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, preexec_fn=interruptible,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("point-0/result.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        shown, messages = process.communicate(timeout=60)
    stopped = subprocess.CompletedProcess(command, process.returncode, shown, messages)
    assert stopped.returncode == 130 and not stopped.stdout.strip() and "Traceback" not in stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "Stopped. Repeat the same command to go on where it stopped."
    assert not (tmp_path / "lpft-features").exists()
    finished = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    run_reproduce(options, cut, WorkerOptions(), ReportOptions(json=tmp_path / "page.json"))
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    page = (tmp_path / "lpft-features" / "page.md").read_text()
    assert f"foretune reproduce lpft-features --model {bert_folder} --tasks mr --k 2 --seeds 13 --test 8" in page
    assert "Pre-trained" in capsys.readouterr().out
    record = json.loads((tmp_path / "page.json").read_text())
    assert_valid("reproduce", record)
    assert record["page"]["tables"][0]["rows"][1][0] == "LP"
    monkeypatch.setattr(search, "fine_tuned", lambda *_: pytest.fail("trained again"))
    run_reproduce(options, cut, WorkerOptions(), ReportOptions())
    assert (tmp_path / "lpft-features" / "page.md").read_text() == page
