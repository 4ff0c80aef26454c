"""Shared fixtures: the command line as a process, tiny model folders, and an offline hub."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: pytest-xdist has a process on each core
import torch

from tests.cases import FAMILIES, ROWS, Family, tokenizer
from tests.command_line import Call, Processes

PROCESSES = Processes()


def pytest_unconfigure() -> None:
    PROCESSES.close()


def family(name: str) -> Family:
    return next(f for f in FAMILIES if str(f) == name)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory):
    """A function that saves a tiny model of a family as a safetensors folder."""

    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        family(name).build().to(torch.float32).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def llama_folder(model_folder) -> Path:
    return model_folder("llama-causal")


@pytest.fixture(scope="session")
def bert_folder(model_folder) -> Path:
    return model_folder("bert-encoder")


def many_rows(count: int = 40) -> list[dict[str, str]]:
    """Different short texts with both labels."""
    texts = []
    for number in range(count):
        row = ROWS[number % len(ROWS)]
        words = row["text"].split()
        extra = ["film", "movie", "plot", "story", "actor", "scene", "slow", "fast"]
        texts.append({"text": " ".join([*words, extra[number % 8], extra[number // 8 % 8], extra[number // 3 % 8]]),
                      "label": row["label"]})  # fmt: skip
    return texts


def jsonl(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as JSON, one per line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_jsonl(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Rows into a file, one per line."""
    file.write_text(jsonl(rows))


@pytest.fixture(scope="session")
def mr_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks with made-up rows as mr."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mr").mkdir()
    write_jsonl(folder / "mr" / "train.jsonl", many_rows(60))
    return folder


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.jsonl"
    write_jsonl(file, many_rows())
    return file


def run_cli(
    *arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m foretune` with these arguments."""
    return PROCESSES.result(Call([*map(str, arguments)], changes=env or {}, cwd=str(cwd or "")))


def run_code(code: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -c` with these arguments."""
    return PROCESSES.result(Call([*map(str, arguments)], code, cwd=str(cwd or "")))


def assert_valid(kind: str, record: dict) -> None:
    """See that a record is what the shipped schema says of its kind."""
    from foretune.pages.schema import document_model

    assert record["kind"] == kind
    document_model(kind).model_validate(record)


def assert_refused(result: subprocess.CompletedProcess[str], *said: int | str | re.Pattern[str]) -> None:
    """A command said no as it should: one message and nothing on standard output.

    Args:
        result: what came of it.
        said: words or patterns of the message; among them the exit code, where it matters which of 1 and 2 it is.
    """
    assert result.returncode in ([code for code in said if isinstance(code, int)] or (1, 2)), (
        result.stdout + result.stderr
    )
    assert not result.stdout.strip(), result.stdout
    for never in ("Traceback", "This is not expected"):
        assert never not in result.stderr, result.stderr
    messages = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("Note: ")]
    assert len(messages) == 1 and messages[0].startswith("Error: "), result.stderr
    for word in said:
        found = (
            word.search(messages[0]) if isinstance(word, re.Pattern) else isinstance(word, int) or word in messages[0]
        )
        assert found, result.stderr


def interruptible() -> None:
    """In a child process before it starts: Ctrl-C arrives, also where the tests' own process was told to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


WORDS = "--words=negative=terrible,positive=great"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of made-up rows, two labels."""
    file = tmp_path_factory.mktemp("rows") / "data.jsonl"
    write_jsonl(file, many_rows())
    return file
