"""Terminals of all widths, pipes, full disks and interruptions; text of others reaches the screen as text."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.main import get_command

import foretune
from foretune.cli.app import app
from foretune.naming import one_line, visible
from foretune.page import Column, Table, short_count
from foretune.pages import progress
from foretune.pages.console import PlainConsole
from foretune.pages.layout import draw
from foretune.pages.progress import busy, progress_bar
from tests.command_line import ENVIRONMENT
from tests.conftest import WORDS, assert_refused, interruptible, run_cli, run_code

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
WIDTHS = (40, 80, 90, 100, 120, 200)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?[kMB]?")
COLUMNS = [
    Column("", words=True), Column("blocks", words=True), Column("method", words=True),
    Column("trained", drop=1, words=False),
    Column("loss"), Column("95% spread", drop=2), Column("risk", drop=4), Column("rate", drop=3), Column("accuracy"),
]  # fmt: skip
NAMES = ("layer.3", "transformer.encoder.transformer_blocks.117.attention.self_attention.query", "評価" * 20, "x" * 90)
ROWS = [
    ("*=", name, "LoRA rank 4 + head", f"{count}k", f"{0.1 + count / 7:.3f}", f"{0.2:.2f} - {0.85:.2f}",
     f"{0.024 * count:.3f}", f"{31000 * count:.1e}", f"{1 / count:.3f}")
    for count, name in enumerate(NAMES, 1)
]  # fmt: skip


def drawn(width: int, columns: list[Column], rows: list[tuple[str, ...]]) -> str:
    file = io.StringIO()
    console = PlainConsole(file=file, width=width)
    page = Table(tuple(columns), tuple(rows), "A title that is somewhat long, with 12 numbers")
    console.print(draw(console, page, elsewhere="--json"))
    return file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_too_wide_and_every_number_is_whole_or_left_out(width: int) -> None:
    text = drawn(width, COLUMNS, ROWS)
    made = {number for row in ROWS for cell in row for number in NUMBER.findall(cell)} | {"12", "95"}
    assert set(NUMBER.findall(text)) <= made
    for row in ROWS:
        assert row[4] in text and row[8] in text  # the columns that are never left out
    assert max(cell_len(line) for line in text.splitlines()) <= width
    left_out = re.search(r"Left out at this width: ([^.]*)\.", " ".join(text.split()))
    shown = [column.heading for column in COLUMNS if left_out is None or column.heading not in left_out[1]]
    assert all(re.search(rf"\b{re.escape(heading)}\b", text) for heading in shown if heading)


def test_a_wide_terminal_shows_all_columns_and_a_narrow_one_names_those_left_out() -> None:
    assert "Left out" not in drawn(200, COLUMNS, ROWS[:1])
    assert "risk" in drawn(80, COLUMNS, ROWS).split("Left out at this width:")[1]


def test_long_names_are_folded_between_their_parts() -> None:
    text = drawn(80, [Column("block", words=True), Column("value")], [(NAMES[1], "0.123")])
    assert "117" in text and "…" not in text


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1000, "1k"), (999_499, "999k"), (999_600, "1M"), (162_816, "163k"), (999_999_999, "1B"),
     (134_515_008, "135M"), (7_000_000_000, "7B"), (999_600_000_000, "1,000B"), (1_234_567_890_123, "1,235B")],
)  # fmt: skip
def test_counts_have_three_digits_and_a_unit(count: int, shown: str) -> None:
    assert short_count(count) == shown


HOSTILE = ("[red]", "[/x]", "[bold]a[/bold]", "\x1b[31mred\x1b[0m", "bell\x07", "a\rb", "\u202eevil", ":smile:")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_others_is_shown_and_not_obeyed(text: str) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=80, force_terminal=True, color_system="standard", no_color=True)
    console.print(f"name {text}", highlight=False)
    console.print(draw(console, Table((Column(text, words=True),), ((text,),), text)))
    shown = re.sub("\x1b\\[[0-9;]*m", "", file.getvalue().replace("\x1b[31m", "OBEYED"))
    assert "OBEYED" not in shown and not set(shown) & {"\x1b", "\x07", "\r", "\u202e"}
    assert shown.count(visible(text)) >= 4


def test_what_a_terminal_would_obey_becomes_an_escape() -> None:
    assert visible("a\x1b[0m\x07\u202e\ud800\x85b") == r"a\x1b[0m\x07\u202e\ud800\x85b"
    assert visible("tab\tline\nčeské 評価 👩‍🔬 [x]") == "tab\tline\nčeské 評価 👩‍🔬 [x]"
    assert one_line("first\n   second\r\nthird\u2028") == "first second third"


PROMPTS = {
    "llama": "[INST] {text} [/INST] {mask}",
    "closing": "{text} [/x] {mask}",
    "colour": "[red]{text} it was {mask}",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_with_brackets_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(
        f'name: "[/x]{name}"\nlabels: ["[red]", "[/b]"]\ntemplate: "{PROMPTS[name]}"\n'
        'words: {"[red]": terrible, "[/b]": great}\nabout: "[bold]a[/bold] task"\n'
    )
    result = run_cli("tasks", file)
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    for part in (PROMPTS[name], "[/x]", "[red]: terrible", "[bold]a[/bold]"):
        assert part in shown, result.stdout


def test_escapes_in_a_task_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text('name: "\\e[31mred\\e[0m"\nlabels: ["bad\\a", good]\ntemplate: "{text} {mask}"\n')
    result = run_cli("tasks", file)
    assert "\x1b" not in result.stdout + result.stderr and "\x07" not in result.stdout + result.stderr


@pytest.mark.slow
def test_every_command_takes_paths_with_brackets(
    bert_folder: Path, data_file: Path, mr_data: Path, tmp_path: Path
) -> None:
    """Brackets in the names of the model, the data and the output folder: the paths on the screen are the real ones."""
    place = tmp_path / "[red]a[" / "x]"  # the whole path holds [red] and [/x]
    model, data, out = place / "[bold]m", place / "[d].jsonl", place / "[red]o"
    place.mkdir(parents=True)
    shutil.copytree(bert_folder, model)
    shutil.copy(data_file, data)
    small = ("--k", 4, "--test", 6)
    calls = [
        ("kernel", model, data, *small, "--out", out / "k"),
        ("solve", out / "k"),
        ("tune", model, data, *small, "--steps", 2, "--out", out / "t"),
        ("behaviour", out / "t"),
        ("forecast", model, data, *small, "--json", out / "f.json"),
        ("validate", model, "--tasks", "mr", "--data", mr_data, "--k", 4, "--test", 8, "--epochs", 1, "--method", "ft",
         "--learning-rates", "1e-3", "--candidates", "*", "--out", out / "v"),
    ]  # fmt: skip
    for call in calls:
        result = run_cli(*call)
        assert result.returncode == 0, (call[0], result.stderr)
        assert "MarkupError" not in result.stderr
    kernel = run_cli(*calls[0])
    assert "[red]o/k" in "".join(kernel.stdout.split("\n")), kernel.stdout
    assert f"foretune solve '{out / 'k'}'" in kernel.stdout  # quoted, so that it can be pasted


def test_version_and_help_need_nothing() -> None:
    shown = run_cli("--version")
    assert (shown.returncode, shown.stdout) == (0, f"foretune {foretune.__version__}\n")
    bare = run_cli()
    assert (bare.returncode, bare.stderr) == (2, "") and "Commands" in bare.stdout
    assert "--install-completion" in run_cli("--help").stdout


def test_a_full_disk_behind_standard_output_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "foretune", "tasks"], stdout=full, stderr=subprocess.PIPE, text=True,
            env=ENVIRONMENT, check=False,
        )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("Error: cannot use standard output") and len(result.stderr.splitlines()) == 1
    assert "disk is full" in result.stderr


def test_a_closed_pipe_ends_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "foretune", "tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_control_c_during_the_imports_is_an_interruption() -> None:
    code = (
        "import builtins, sys\nreal = builtins.__import__\n"
        "def slow(name, *rest):\n    if name.startswith('typer'): raise KeyboardInterrupt\n    return real(name, *rest)\n"
        "builtins.__import__ = slow\nsys.modules.pop('typer', None); sys.modules.pop('foretune.cli.app', None)\n"
        "sys.argv = ['foretune', 'tasks']\nfrom foretune.cli.main import main\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (result.returncode, result.stderr) == (130, "Stopped. Nothing was written.\n")


def test_a_second_control_c_while_the_first_is_answered_changes_nothing() -> None:
    code = (
        "import os, signal, sys\nimport foretune.cli.app, foretune.cli.main as command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def app(**_): raise KeyboardInterrupt\n"
        "def said(text): os.kill(os.getpid(), signal.SIGINT); return text\n"
        "foretune.cli.app.app, command.one_line = app, said\nsys.argv = ['foretune', 'validate']\ncommand.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (result.returncode, result.stderr) == (130, "Stopped. Repeat the same command to go on where it stopped.\n")


def test_control_c_in_a_destructor_where_python_drops_it_ends_the_command() -> None:
    code = (
        "import os, signal, sys, time\nimport foretune.cli.app, foretune.cli.main as command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Dying:\n    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.5)\n"
        "def app(**_):\n    Dying()\n    time.sleep(20)\n    return 0\n"
        "foretune.cli.app.app = app\nsys.argv = ['foretune', 'validate']\ncommand.main()"
    )
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (result.returncode, result.stderr) == (130, "Stopped. Repeat the same command to go on where it stopped.\n")
    assert time.monotonic() - start < 19


def test_control_c_ends_with_130(llama_folder: Path, data_file: Path) -> None:
    command = ["-m", "foretune", "kernel", llama_folder, data_file, WORDS, "--k", "4", "--plan"]
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, preexec_fn=interruptible,
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stderr.readline()  # Python has begun, and the command too
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("Stopped.") and "Traceback" not in errors


RAISED = {
    "torch": ('RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory: you tried")', "out of memory"),
    "cuda": ("RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "out of memory"),
    "memory": ("MemoryError()", "out of memory"),
    "end": ("EOFError('No data left in file')", "ends too early"),
    "deep": ("RecursionError('maximum recursion depth exceeded')", "nested too deeply"),
    "name": ("OSError(36, 'File name too long', 'x' * 9)", "'xxxxxxxxx': File name too long. Choose a shorter name"),
    "disk": ("OSError(28, 'No space left on device', 'f')", "The disk is full"),
    "json": ("__import__('json').JSONDecodeError('Extra data', 'x', 0)", "damaged, incomplete or of another kind"),
    "unicode": ("'\\ud800'.encode()", "cannot be written as UTF-8"),
    "package": ("ModuleNotFoundError(\"No module named 'ray'\", name='ray')", "python -m pip install ray"),
    "lines": ("ValueError('one\\n  two')", "ValueError: one"),
}


@pytest.mark.parametrize("case", RAISED)
def test_an_error_of_a_library_is_one_message_with_its_meaning(case: str) -> None:
    raised, said = RAISED[case]
    code = (
        f"import sys, foretune.cli.env as l\ndef env():\n    raise {raised}\nl.run_env = env\n"
        "sys.argv = ['foretune', 'env']\nfrom foretune.cli.main import main\nmain()"
    )
    result = run_code(code)
    if case == "lines":
        assert result.stderr.splitlines() == [result.stderr.strip()] and "not expected" in result.stderr
    else:
        assert_refused(result, said)


def recorded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return PlainConsole(file=file, width=80), file


def test_a_pipe_gets_a_line_for_each_stage_and_one_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    console, file = recorded(clock, monkeypatch)
    with busy(console, "load the model"):
        pass
    with progress_bar(console) as report:
        for step in range(100):
            clock[0] += 7.0
            report("kernel blocks", step, 100)
    lines = file.getvalue().splitlines()
    assert all(re.match(r"Note: \d\d:\d\d:\d\d ", line) for line in lines)
    assert lines[0].endswith("load the model") and lines[1].endswith("kernel blocks")
    assert len(lines) - 2 == 11  # 99 steps of 7 s, a line each 63 s
    assert lines[-1].endswith("kernel blocks 99 of 100, about 7 s left")


def test_a_pipe_is_told_of_work_that_takes_longer_than_a_minute_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    console, file = recorded(clock, monkeypatch)
    with progress_bar(console) as report:
        report("kernel blocks", 1, 4)
        for minute in range(1, 4):
            clock[0] = 61.0 * minute
            report.remind()  # type: ignore[attr-defined]
            report.remind()  # type: ignore[attr-defined]
        report("kernel blocks", 4, 4)
        clock[0] += 300
        report.remind()  # type: ignore[attr-defined]
    lines = [line[15:] for line in file.getvalue().splitlines()]
    assert lines == ["kernel blocks", *["kernel blocks 1 of 4, still at it"] * 3]


@pytest.mark.parametrize("terminal", [False, True])
def test_verbose_progress_is_told_more_often_and_ends_each_stage(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, file = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    console = PlainConsole(file=file, width=80, verbose=True, force_terminal=terminal)
    with busy(console, "load the model"):
        clock[0] += 5
    with progress_bar(console) as report:
        for step in range(11):
            clock[0] += 7.0
            report("kernel blocks", step, 10)
    said = file.getvalue()
    assert "load the model: done in 5 s" in said and "kernel blocks: done in 1 min" in said
    if not terminal:
        assert said.count(" of 10, about") == 5  # a line each 14 s


def test_verbose_and_quiet_contradict_each_other() -> None:
    assert_refused(run_cli("forecast", "tiny", "movies", "--quiet", "-v"), 2, "--verbose contradicts --quiet")


def test_quiet_prints_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, quiet=True)
    with busy(console, "load"), progress_bar(console) as report:
        report("x", 0, 1)
    assert file.getvalue() == ""


def test_a_terminal_has_one_bar_at_a_time() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=100, force_terminal=True)
    with progress_bar(console) as report:
        for done in range(5):
            report("candidates", done, 4)
            for step in range(3):
                report("fine-tuning steps", step, 2)
                assert sum(task.visible for task in report.bar.tasks) == 1  # type: ignore[attr-defined]
    assert os.linesep in file.getvalue() or file.getvalue()


def test_a_command_without_a_terminal_is_not_silent_and_can_be(
    llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    command = ("kernel", llama_folder, data_file, WORDS, "--k", 2, "--test", 4, "--layers", 0)
    said = run_cli(*command, "--out", tmp_path / "a")
    assert [line.split(maxsplit=2)[2] for line in said.stderr.splitlines()][:1] == [
        "read the data (the first time it is downloaded)"
    ]
    assert "gradient factors" in said.stderr
    assert run_cli(*command, "--out", tmp_path / "b", "--quiet").stderr == ""


@pytest.mark.parametrize("width", [80, 100])
def test_a_plan_says_what_it_did_why_it_is_dear_and_what_to_do(width: int, llama_folder: Path, data_file: Path) -> None:
    command = ("kernel", llama_folder, data_file, WORDS, "--k", 4, "--test", 6, "--no-difference", "--plan")
    shown = " ".join(run_cli(*command, env={"COLUMNS": str(width)}).stdout.split())
    assert "no kernel was computed" in shown and "2 outputs mean 2 backward passes" in shown
    for option in ("--k", "--layers", "--exclude-embeddings"):
        assert option in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_name_is_cut_at_80_columns(command: str) -> None:
    shown = run_cli(command, "--help", env={"COLUMNS": "80"}).stdout
    words = set(re.findall(r"--[a-z0-9-]+", shown))
    found = COMMANDS[command]
    names = {
        name for option in found.params for name in (*option.opts, *option.secondary_opts) if name.startswith("--")
    }
    hidden = {name for option in found.params if getattr(option, "hidden", False) for name in option.opts}
    assert names and names - hidden <= words


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_arguments_as_its_texts_do_and_gives_no_type_to_flags(command: str) -> None:
    shown = run_cli(command, "--help", env={"COLUMNS": "80"}).stdout
    usage = re.sub(r"\s+", " ", shown.partition(".")[0])
    arguments = [each for each in COMMANDS[command].params if each.param_type_name == "argument"]
    assert [name in usage for each in arguments for name in [str(each.name).upper()]] == [True] * len(arguments)
    assert "{" not in usage and "<bool>" not in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_room_for_its_texts_at_80_columns(command: str) -> None:
    shown = run_cli(command, "--help", env={"COLUMNS": "80"}).stdout
    for line in shown.splitlines():
        found = re.match(r"\W{1,3} {1,5}--[a-z-]+,? +(<[a-z]+> +)?(?=\S)", line)
        assert found is None or 80 - found.end() >= 35, line
