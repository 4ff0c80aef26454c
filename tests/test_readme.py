"""What the README shows works as printed."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from foretune.cli import options

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


def test_every_option_in_the_readme_exists() -> None:
    groups = [group for group in vars(options).values() if is_dataclass(group)]
    known = {f"--{field.name.replace('_', '-')}" for group in groups for field in fields(group)}
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("$ foretune")]
    assert len(commands) >= 6
    for line in commands:
        assert set(re.findall(r"(--[a-z][a-z0-9-]*)", line)) <= known, line
