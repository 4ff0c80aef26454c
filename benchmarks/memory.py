"""Whether the memory budget is kept: the peak above the loaded model for several budgets.

    python -m benchmarks.memory        to docs/results/memory.md

Each figure is a process of its own: 32 training against 128 further examples, both outputs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import foretune as ft
from foretune.kernels.job import Job, joint_job
from foretune.kernels.memory_plan import TilePlan, memory_bytes
from foretune.progress import peak_memory

BUDGETS = {"minilm": ("400MiB", "800MiB", "2GiB"), "smollm2": ("2GiB", "4GiB")}


def one(model: str, budget: str) -> str:
    """One row of the table."""
    lm, task = ft.load_model(model), ft.load_task("movies")
    split = task.few_shot(ft.load_rows(task), k=16, seed=13, test=96)
    outputs = ft.HeadLogits(lm, difference=False) if model == "minilm" else ft.AnswerLogits(lm, task)
    others = [*split.validation, *split.test]
    ft.block_kernels(outputs, split.train[:2])  # threads and libraries start
    plan = _planned(joint_job(outputs, split.train, others), budget)
    with peak_memory() as peak:
        start = time.perf_counter()
        ft.joint_kernels(outputs, split.train, others, memory=budget)
        seconds = time.perf_counter() - start
    above = peak.peak - peak.before
    share = above / memory_bytes(budget)
    tile = f"{plan.rows} x {plan.columns}"
    return f"| {model} | {budget} | {above / 2**20:.0f} MiB | {share:.2f} | {tile} | {plan.passes} | {seconds:.1f} |"


def _planned(job: Job, budget: str) -> TilePlan:
    return job.plan(memory_bytes(budget), job.array_bytes(ft.SGD()))


def main() -> None:
    """Measure and write the page."""
    if len(sys.argv) > 1:
        print(one(*sys.argv[1:3]))
        return
    lines = [
        "# The memory budget is kept",
        "",
        "`python -m benchmarks.memory` makes this page: 32 x (32 + 128) examples; MiniLM with a head and two outputs, "
        "SmolLM2 with a prompt and one. Peak is resident memory above the loaded model, sampled every 10 ms.",
        "",
        "| model | budget | peak | peak / budget | tile (rows x columns) | examples through the model | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, budgets in BUDGETS.items():
        for budget in budgets:
            command = [sys.executable, "-m", "benchmarks.memory", model, budget]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            lines.append(result.stdout.splitlines()[-1])
            print(lines[-1], flush=True)
    page = Path(__file__).parent.parent / "docs" / "results" / "memory.md"
    page.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
