"""What the README and the documentation print works as printed.

Every page is gone through from top to bottom in an empty folder, with tiny random models in place of the named ones. Pages
that train for longer run under `sweep` (`LONG`); their commands are parsed in every run of the tests.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from transformers import BertConfig, BertForMaskedLM

import foretune as ft
from foretune.cli.app import COMMANDS, app
from tests.conftest import many_rows, run_cli, run_code
from tests.printed import ROOT, Step, measured_pages, mentions, pages, steps, words

LONG = {
    "tutorials/engineer.md",
    "tutorials/papers.md",
    "tutorials/platform.md",
    "howto/json.md",
    "howto/papers.md",
    "howto/rate.md",
    "howto/verdict.md",
}
"""Pages whose commands train or forecast several times: `make sweep`."""
LONGER = {"validate", "ForecastValidation"}
"""Names whose examples would take minutes; their tests are in tests/test_validate.py."""
REAL = {"tutorials/engineer.md"}
"""Pages that need the named models: they train what a forecast recommends, and of a random model it recommends nothing."""
PAGES = [page for page in pages() if steps(page)]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT)).removeprefix("docs/")


@pytest.fixture(scope="session")
def stand_ins(llama_folder: Path, bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models by the names that are printed; those for prompts have the words of bert-tiny."""
    masked = tmp_path_factory.mktemp("masked")
    words = ft.load_model("bert-tiny").tokenizer
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(words), **size)).save_pretrained(masked)
    words.save_pretrained(masked)
    named = dict.fromkeys(("bert-tiny", "./my-model", "./my-masked-model"), masked)
    return {"smollm2": llama_folder, "minilm": bert_folder, **named}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A reader's folder: the examples of the clone, and files that are theirs."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    rows = [
        (f"{row['text']} {number}", {"positive": "good", "negative": "bad"}[row["label"]])
        for number, row in enumerate(many_rows(200))
    ]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("body", "stars"), *rows])
    subprocess.run([sys.executable, "examples/tickets.py", "held-out.csv"], check=True, cwd=tmp_path)
    theirs = tmp_path / "held-out.csv"
    theirs.write_text(re.sub(r'\.("?),', r". Thank you.\1,", theirs.read_text()))
    return tmp_path


def run(step: Step, folder: Path, models: dict[str, Path]) -> None:
    """Do what is printed, and see that it works."""
    if step.kind == "file":
        (folder / step.file).write_text(step.text)
        return
    if step.kind == "python":
        code = step.text
        for name, place in models.items():
            code = code.replace(f'"{name}"', f'"{place}"')
        result = run_code(code, cwd=folder)
    else:
        program, *rest = words(step.text)
        rest = [",".join(str(models.get(name, name)) for name in word.split(",")) for word in rest]
        if program == "python":
            result = subprocess.run([sys.executable, *rest], cwd=folder, capture_output=True, text=True, check=False)
        else:
            assert program == "foretune", step.text
            result = run_cli(*rest, cwd=folder)
    assert result.returncode == 0, f"{step.text}\n{result.stdout}{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=named(page), marks=[pytest.mark.sweep] * (named(page) in LONG)) for page in PAGES]
)
def test_a_page_works_as_printed(page: Path, desk: Path, stand_ins: dict[str, Path]) -> None:
    for step in steps(page):
        run(step, desk, {} if named(page) in REAL else stand_ins)


