"""Every hint that the program can print works: its options and commands exist where they are printed."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from foretune.cli.app import app
from foretune.cli.foreign import INSTEAD, OFF, SAME
from tests.conftest import WORDS, assert_refused, many_rows, run_cli, write_jsonl

SOURCE = Path(__file__).parent.parent / "src" / "foretune"
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
EVERYWHERE = {"--help", "--debug", "--config", "--version"}
RUNNERS = {
    name: f"cli.{name}"
    for name in (
        "forecast", "kernel", "solve", "tune", "behaviour", "reproduce", "validate", "tasks", "show", "labels", "explain",
        "track",
    )
}  # fmt: skip
OTHERS = {
    "--find-links", "--no-deps", "--dest", "--only-binary", "--no-binary", "--index-url", "--upgrade", "--user",
    "--target", "--no-index", "--no-cache-dir", "--require-hashes", "--install", "--hash", "--python",
}  # fmt: skip
"""Options of pip and uv, whose commands some messages name."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def options(command: str) -> set[str]:
    """What can be typed after a command."""
    found = {name for parameter in COMMANDS[command].params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in found if name.startswith("-")} | EVERYWHERE


ALL = set().union(*(options(command) for command in COMMANDS))


def texts(file: Path) -> list[str]:
    """The strings of a file, without docstrings; the gaps of an f-string as a sign."""
    tree = ast.parse(file.read_text())
    documents = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
        elif isinstance(node, ast.List) and all(
            isinstance(word, ast.Constant | ast.Call | ast.JoinedStr) for word in node.elts
        ):
            found.append(" ".join(str(word.value) if isinstance(word, ast.Constant) else "\0" for word in node.elts))
            inside |= {*node.elts}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside | documents:
            found.append(node.value)
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of foretune that a module imports, anywhere in it, and theirs."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = SOURCE / f"{name.replace('.', '/')}.py"
        if name in seen or not file.exists():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foretune."):
                waiting.append(node.module.removeprefix("foretune."))
    return frozenset(seen)


