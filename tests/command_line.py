"""`python -m foretune` and `python -c` as processes, without the seconds that importing torch and transformers take.

`Processes` starts one server, which imports what the commands import and computes nothing; each call forks it. The child is
a process like any other: its own arguments, environment, folder, streams, signals and exit code. A call that changes a
variable that may be read while modules are imported, and `--debug`, which leaves the libraries their warnings, start a
fresh process. `test_command_line.py` compares both.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
LONGEST = 600
"""Seconds after which a forked process ends by SIGALRM: what waits for a pipe fails, and does not stop all tests."""
_LATE = {"COLUMNS", "FORETUNE_CACHE"}  # read by each command, never by a module that is imported
_MODULES = (
    "foretune.cli.behaviour", "foretune.cli.env", "foretune.cli.forecast", "foretune.cli.kernel", "foretune.cli.reproduce",
    "foretune.cli.solve", "foretune.cli.tasks", "foretune.cli.tune", "foretune.cli.validate",
    "peft", "pydantic", "zarr", "safetensors.torch", "scipy.stats", "scipy.optimize", "sklearn.linear_model", "sklearn.svm",
    "torch.func", "transformers.trainer",
    "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """`python -c code arguments`, or `python -m foretune arguments` without code; `changes` are made to ENVIRONMENT."""

    arguments: list[str]
    code: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""

    def command(self) -> list[str]:
        """What to type."""
        return [sys.executable, *(["-m", "foretune"] if self.code is None else ["-c", self.code]), *self.arguments]

    def fresh(self) -> bool:
        """Whether a forked process could behave otherwise than a fresh one."""
        changed = {name for name, value in self.changes.items() if ENVIRONMENT.get(name) != value}
        return "--debug" in self.arguments or bool(changed - _LATE)


class Processes:
    """Runs calls, one after another, in children of a server that starts with the first of them."""

    def __init__(self) -> None:
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def result(self, call: Call) -> subprocess.CompletedProcess[str]:
        """The exit code, negative for a signal, and what was printed."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            if call.fresh():
                environment = {**ENVIRONMENT, **call.changes}
                code = subprocess.run(
                    call.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment,
                    cwd=call.cwd or None, check=False,
                ).returncode  # fmt: skip
            else:
                code = self._forked(call, [out.fileno(), errors.fileno()])
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(call.command(), code, out.read(), errors.read())

    def _forked(self, call: Call, streams: list[int]) -> int:
        if self._server is None:
            self._server = _started()
        connection = self._server[1]
        message = {**asdict(call), "cwd": call.cwd or str(Path.cwd())}
        socket.send_fds(connection, [json.dumps(message).encode()], streams)
        return int(connection.recv(64))

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            process, connection = self._server
            connection.close()
            process.wait()
            self._server = None


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.command_line", str(theirs.fileno())], stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()], env=ENVIRONMENT, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    theirs.close()
    if not ours.recv(64):
        raise RuntimeError("The server of forked processes ended while it started; what it printed says why.")
    return process, ours


def _call_to_run(connection: socket.socket) -> Call | None:
    """Answer calls, each by a child: the call in a child, with its streams and environment in place; None at the end."""
    while True:
        message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not message:
            return None
        child = os.fork()
        if not child:
            connection.close()
            call = Call(**json.loads(message))
            _settle(call, streams)
            return call
        for stream in streams:
            os.close(stream)
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _settle(call: Call, streams: list[int]) -> None:
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.update(call.changes)
    os.chdir(call.cwd)
    sys.path[0] = call.cwd if call.code is None else ""
    sys.argv = ["-c", *call.arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(LONGEST)


def _run(call: Call) -> None:
    """What the interpreter does, to its end, but for taking apart modules whose memory other children share."""
    status: object = 0
    try:
        if call.code is None:
            runpy.run_module("foretune", run_name="__main__", alter_sys=True)
        else:
            exec(call.code, {"__name__": "__main__"})  # noqa: S102 - our own tests
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def _import_modules() -> None:
    from foretune.cli import main

    main._quiet()  # the libraries read some of it while they are imported
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()  # else a child's first collection copies the memory that it shares


if __name__ == "__main__":
    to_client = socket.socket(fileno=int(sys.argv[1]))
    _import_modules()
    to_client.send(b"ready")
    to_run = _call_to_run(to_client)
    if to_run is not None:
        _run(to_run)
