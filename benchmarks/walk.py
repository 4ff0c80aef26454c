"""How far one forecast walks through the code: files, names for its kernels, and sums of kernels.

    PYTHONPATH=src python -m benchmarks.walk MODEL DATA [OPTION ...]

runs `foretune forecast MODEL DATA OPTION ...` under a tracer and prints

    files     files of the package that the forecast enters, of all
    names     distinct names of variables that hold a kernel in the rooms that weigh candidates (candidates/, forecasting/):
              the mapping of kernels, one kernel by block, or an array with the shape of a joint kernel
    sums      sums of kernels over the blocks of a candidate
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import foretune
from foretune.kernels.block_kernel import BlockKernel

PACKAGE = Path(foretune.__file__).parent
ROOMS = ("candidates", "forecasting")


class Walk:
    """What a tracer has seen.

    Attributes:
        files: of the package that were entered.
        names: of variables that hold a kernel.
        sums: calls of functions that sum kernels.
        shapes: of joint kernels seen so far.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.files: set[str] = set()
        self.names: set[str] = set()
        self.sums = 0
        self.shapes: set[tuple[int, ...]] = set()

    def see(self, frame: FrameType, event: str, _argument: object) -> None:
        """One event of `sys.setprofile`."""
        if event not in ("call", "return"):
            return
        file = frame.f_code.co_filename
        if not file.startswith(str(PACKAGE)):
            return
        place = str(Path(file).relative_to(PACKAGE))
        room = place.split("/", maxsplit=1)[0]
        if event == "call":
            self.files.add(place)
            self.sums += room in ROOMS and frame.f_code.co_name == "summed"
        elif room in ROOMS:
            self.names |= {name for name, value in frame.f_locals.items() if self._is_kernel(value)}

    def _is_kernel(self, value: Any) -> bool:
        if isinstance(value, BlockKernel):
            self.shapes.add(value.array.shape[1:])
            return True
        if isinstance(value, np.ndarray):
            return value.shape in self.shapes
        return isinstance(value, Mapping) and bool(value) and isinstance(next(iter(value.values())), BlockKernel)


def main() -> None:
    """Trace the forecast and print the three numbers."""
    from foretune.cli.main import main as command

    walk = Walk()
    sys.argv = ["foretune", "forecast", *sys.argv[1:]]
    threading.setprofile(walk.see)
    sys.setprofile(walk.see)
    try:
        command()
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    whole = len(list(PACKAGE.rglob("*.py")))
    print(f"files: {len(walk.files)} of {whole}")
    print(f"names: {len(walk.names)}: {', '.join(sorted(walk.names))}")
    print(f"sums: {walk.sums}")


if __name__ == "__main__":
    main()
