"""A module imports from lower layers or its own folder only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "foretune"
LAYERS = [
    "errors",
    "shapes",
    "naming",
    "page",
    "progress",
    "store",
    "text",
    "model",
    "gradients",
    "kernels",
    "analysis",
    "finetune",
    "experiment",
    "candidates",
    "behaviour",
    "forecast",
    "validate",
    "reproduce",
    "pages",
    "cli",
]
MODULES = sorted(file for file in SOURCE.rglob("*.py") if file.parent != SOURCE)


def imported(file: Path) -> list[str]:
    """Modules of foretune that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "foretune":
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "foretune"]
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_to_lower_layers(file: Path) -> None:
    own = file.relative_to(SOURCE).parts[0]
    for module in imported(file):
        parts = module.split(".")
        if len(parts) == 1:
            assert own == "cli", f"{file} imports the package root"
            continue
        assert LAYERS.index(parts[1]) <= LAYERS.index(own), f"{file} imports {module}"


def test_analysis_knows_no_model_and_only_edges_print() -> None:
    for file in MODULES:
        layer = file.relative_to(SOURCE).parts[0]
        names = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
        if layer != "cli":
            assert "print" not in names, file
        if layer == "analysis":
            lower = {module.split(".")[1] for module in imported(file)}
            assert lower <= {"errors", "shapes", "naming", "analysis"}, file


def test_only_pages_imports_rich() -> None:
    for file in MODULES:
        modules = [
            name
            for node in ast.walk(ast.parse(file.read_text()))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        ]
        if file.relative_to(SOURCE).parts[0] != "pages":
            assert not any(name.split(".")[0] == "rich" for name in modules), file


def test_modules_stay_short() -> None:
    for file in MODULES:
        assert len(file.read_text().splitlines()) <= 400, file