FILES = sorted(file for file in SOURCE.rglob("*.py") if any(OPTION.search(text) for text in texts(file)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_option_in_a_message_is_one_of_a_command_that_prints_it(file: Path) -> None:
    module = str(file.relative_to(SOURCE).with_suffix("")).replace("/", ".")
    printing = [command for command, runner in RUNNERS.items() if module in imports(runner)] or list(COMMANDS)
    known = set().union(*(options(command) for command in printing))
    for text in texts(file):
        elsewhere = set().union(*(options(name) for name in COMMANDS if f"foretune {name}" in text))
        for option in OPTION.findall(text):
            assert option in known | elsewhere | OTHERS, (option, text)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_command_line_in_a_message_can_be_typed(file: Path) -> None:
    """`foretune NAME --option`: the command exists and has the options that follow it in the same quotation."""
    for text in texts(file):
        for line in re.findall(r"`(foretune [^`]+)`|(?:Next|Example): (foretune [^\n]+)", text):
            words = (line[0] or line[1]).split()
            if words[1].startswith(("-", "\0", "[")):  # a placeholder, or the pattern that finds commands
                continue
            assert words[1] in COMMANDS, text
            assert set(OPTION.findall(" ".join(words))) <= options(words[1]), text


def test_every_example_in_help_names_options_of_its_command() -> None:
    for name, command in COMMANDS.items():
        example = re.search(r"Example: foretune (\w+)(.*)", command.help or "", re.S)
        if example is not None:
            assert example[1] in (name, "behaviour")
            assert set(OPTION.findall(example[2])) <= options(name)


def test_options_of_other_programs_lead_to_ones_that_exist() -> None:
    for foreign, ours in {**SAME, **INSTEAD}.items():
        option = ours.split(",")[0] if foreign in INSTEAD else f"--{ours.replace('_', '-')}"
        assert option in ALL or not option.startswith("--"), ours
    assert not {f"--{foreign.replace('_', '-')}" for foreign in (*SAME, *OFF)} & (ALL - {"--optimizer"})


ELSEWHERE = {
    ("kernel", "--batch-size"): "It belongs to foretune forecast, foretune tune, foretune validate",
    ("kernel", "--max_steps"): "Here it is --steps, an option of foretune forecast, foretune tune",
    ("kernel", "--num_fewshot"): "Here it is --k, the number of training examples per label",
    ("tune", "--lora_dropout"): "--lora_dropout 1 is not supported",
    ("tune", "--warmup-ratio"): "Use --schedule",
    ("tune", "--optim"): "--optim '1' is not supported. Here the option is --optimiser; expected adamw, sgd, signgd",
    ("tune", "--gradient_accumulation_steps"): "Type the whole batch as --batch-size, and --micro-batches 1",
    ("kernel", "--warm-up"): "It belongs to foretune forecast, foretune validate",
    ("kernel", "--model"): "MODEL, the first argument",
    ("kernel", "--formulla"): "--formula",
}


@pytest.mark.parametrize("case", ELSEWHERE, ids=" ".join)
def test_an_option_of_another_program_or_command_is_answered_with_ours(case: tuple[str, str], tmp_path: Path) -> None:
    command, option = case
    result = run_cli(command, "minilm", "movies", option, 1, "--out", "x", cwd=tmp_path)
    assert_refused(result, ELSEWHERE[case])
    assert "Type" in result.stderr or "supported" in result.stderr or f"`foretune {command} --help`" in result.stderr


def test_wrong_commands_lead_to_the_help_that_exists() -> None:
    assert_refused(run_cli("forecats"), "No such command 'forecats'", "forecast", "See `foretune --help`.")
    assert_refused(run_cli("bogus"), "See `foretune --help`.")
    assert_refused(run_cli("--verbose"), "See `foretune --help`.")
    assert run_cli("behavior", "--help").returncode == 0


def hinted(text: str, pattern: str) -> str:
    found = re.search(pattern, " ".join(text.split()))
    assert found is not None, text
    return found[1]


def test_the_hinted_k_is_accepted(llama_folder: Path, data_file: Path) -> None:
    command = ("kernel", llama_folder, data_file, WORDS, "--test", 4, "--plan")
    refused = run_cli(*command, "--k", 50)
    assert run_cli(*command, "--k", hinted(refused.stderr, r"Use --k (\d+)")).returncode == 0


@pytest.mark.parametrize("budget", ["1KB", "1MB", "60MB", "97MiB"])
def test_the_hinted_memory_is_accepted(budget: str, llama_folder: Path, data_file: Path) -> None:
    command = ("kernel", llama_folder, data_file, WORDS, "--k", 2, "--test", 4, "--plan")
    refused = run_cli(*command, "--memory", budget)
    assert_refused(refused, "--memory")
    accepted = run_cli(*command, "--memory", hinted(refused.stderr, r"--memory ([\d.]+\w+)"))
    assert accepted.returncode == 0, (refused.stderr, accepted.stderr)


def test_the_examples_of_a_memory_budget_are_accepted(llama_folder: Path, data_file: Path) -> None:
    refused = run_cli("kernel", "m", "d", "--plan", "--memory", "lots")
    examples = re.findall(r"\d[\w.]*", hinted(refused.stderr, r"Write for example (.*)\."))
    assert len(examples) >= 2
    for example in examples:
        command = ("kernel", llama_folder, data_file, WORDS, "--k", 2, "--test", 4, "--plan", "--memory", example)
        assert run_cli(*command).returncode == 0, example


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_the_hinted_device_is_accepted(device: str, llama_folder: Path, data_file: Path) -> None:
    command = ("kernel", llama_folder, data_file, WORDS, "--k", 2, "--test", 4, "--plan", "--device")
    refused = run_cli(*command, device)
    if refused.returncode:
        assert_refused(refused, "Device", "cannot be used here")
        assert "Torch not compiled" not in refused.stderr
        assert run_cli(*command, hinted(refused.stderr, r"--device (\w+)")).returncode == 0


def test_the_hinted_range_of_layers_is_accepted(llama_folder: Path, data_file: Path) -> None:
    command = ("kernel", llama_folder, data_file, WORDS, "--k", 2, "--test", 4, "--plan", "--layers")
    refused = run_cli(*command, "1-0")
    assert run_cli(*command, hinted(refused.stderr, r"Write ([\d-]+\d)")).returncode == 0


def test_the_hinted_words_can_be_pasted(llama_folder: Path, tmp_path: Path) -> None:
    """Label names of several words: the hint quotes them, and names the way that needs no words at all."""
    file = tmp_path / "tickets.csv"
    rows = [f"good film number {n},{label}" for n in range(12) for label in ("billing issue", "log in")]
    file.write_text("text,label\n" + "\n".join(f"{n} {row}" for n, row in enumerate(rows)) + "\n")
    refused = run_cli("kernel", llama_folder, file, "--k", 2, "--test", 4, "--plan")
    assert_refused(refused, "--words", "--output head")
    result = run_cli("kernel", llama_folder, file, "--k", 2, "--test", 4, "--plan", "--output", "head")
    assert result.returncode == 0, result.stderr


def test_next_lines_can_be_typed(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    import shlex

    made = run_cli("kernel", llama_folder, data_file, WORDS, "--k", 2, "--test", 4, "--out", tmp_path / "a folder")
    words = shlex.split(hinted(made.stdout, r"Next: foretune (.*?) foretune show "))
    assert run_cli(*words).returncode == 0


def test_the_test_size_that_a_forecast_advises_can_be_typed_and_makes_the_score_as_sure_as_it_says(
    llama_folder: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "reviews.jsonl", many_rows(240))
    command = ("forecast", llama_folder, tmp_path / "reviews.jsonl", WORDS, "--k", 2, "--layers", 0, "--test")

    def said(test: int) -> tuple[str, float]:
        result = run_cli(*command, test, env={"COLUMNS": "80"})
        assert result.returncode == 0, result.stderr
        screen = " ".join(result.stdout.split())
        low, high = map(float, re.findall(r"95%: ([\d.]+) - ([\d.]+)", screen)[0])
        return screen.partition("How sure? ")[2], 50 * (high - low)

    sure, wide = said(16)
    found = re.match(r"16 test examples: ±(\d+) points, ±(\d+) with --test (\d+)\.", sure)
    assert found and abs(int(found[1]) - wide) <= 1 and int(found[2]) < int(found[1]), sure
    sure, narrow = said(int(found[3]))
    assert abs(narrow - int(found[2])) <= 2  # the score itself is another
    assert sure.startswith(f"{found[3]} test and 4 validation examples. ")  # no row is left