def test_every_public_name_has_an_example_that_runs() -> None:
    printed = [step.text for page in PAGES for step in steps(page) if step.kind == "python"]
    cells = [
        cell for page in pages() for cell in re.findall(r"```{code-cell}[^\n]*\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    used = set(re.findall(r"\bft\.(\w+)", "\n".join([*printed, *cells])))
    without = {name for name in ft.__all__ if not name.startswith("_")} - used
    assert without == LONGER, "give it an example in docs/reference/library.md"


SEEN_ON = {page: [words(step.text) for step in steps(page) if step.kind == "command"] for page in PAGES}
"""Page -> the commands on it that are run."""
NAMES = ("foretune ", "make ", "uv ")
"""Programs of which a text may name a part alone: `foretune track`."""
NOT_RUN = {
    "pip install -c constraints.txt .": "tests/test_packaging.py installs the wheel",
    "uv pip install -c constraints.txt .": "tests/test_packaging.py",
    "python -m venv .venv": "Python's own",
    "docker build -t foretune .": "needs Docker: tests/test_workflows.py reads the Dockerfile",
    'docker run --rm -v "$PWD:/data" foretune forecast bert-tiny movies --k 8 --out runs/movies': "needs Docker",
    "foretune tune --from runs/movies/forecast.json": "needs a forecast that recommends: tutorials/engineer.md runs it",
    "foretune tune --from runs/x/forecast.json --out runs/x-run": "the same",
    "foretune tune --from runs/x/forecast.json --report-to tensorboard,wandb --out runs/x-run": "tests/test_tune_cli.py",
    "foretune tune smollm2 movies --k 16 --method lora --rank 1 ... --no-dropout --out runs/lora": "tests/test_handover.py "
    "types what a forecast prints",
    "foretune track --on": "changes the reader's cache folder: tests/test_track.py runs it in one of its own",
    "foretune forecast smollm2 movies --device cuda --dtype bfloat16 --k 16 --out runs/movies": "tests/test_gpu.py",
    "foretune forecast models/model-Q8_0.gguf movies --k 4 --test 16 --plan": "tests/test_weight_files.py reads such files",
    "foretune forecast someone/some-model movies --revision 1a2b3c --k 4 --test 16 --plan": "needs the hub",
    "foretune forecast smollm2 reviews.csv --exit-code --out runs/x": "tests/test_validate_announced.py has all exit codes",
    "python runs/x/train.py": "tutorials/engineer.md runs it",
    "foretune validate minilm --engine ray --address HEAD:6379 --workers 16 --cpus-per-worker 4 --out /shared/validate": (
        "needs a cluster: tests/test_work_studies.py has one of two nodes"
    ),
    "ray start --head": "Ray's own",
    "ray start --address HEAD:6379": "Ray's own",
    "python -m pip install 'foretune[ray]'": "a package for others: tests/test_packaging.py has the extras",
    "pip install 'foretune[prodigy]'": "the same",
    "foretune forecast MODEL my-task.yaml": "howto/prompts.md runs it with names",
    "foretune forecast --out DIR": "the same with names on every page",
    "foretune reproduce NAME": "the same with names on this page",
    "foretune show DIR --details": "start.md runs it with a name",
}
"""Command that a page names and no page runs -> why."""


def test_what_a_page_names_is_run_or_has_a_reason() -> None:
    run = [line for lines in SEEN_ON.values() for line in lines]
    named = {each for page in pages() for each in mentions(page) if len(words(each)) > 1 + each.startswith(NAMES)}
    alone = {each for each in named if not any(_within(words(each), line) for line in run)}
    assert {each for each in alone if "benchmarks." not in each} == set(NOT_RUN)


def _within(some: list[str], line: list[str]) -> bool:
    """Whether a command that is run has all words of one that is named."""
    return some[:2] == line[:2] and set(some) <= set(line)


def test_targets_and_benchmarks_that_are_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (*pages(), *measured_pages()):
        for each in mentions(page):
            program, *rest = words(each)
            if program == "make":
                assert rest[0] in targets, f"{page}: {each}"
            elif rest[:1] == ["-m"] and rest[1].startswith("benchmarks."):
                place = ROOT / rest[1].replace(".", "/")
                assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), f"{page}: {each}"
            elif program == "python" and rest[0].startswith("examples/"):
                assert (ROOT / rest[0]).is_file(), f"{page}: {each}"


def _typed() -> list[tuple[str, list[str]]]:
    """Every command of foretune on any page, results included, except those that leave words out."""
    found = [(named(page), line) for page, lines in SEEN_ON.items() for line in lines]
    found += [(str(page), words(each)) for page in (*pages(), *measured_pages()) for each in mentions(page)]
    return [(page, line[1:]) for page, line in found if line[0] == "foretune" and "..." not in line and len(line) > 1]


def test_every_printed_command_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options exist and their values are good; it is not carried out, and no file that it names is read."""
    root = typer.main.get_command(app)
    for name in ("read_early", "read_rows_early", "check_tasks_early", "refuse_half_weights"):
        monkeypatch.setattr(f"foretune.cli.early.{name}", lambda *_, **__: None)
    for name in COMMANDS:
        monkeypatch.setattr(f"foretune.cli.{name}.run_{name}", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    for page, (name, *rest) in _typed():
        found = root.commands.get(name)  # pyright: ignore[reportAttributeAccessIssue]
        assert found is not None, f"{page}: {name} {rest}"
        known = {option for each in found.params for option in (*each.opts, *each.secondary_opts)}
        options = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert options <= known, f"{page}: {name} {rest}"
        arguments = sum(each.param_type_name == "argument" and each.required for each in found.params)
        if len([word for word in rest if not word.startswith("-")]) >= arguments and not options & {
            "--from",
            "--config",
        }:
            try:
                app([name, *rest], standalone_mode=False)
            except Exception as error:
                raise AssertionError(f"{page}: foretune {name} {' '.join(rest)}: {error}") from error
