"""What a fork would run elsewhere: every step names what is there, and every shell line can be read."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert set(found) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads `on` as true
    return found["jobs"]


STEPS = [
    (f"{file.stem}-{name}", step) for file in WORKFLOWS for name, job in jobs(file).items() for step in job["steps"]
]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_job_has_a_machine_a_limit_or_waits_for_one_that_is_there(file: Path) -> None:
    found = jobs(file)
    for job in found.values():
        assert job["runs-on"] == "ubuntu-latest"
        assert "timeout-minutes" in job or {job["needs"]} <= set(found)


@pytest.mark.parametrize(("job", "step"), STEPS)
def test_a_step_uses_an_action_of_a_named_version_or_a_line_that_the_shell_reads(
    job: str, step: dict[str, Any]
) -> None:
    if "uses" in step:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
        return
    read = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True, check=False)  # noqa: S607
    assert read.returncode == 0, read.stderr
    for target in re.findall(r"^make (\w+)", step["run"], re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for script in re.findall(r"^\.ci/\w+", step["run"], re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK)


def test_the_suite_with_a_browser_is_what_a_change_must_pass() -> None:
    job = jobs(ROOT / ".github" / "workflows" / "tests.yml")["tests"]
    assert job["env"]["FORETUNE_BROWSER_TESTS"] == "1"
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_a_change_is_linted_tested_and_documented_each_once() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert targets == ["lint", "test", "docs"]
    made = {
        target: subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607
        for target in targets
    }
    assert [target for target in targets if "pytest" in made[target]] == ["test"]
    assert "--jaxtyping-packages" in made["test"] and '-m "not sweep"' in made["test"]


def test_the_image_copies_what_is_there_and_what_is_not_ignored() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", DOCKER, re.MULTILINE) for name in line.split()]
    assert {"pyproject.toml", "constraints.txt", "src"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists() and name not in ignored
    for line in re.findall(r"^RUN (.*)$", DOCKER, re.MULTILINE):
        assert subprocess.run(["bash", "-n"], input=line, text=True, check=False).returncode == 0  # noqa: S607
    assert DOCKER.index("USER reader") > DOCKER.index("RUN useradd")
