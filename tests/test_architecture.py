"""A module imports from lower layers or its own folder only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from benchmarks.architecture import FLOORS, picture, rooms_used

SOURCE = Path(__file__).parent.parent / "src" / "foretune"
LAYERS = [
    "errors",
    "shapes",
    "naming",
    "page",
    "progress",
    "store",
    "work",
    "text",
    "model",
    "gradients",
    "kernels",
    "analysis",
    "finetune",
    "experiment",
    "candidates",
    "regime",
    "labelling",
    "forecasting",
    "validation",
    "papers",
    "handover",
    "pages",
    "cli",
    "library",
]
PICTURE = SOURCE.parent.parent / "docs" / "architecture.svg"
EVERY = sorted(SOURCE.rglob("*.py"))
MODULES = [file for file in EVERY if file.parent != SOURCE]


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
            assert own in ("cli", "library"), f"{file} imports the package root"
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


def test_dense_linear_algebra_is_that_of_numpy_alone() -> None:
    """Scipy brings a library of its own, whose threads wait by running and take the cores from numpy's."""
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("scipy.linalg") for alias in node.names), file
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scipy"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert not any(name.startswith("scipy.linalg") for name in names - {"scipy.linalg.hadamard"}), file
            elif isinstance(node, ast.Attribute):
                assert ast.unparse(node) != "scipy.linalg", file


def test_every_command_hands_on_how_much_progress_was_asked_for() -> None:
    calls = [
        node
        for file in (SOURCE / "cli").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "progress_console"
    ]
    given = [{keyword.arg: keyword.value for keyword in call.keywords} for call in calls]
    asked = [each for each in given if not isinstance(each.get("quiet"), ast.Constant)]  # a function is always quiet
    assert len(asked) > 8
    assert all({"quiet", "verbose"} <= set(each) for each in asked)


def test_no_class_and_no_public_function_has_two_homes() -> None:
    homes: dict[str, list[str]] = {}
    for file in EVERY:
        place = str(file.relative_to(SOURCE))
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(place)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_the_picture_shows_the_rooms_as_they_are() -> None:
    shown = [name for floor in reversed(FLOORS) for rooms, _ in floor for name in rooms.split(", ")]
    rooms = {file.relative_to(SOURCE).parts[0] for file in MODULES}
    assert rooms <= set(shown)
    assert picture(rooms_used()) == PICTURE.read_text()


@pytest.mark.parametrize("room", sorted(rooms_used()))
def test_a_new_or_a_lost_import_between_rooms_changes_the_picture(room: str) -> None:
    used = rooms_used()
    others = [name for floor in FLOORS for rooms, _ in floor for name in rooms.split(", ")]
    assert set(used[room]) <= set(others)
    new = next((name for name in others if name not in (room, *used[room])), None)
    for changed in (used[room][1:], *([] if new is None else [(*used[room], new)])):
        if changed != used[room]:
            assert picture({**used, room: changed}) != PICTURE.read_text()


def test_modules_stay_short() -> None:
    for file in MODULES:
        assert len(file.read_text().splitlines()) <= 400, file


def code_lines(node: ast.FunctionDef) -> int:
    """Lines of a function without its signature and its docstring: a list of options declares, it does nothing."""
    told = ast.get_docstring(node) is not None
    does = node.body[told:]
    return (node.end_lineno or 0) - does[0].lineno + 1 if does else 0


def test_functions_stay_short() -> None:
    for file in EVERY:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert code_lines(node) <= 50, f"{file}: {node.name} does too much: which object is missing?"


def above(layer: str) -> list[Path]:
    """The modules of the layers above one."""
    first = LAYERS.index(layer) + 1
    return [file for file in MODULES if LAYERS.index(file.relative_to(SOURCE).parts[0]) >= first]


def calls(file: Path) -> set[str]:
    """The names of what a file calls."""
    found = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in found}


def test_above_finetune_only_experiments_read_data_and_ask_models() -> None:
    builders = {"load_data", "HeadLogits", "AnswerLogits"}
    found = {file.relative_to(SOURCE).parts[0] for file in above("finetune") if calls(file) & builders}
    assert found == {"experiment"}


def identities(node: ast.AST) -> set[str]:
    """What a part of an expression names of identities and their hashes."""
    named = {getattr(each, "attr", getattr(each, "id", getattr(each, "value", ""))) for each in ast.walk(node)}
    return {"identity", "identity_hash", "hash"} & {name for name in named if isinstance(name, str)}


def test_only_kept_compares_identities() -> None:
    for file in MODULES:
        if file.relative_to(SOURCE) == Path("store/kept.py"):
            continue
        tree = ast.parse(file.read_text())
        compared = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Compare) and identities(node)]
        assert not compared, f"{file} compares identities at {compared}"
        assert "identity_difference" not in calls(file), file


QUESTIONS = {"forecasting": ("labelling",), "labelling": (), "regime": (), "validation": (), "papers": ("regime",)}
"""The rooms of questions -> those that they may import: a forecast says what its rows say of their labels, and the measures
of kernel behaviour are what papers print."""


@pytest.mark.parametrize("room", QUESTIONS)
def test_questions_do_not_import_each_other(room: str) -> None:
    for file in (SOURCE / room).rglob("*.py"):
        others = {module.split(".")[1] for module in imported(file)} & QUESTIONS.keys() - {room}
        assert others <= set(QUESTIONS[room]), f"{file} imports {others}"


def test_no_function_of_experiments_takes_more_than_five_values() -> None:
    for file in (SOURCE / "experiment").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                taken = [
                    each.arg for each in (*node.args.args, *node.args.kwonlyargs) if each.arg not in ("self", "cls")
                ]
                assert len(taken) <= 5, f"{file}: {node.name} takes {taken}"
