"""What is installed from the wheel and the source archive is what runs from a checkout."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import foretune

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


def test_the_version_is_one() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == foretune.__version__


def test_a_run_from_the_sources_alone_has_their_version(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    """With PYTHONPATH only, where no distribution of foretune is installed."""
    code = """
import importlib.metadata, runpy, sys
from_distribution = importlib.metadata.distribution
def distribution(name):
    if name == "foretune":
        raise importlib.metadata.PackageNotFoundError(name)
    return from_distribution(name)
importlib.metadata.distribution = distribution
sys.argv[0] = "foretune"
runpy.run_module("foretune")
"""
    command = ("kernel", bert_folder, data, "--k", 2, "--test", 4, "--out", "out", "--json", "kernel.json")
    ran = subprocess.run([sys.executable, "-c", code, *map(str, command)], cwd=tmp_path, capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "out" / "experiment.json").read_text())
    shown = json.loads((tmp_path / "kernel.json").read_text())
    assert record["foretune"] == shown["about"]["versions"]["foretune"] == foretune.__version__


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


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_uv_makes_an_environment_without_pip_in_which_a_built_in_model_is_fetched(
    kind: str, built: dict[str, Path], tmp_path: Path
) -> None:
    uv = Path(sys.executable).with_name("uv")
    home = tmp_path / "fresh"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    if "PIP_FIND_LINKS" in environment:  # uv does not read the settings of pip
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])
    where = ["--python", str(home / "bin" / "python")]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--quiet", *where, "-c", str(ROOT / "constraints.txt"), str(built[kind])],
        [
            str(home / "bin" / "foretune"),
            "forecast",
            "bert-tiny",
            "movies",
            "--k",
            "8",
            "--test",
            "32",
            "--layers",
            "1",
        ],
    ):
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert not list((home / "bin").glob("pip*"))


def test_every_public_name_can_be_imported() -> None:
    foretune = importlib.import_module("foretune")
    assert all(getattr(foretune, name) is not None for name in foretune.__all__)
