"""What another busy program costs: the same command with idle cores, and beside programs that keep cores busy.

    python -m benchmarks.busy

GNU OpenMP, which torch's threads wait with, looks so many times before a thread sleeps; the command line sets its own
number where the user has set none. Wall seconds of the command as a process, with a thread for each core; the rows of one
run are compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = ("forecast", "smollm2", "movies", "--k", "8", "--test", "8", "--rank", "8")
LOOKS = ("300000", "2000", "0")
"""Of GNU OpenMP by itself; of the command line; none."""


@contextmanager
def _busy(programs: int) -> Iterator[None]:
    """Programs that compute without end, each in a session of its own, as those of other people and windows are."""
    running = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(programs)
    ]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def seconds(looks: str, most: float) -> float:
    """Of the command; the most that is waited for where it takes longer."""
    environment = {**os.environ, "GOMP_SPINCOUNT": looks}
    environment.pop("OMP_WAIT_POLICY", None)
    start = time.perf_counter()
    command = [sys.executable, "-m", "foretune", *COMMAND]
    try:
        subprocess.run(command, capture_output=True, check=True, env=environment, timeout=most)
    except subprocess.TimeoutExpired:
        return most
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=200.0, help="seconds that a command is waited for")
    most = parser.parse_args().most
    print("| busy programs beside it | " + " | ".join(f"{looks} looks, s" for looks in LOOKS) + " |")
    print("|---" * (1 + len(LOOKS)) + "|")
    for programs in (0, 1, 2):
        with _busy(programs):
            found = [seconds(looks, most) for looks in LOOKS]
        print(
            f"| {programs} | " + " | ".join(f"{'over ' if s == most else ''}{s:.1f}" for s in found) + " |", flush=True
        )


if __name__ == "__main__":
    main()
