"""Seconds and memory of block kernels against the published ways to compute an empirical NTK.

    python -m benchmarks.speed                      the whole table, to docs/results/speed.md
    python -m benchmarks.speed --only minilm-16     one row of it, to the terminal
    python -m benchmarks.speed --one factors minilm 16 both

Each measurement is a process of its own; methods take turns, and the median of three is shown. Memory is the largest
resident memory above that of the loaded model.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.case import Case, in_a_process
from benchmarks.methods import METHODS

REPEATS = 3
WITHOUT_TABLES = "factors-without-tables"
CASES: dict[str, tuple[Case, tuple[str, ...]]] = {
    "minilm-16": (
        Case("minilm", 16),
        ("jvp", "jvp-16", "vmap", "nngeometry", "factors", "factors-without-tables", "passes"),
    ),
    "minilm-32": (
        Case("minilm", 32),
        ("jvp", "jvp-16", "vmap", "nngeometry", "factors", "factors-without-tables", "passes"),
    ),
    "minilm-64": (Case("minilm", 64), ("jvp", "jvp-16", "vmap", "factors", "passes")),
    "minilm-64-difference": (Case("minilm", 64, difference=True), ("factors", "passes")),
    "smollm2-8": (Case("smollm2", 8), ("jvp", "jvp-16", "vmap", "factors", "passes")),
    "smollm2-16": (Case("smollm2", 16), ("jvp", "jvp-16", "factors", "passes")),
    "smollm2-16-difference": (Case("smollm2", 16, difference=True), ("factors", "passes")),
}
NAMES = {
    "jvp": "(a) Jacobian + jvp, batch 1",
    "jvp-16": "(a) the same, batch 16",
    "vmap": "(b) vmap(jacrev) + products",
    "nngeometry": "(c) nngeometry 0.4, no embeddings",
    "factors": "**foretune**",
    WITHOUT_TABLES: "foretune, no embeddings",
    "passes": "floor: passes + contraction",
}


def measure(method: str, case: Case) -> dict[str, object]:
    """One measurement in a process of its own."""
    return in_a_process("benchmarks.speed", method, case.model, case.n, "difference" if case.difference else "both")


def medians(case: Case, methods: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """Each method's median run; methods take turns."""
    runs: dict[str, list[dict[str, object]]] = {method: [] for method in methods}
    for _ in range(REPEATS):
        for method in methods:
            if not (runs[method] and "failed" in runs[method][-1]):
                runs[method].append(measure(method, case))
    found = {}
    for method, results in runs.items():
        ordered = sorted(results, key=lambda run: float(run.get("seconds", 0)))  # type: ignore[arg-type]
        found[method] = ordered[len(ordered) // 2]
        if "failed" not in found[method]:
            found[method]["peak"] = statistics.median(int(run["peak"]) for run in results)  # type: ignore[call-overload]
    return found


def table(name: str, found: dict[str, dict[str, object]]) -> str:
    """One case as a Markdown table with ratios to foretune."""
    lines = [
        f"### {name}",
        "",
        "| method | seconds | peak GiB | time / foretune | memory / foretune | |",
        "|---|---|---|---|---|---|",
    ]
    for method, run in found.items():
        if "failed" in run:
            lines.append(f"| {NAMES[method]} | failed | | | | {run['failed']} |")
            continue
        beside = WITHOUT_TABLES if method == "nngeometry" else "factors"
        own = found[beside]
        ratios = (float(run["seconds"]) / float(own["seconds"]), float(run["peak"]) / float(own["peak"]))  # type: ignore[arg-type]
        memory = "" if method == "passes" else f"{ratios[1]:.2f}"
        lines.append(
            f"| {NAMES[method]} | {run['seconds']:.2f} | {float(run['peak']) / 2**30:.2f} | {ratios[0]:.2f} | {memory} "  # type: ignore[arg-type]
            f"| {run['note']} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "MODEL", "N", "both|difference"))
    parser.add_argument("--only", choices=CASES)
    arguments = parser.parse_args()
    if arguments.one:
        method, model, n, outputs = arguments.one
        print(json.dumps(asdict(METHODS[method](Case(model, int(n), difference=outputs == "difference")))))
        return
    parts = [
        "# Speed and memory of block kernels",
        "",
        "`make benchmark` (python -m benchmarks.speed) makes this page. All trainable parameters, float32, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; movie-review snippets; two outputs unless the name "
        f"says difference; median of {REPEATS} processes a figure, methods taking turns. Peak is above the loaded model. "
        "The floor is one forward and c backward passes, plus the counted contraction flops of the linear blocks (one "
        "triangle; padding and other tokens without a gradient do not count) at the rate of a large product measured in "
        "the same process. Once more: the same call again in the same process, whose memory has been touched before.",
        "",
    ]
    for name, (case, methods) in CASES.items():
        if arguments.only in (None, name):
            parts.append(table(name, medians(case, methods)))
            print(parts[-1], flush=True)
    if arguments.only is None:
        page = Path(__file__).parent.parent / "docs" / "results" / "speed.md"
        page.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
