"""What is wrong with places and data is said at once: before torch is imported, and without a minute of questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from foretune.errors import DataError
from foretune.store.hub import hub_answers
from foretune.text.rows import read_rows
from tests.command_line import ENVIRONMENT, ROOT
from tests.conftest import assert_refused

HEAVY = """
import sys
from foretune.cli.main import main
try:
    main()
finally:
    assert not {"torch", "transformers", "sklearn", "datasets"} & set(sys.modules), "a heavy module was imported"
"""
MISTAKES: dict[str, tuple[tuple[object, ...], str]] = {
    "forecast, column": (("forecast", "M", "rows.csv", "--text", "body"), "no column 'body'"),
    "forecast, no file": (("forecast", "M", "rows.jsonl"), "this file does not exist"),
    "forecast, few": (("forecast", "M", "rows.csv", "--k", 30), "Use --k 1"),
    "forecast, json": (("forecast", "M", "rows.csv", "--json", "rows.csv"), "is a file that this command reads"),
    "kernel, label": (("kernel", "M", "rows.csv", "--label", "class", "--out", "o"), "no column 'class'"),
    "tune, labels": (("tune", "M", "rows.csv", "--labels", "good,bad", "--out", "o"), "no row of rows.csv has it"),
    "tune, out": (("tune", "M", ".", "--out", "o"), "Nothing is written into such a folder"),
    "validate, column": (("validate", "M", "--tasks", "mr", "--data", "data"), "train.csv has no column 'text'"),
    "validate, folder": (("validate", "M", "--tasks", "sst2", "--data", "data"), "no folder 'sst2'"),
    "reproduce, column": (("reproduce", "malladi-4", "--tasks", "mr", "--data", "data"), "has no column 'text'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_wrong_data_is_said_before_torch_is_imported(case: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"film {n},{'ab'[n % 2]}\n" for n in range(6)))
    (tmp_path / "data" / "mr").mkdir(parents=True)
    (tmp_path / "data" / "mr" / "train.csv").write_text("review,label\ngood,positive\nbad,negative\n")
    arguments, message = MISTAKES[case]
    result = subprocess.run(
        [sys.executable, "-c", HEAVY, *map(str, arguments)],
        capture_output=True, text=True, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT / "src")}, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert_refused(result, 2, message)


def test_a_data_set_of_the_hub_without_a_network_is_one_short_question(tmp_path: Path) -> None:
    """Nothing answers at the address: its client alone would ask for most of a minute."""
    code = "from foretune.text.rows import read_rows; read_rows('owner/name')"
    changes = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **changes}, check=False
    )
    assert "the hub cannot be reached, and the local cache of datasets has no copy" in result.stderr
    assert time.monotonic() - start < 25  # most of it imports, on a busy machine


def test_the_hub_is_asked_once_for_all_splits_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    session = SimpleNamespace(head=lambda place, timeout: asked.append((place, timeout)))
    monkeypatch.setattr("huggingface_hub.get_session", lambda: session)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://one.test")
    monkeypatch.setattr("foretune.store.hub.time", SimpleNamespace(monotonic=lambda: 600.0))
    assert (hub_answers(), hub_answers(), len(asked)) == (True, True, 1)
    monkeypatch.setattr("foretune.store.hub.time", SimpleNamespace(monotonic=lambda: 661.0))
    assert (hub_answers(), len(asked)) == (True, 2)


def test_a_copy_in_the_local_cache_is_read_where_the_hub_does_not_answer_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"film {n}", "label": n % 2} for n in range(6)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "made"))
    (made,) = (path for path in (tmp_path / "made").glob("parquet/*/*/*") if path.is_dir())
    place = tmp_path / "hub" / "owner___name" / "default" / "0.0.0" / "abc"
    place.mkdir(parents=True)
    for file in made.iterdir():
        (place / file.name.replace("parquet-", "name-")).write_bytes(file.read_bytes())
    about = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps({**about, "dataset_name": "name", "config_name": "default"}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr("foretune.text.rows.hub_answers", lambda: False)
    found = read_rows("owner/name", revision="v2")
    assert list(found) == rows
    (note,) = found.notes
    assert note == (
        "The hub cannot be reached: owner/name is the copy in the local cache, which may be of another revision than v2."
    )
    with pytest.raises(DataError, match="the local cache of datasets has no copy"):
        read_rows("owner/other")
