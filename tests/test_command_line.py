"""A forked command is the command: what the other tests call does what a user's own would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ENVIRONMENT, Call
from tests.conftest import PROCESSES, WORDS, run_cli, run_code

SMALL = (WORDS, "--k", "4", "--test", "5")
TIMED = (".json", ".json.txt", ".jsonl", "report.html")
"""Endings of files that hold seconds."""
CALLS = {
    "help": (("kernel", "--help"), {"COLUMNS": "80"}),
    "refused": (("forecast", "MODEL", "DATA", WORDS, "--k", "50"), {}),
    "kernel": (("kernel", "MODEL", "DATA", *SMALL, "--out", "run"), {"COLUMNS": "100"}),
    "training": (("tune", "MODEL", "DATA", *SMALL, "--method", "lora", "--steps", "2", "--out", "run"), {}),
}


def typed(call: Call) -> subprocess.CompletedProcess[str]:
    """A call in a fresh process."""
    environment = {**ENVIRONMENT, **call.changes}
    return subprocess.run(call.command(), capture_output=True, text=True, env=environment, cwd=call.cwd, check=False)


def steady(text: str) -> str:
    """What was printed, but for times, memory, and the widths of their columns."""
    words = " ".join(re.sub(r"[━┏┳┓┡╇┩└┴┘│─╭╮╰╯]+", " | ", text).split())
    return re.sub(r"\d\d:\d\d:\d\d|[\d.]+ s\b|at most [\d,]+ MiB|[\d.]+ \| [\d,]+ MiB \| [\d,]+ MiB", "", words)


def content(file: Path) -> bytes:
    """The bytes of a file; of safetensors those of the tensors, since its header is in no order."""
    found = file.read_bytes()
    return found[8 + int.from_bytes(found[:8], "little") :] if file.suffix == ".safetensors" else found


@pytest.mark.parametrize(
    "name", ["help", "refused", *(pytest.param(name, marks=pytest.mark.slow) for name in ("kernel", "training"))]
)
def test_a_forked_command_prints_and_writes_what_a_fresh_one_does(
    name: str, llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    arguments, changes = CALLS[name]
    places = {"MODEL": str(llama_folder), "DATA": str(data_file)}
    folder = tmp_path / "here"
    call = Call([places.get(word) or word for word in arguments], None, changes, str(folder))
    assert not call.fresh()
    seen = []
    for run in (typed, PROCESSES.result):
        folder.mkdir()
        done = run(call)
        files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
        kept = {name: content(file) for name, file in files.items() if not name.endswith(TIMED)}
        seen.append((done.returncode, steady(done.stdout), steady(done.stderr), list(files), kept))
        shutil.rmtree(folder)
    assert seen[0] == seen[1]
    assert seen[0][1] or seen[0][2]


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_soon_sleep_unless_the_user_says_otherwise(given: dict[str, str], found: str) -> None:
    code = (
        "import os, sys; sys.argv = ['foretune', 'tasks']\n"
        "from foretune.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    known = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**known, **given}
    )
    assert result.stdout.splitlines()[-1] == f"{found} False"


def test_a_forked_process_ends_as_its_code_does() -> None:
    told = "import sys; print(sys.argv, sys.stdin.read() == ''); sys.exit(3)"
    done = run_code(told, "a", 2)
    assert (done.returncode, done.stdout, done.stderr) == (3, "['-c', 'a', '2'] True\n", "")
    done = run_code("import os, signal; print('not seen', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "not seen\n")
    done = run_code("raise ValueError('no')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ValueError: no\n")
    assert run_code("import os, signal; os.kill(os.getpid(), signal.SIGINT)").stderr.endswith("KeyboardInterrupt\n")
    assert run_code("import atexit; atexit.register(print, 'last'); print('first')").stdout == "first\nlast\n"


def test_forked_processes_share_nothing_and_start_with_one_thread(tmp_path: Path) -> None:
    first = run_code("import foretune.cli.main as m, os; m.seen = 1; os.environ['SEEN'] = '1'; print(os.getpid())")
    code = "import foretune.cli.main as m, os, threading; print(hasattr(m, 'seen'), 'SEEN' in os.environ, os.getppid())"
    second = run_code(code + "; import torch; print(torch.get_num_threads(), threading.active_count())")
    assert second.stdout.splitlines() == [f"False False {second.stdout.split()[2]}", "1 1"]
    assert int(first.stdout) != int(second.stdout.split()[2]) != os.getpid()


def test_what_modules_read_while_they_are_imported_starts_a_fresh_process() -> None:
    assert Call(["env"], None, {"HF_HUB_OFFLINE": "0"}).fresh()
    assert Call(["env", "--debug"]).fresh()
    assert not Call(["env"], None, {"HF_HUB_OFFLINE": "1", "COLUMNS": "9"}).fresh()
    assert "threads | 2" in steady(run_cli("env", env={"OMP_NUM_THREADS": "2"}).stdout)
