"""What the law that is checked before every kernel costs.

    python -m benchmarks.law        to docs/results/law.md

The same kernels with and without the check, one after the other in one process, one thread; CPU seconds, the median of
three pairs.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

import foretune as ft
from benchmarks.case import Case
from foretune.kernels import law
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job

CASES: list[tuple[str, int, list[Formula]]] = [
    ("minilm", 32, [ft.SGD()]),
    ("minilm", 32, [ft.SGD(), *(ft.LoRA(rank, 16.0) for rank in (1, 4, 16, 64))]),
    ("smollm2", 8, [ft.SGD()]),
]
PAGE = Path(__file__).parent.parent / "docs" / "results" / "law.md"


def cpu_seconds(job: Job, formulas: list[Formula], *, checked: bool) -> float:
    """CPU time of one computation."""
    law.CHECKED = checked
    start = time.process_time()
    ft.kernels_of(job, formulas)
    return time.process_time() - start


def main() -> None:
    """Measure and write the page."""
    torch.set_num_threads(1)
    lines = [
        "# What the law costs",
        "",
        "`python -m benchmarks.law` makes this page. Before a kernel is begun, every block's diagonal on one example is "
        "held against a plain backward pass (`kernels/law.py`). CPU seconds of one thread with and without it, the median "
        "of three pairs in one process.",
        "",
        "| model | examples | kernels | with | without | the law's share |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for model, n, formulas in CASES:
        outputs, examples = Case(model, n, difference=True).outputs()
        job = ft.separate_job(outputs, examples, None, None)
        cpu_seconds(job, formulas, checked=True)  # threads and libraries start
        pairs = [[cpu_seconds(job, formulas, checked=checked) for checked in (True, False)] for _ in range(3)]
        with_it, without = (statistics.median(pair[place] for pair in pairs) for place in (0, 1))
        names = ", ".join(formula.label for formula in formulas)
        share = f"{100 * (with_it - without) / with_it:.0f}%"
        lines.append(f"| {model} | {n} | {names} | {with_it:.1f} | {without:.1f} | {share} |")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
