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
from tests.conftest import many_rows, run_cli, run_code
from tests.printed import ROOT, Step, pages, steps, words

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


def _commands() -> list[tuple[str, str]]:
    return [(named(page), step.text) for page in PAGES for step in steps(page) if step.kind == "command"]


def test_every_printed_command_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretune.cli.app import app

    root = typer.main.get_command(app)
    monkeypatch.chdir(tmp_path)
    for page, line in _commands():
        program, *rest = words(line)
        if program == "foretune":
            found = root.commands.get(rest[0])  # pyright: ignore[reportAttributeAccessIssue]
            assert found is not None, f"{page}: {line}"
            known = {name for each in found.params for name in (*each.opts, *each.secondary_opts)}
            assert {word.partition("=")[0] for word in rest[1:] if word.startswith("-")} <= known, f"{page}: {line}"
