"""Exactness and speed on a GPU.

    python -m benchmarks.gpu [--out DIR] [--device cuda] [--seconds 480]
    python -m benchmarks.gpu --device cpu --small           the same code, seconds, no GPU

Writes DIR/gpu.md and DIR/gpu.json. The exit code is 1 where a part failed, whatever the figures are.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import torch
import transformers

import foretune
from benchmarks.gpu.commands import commands
from benchmarks.gpu.exactness import exactness
from benchmarks.gpu.record import Record
from benchmarks.gpu.speed import speed

SECTIONS = ("exactness", "speed", "commands")


def main(given: list[str] | None = None) -> int:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models only, to see that it runs")
    parser.add_argument("--seconds", type=float, default=450.0, help="of all sections together")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--models", default="", help="exactness, speed: models with these in their names; by ;")
    parser.add_argument("--most", type=int, default=0, help="speed: no more examples than these")
    asked = parser.parse_args(given)
    record = Record(asked.out, asked.seconds, _about(asked.device))
    record.say(str(record.about))
    wanted, names = asked.sections.split(","), [part for part in asked.models.split(";") if part]
    if "exactness" in wanted:
        with record.guarded("exactness"):
            exactness(record, asked.device, small=asked.small, names=names)
    if "commands" in wanted:
        with record.guarded("commands"):
            commands(record, asked.device, small=asked.small)
    if "speed" in wanted:
        with record.guarded("speed"):
            speed(record, asked.device, small=asked.small, names=names, least=asked.most)
    record.say(f"{len(record.failures)} failures, {len(record.misses)} misses")
    print(record.page)
    return 1 if record.failures else 0


def _about(device: str) -> dict[str, object]:
    """The machine and the versions."""
    cuda = device.startswith("cuda")
    return {
        "card": torch.cuda.get_device_name() if cuda else platform.processor() or device,
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if cuda else "",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "foretune": foretune.__version__,
        "python": platform.python_version(),
        "float32 products": torch.get_float32_matmul_precision(),
    }


if __name__ == "__main__":
    sys.exit(main())
