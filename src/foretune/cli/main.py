"""The way in, and the last line of defence: every mistake ends in one message on standard error and exit code 1 or 2.

Ctrl-C ends with exit code 130, as shells expect. The commands are in `foretune.cli.app`, which is imported inside of
`main`, so that Ctrl-C during the imports is an interruption like any other.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings

from foretune.errors import ForetuneError
from foretune.naming import one_line

_INTERRUPTED = 130  # what typer makes of Ctrl-C, and what shells expect
_LOOKS = "2000"  # no slower on idle cores, and soon enough on busy ones
_SOON = 0.02  # seconds: longer than a destructor takes
_RESUMABLE = (["tune"], ["reproduce"], ["validate"])
_WHOLE = (["behaviour"], ["behavior"], ["solve"])
"""Commands that write their page at the end, whole or not at all."""


def main() -> None:
    """Run the command line."""
    debug = "--debug" in sys.argv
    sys.unraisablehook = _interrupted_again
    _let_others_run()
    try:
        if not debug:
            _quiet()
        sys.exit(_exit_code())
    except KeyboardInterrupt:
        _ignore_more()
        named = any(argument.startswith("--out") for argument in sys.argv) and sys.argv[1:2] not in _WHOLE
        resumable = named or sys.argv[1:2] in _RESUMABLE
        _end(
            "Stopped. "
            + ("Repeat the same command to go on where it stopped." if resumable else "Nothing was written."),
            _INTERRUPTED,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug and not _mistyped(error):
            raise
        from foretune.cli.refusals import refusal

        message, code = refusal(error, sys.argv[1:])
        _end(f"Error: {message}" if message else "", code)


def _let_others_run() -> None:
    """Let torch's threads sleep sooner when they wait for each other, unless the user has said how they wait.

    GNU OpenMP looks 300,000 times before a thread sleeps. Beside any other busy program a thread then waits, at every
    small operation, for one that is not running; read when torch is imported (docs/results/speed.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _LOOKS)


def _interrupted_again(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C in a destructor, where Python drops it, takes effect a moment later; all else is reported as ever."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        return sys.__unraisablehook__(lost)
    later = threading.Timer(_SOON, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    later.daemon = True
    return later.start()


def _mistyped(error: Exception) -> bool:
    """Whether the command line itself could not be read: no traceback says more than the message."""
    return not isinstance(error, ForetuneError) and type(error).__module__.startswith("typer.")


def _exit_code() -> int:
    """What the command ends with. An error on the way out of an interruption, such as a file closed twice, is its echo.

    Raises:
        KeyboardInterrupt: the command was interrupted.
    """
    from foretune.cli.app import app

    try:
        code = app(standalone_mode=False, prog_name="foretune")
        sys.stdout.flush()  # a full disk behind standard output is told here, not while Python ends
    except KeyboardInterrupt:
        _ignore_more()
        raise
    except Exception as error:
        if _follows_interruption(error):
            raise KeyboardInterrupt from error
        raise
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _ignore_more() -> None:
    """Ignore Ctrl-C from here on: a second one asks for the end that is here already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _follows_interruption(error: BaseException | None) -> bool:
    """Whether an error was raised while an interruption was being handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _end(message: str, code: int) -> None:
    """Print a message, and end; what was not printed is given up, so that Python does not complain about it."""
    if message:
        print(one_line(message), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _quiet() -> None:
    """Leave only foretune's own messages: libraries announce what a user cannot act on."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub|zarr|sklearn|ray)\b.*")
    warnings.showwarning = lambda message, *_args, **_kw: print(f"Note: {one_line(str(message))}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show is not an error
