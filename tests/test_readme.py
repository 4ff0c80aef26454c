"""What the README shows works as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


def test_every_option_in_the_readme_exists() -> None:
    from foretune.cli.settings import Settings

    known = {f"--{name.replace('_', '-')}" for name in Settings.__dataclass_fields__}
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("$ foretune")]
    assert len(commands) >= 6
    for line in commands:
        assert set(re.findall(r"(--[a-z][a-z0-9-]*)", line)) <= known, line
