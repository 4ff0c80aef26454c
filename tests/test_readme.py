"""What the README shows works as printed."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from foretune.cli import options, study_options, tuning_options
from tests.conftest import many_rows, run_cli

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_library_example_runs_and_its_comments_hold() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names: dict[str, object] = {}
    exec(block, names)  # noqa: S102 - our own README
    kernel = names["K"]
    assert kernel.array.shape == (272, 8, 1, 8, 1)
    assert kernel.select("*layers.3.*").matrix().shape == (8, 8)
    assert kernel.select("*q_proj*").total().shape == (8, 1, 8, 1)
    assert names["kernels"]["lora-r8"].array.shape == (60, 8, 1, 16, 1)
    assert names["features"].shape == (8, 1, 256)


def test_the_lines_on_ones_own_file_work_as_printed(llama_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    """On one made-up file, with tiny models instead of the printed ones, up to the point where time is spent."""
    lines = [line.split("#")[0].split()[2:] for line in (ROOT / "README.md").read_text().splitlines()
             if line.startswith("$ foretune") and "reviews.csv" in line]  # fmt: skip
    assert len(lines) >= 3
    stars = {"positive": "good", "negative": "bad"}
    rows = [f'"{row["text"]} {number}",{stars[row["label"]]}' for number, row in enumerate(many_rows(400))]
    (tmp_path / "reviews.csv").write_text("\n".join(["body,stars", *rows]) + "\n")
    models = {"smollm2": llama_folder, "minilm": bert_folder, "./my-model": bert_folder}
    for command, model, *rest in lines:
        result = run_cli(command, models[model], *rest, "--plan", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "Read     reviews.csv: 400 rows" in result.stdout


def test_every_option_in_the_readme_exists() -> None:
    modules = (options, study_options, tuning_options)
    groups = [group for module in modules for group in vars(module).values() if is_dataclass(group)]
    known = {f"--{field.name.replace('_', '-')}" for group in groups for field in fields(group)}
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("$ foretune")]
    assert len(commands) >= 6
    for line in commands:
        assert set(re.findall(r"(--[a-z][a-z0-9-]*)", line)) <= known, line
