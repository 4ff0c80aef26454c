"""What is installed from the wheel and the source archive is what runs from a checkout."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "foretune"


def shipped() -> set[str]:
    """Every file of the package that git knows or that will be added: code, tasks, schemas, templates, `py.typed`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/foretune"],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.removeprefix("src/") for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source archive, made by the project's own build backend."""
    folder = tmp_path_factory.mktemp("dist")
    made = {}
    for kind in ("wheel", "sdist"):
        code = f"import hatchling.build as b; print(b.build_{kind}({str(folder)!r}))"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        made[kind] = folder / result.stdout.split()[-1]
    return made


def test_the_wheel_holds_every_file_of_the_package(built: dict[str, Path]) -> None:
    held = {name for name in zipfile.ZipFile(built["wheel"]).namelist() if ".dist-info/" not in name}
    assert held == shipped()
    assert {"foretune/py.typed", "foretune/text/tasks/movies.yaml"} <= held


def test_the_source_archive_holds_the_package_and_what_builds_it(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in shipped()} <= held
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= held


def test_the_wheel_runs_where_only_its_dependencies_are(built: dict[str, Path], tmp_path: Path) -> None:
    """From the files of the wheel alone, away from the checkout."""
    zipfile.ZipFile(built["wheel"]).extractall(tmp_path / "site")  # noqa: S202 - our own wheel
    code = (
        "import sys; sys.path.insert(0, 'site'); import foretune; assert '/site/' in foretune.__file__;"
        "from foretune.cli.main import main; sys.argv[1:] = {!r}; main()"
    )
    for arguments in (["tasks", "rte"], ["schema", "forecast"]):
        command = [sys.executable, "-c", code.format(arguments)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_every_public_name_can_be_imported() -> None:
    foretune = importlib.import_module("foretune")
    assert all(getattr(foretune, name) is not None for name in foretune.__all__)
