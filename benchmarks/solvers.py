"""Kernel solvers against the pretrained model on real tasks, through the command line.

    python -m benchmarks.solvers DATA [--out runs/solvers] [--tasks mr,sst2,subj] [--seeds 13,21] [--k 16] [--test 200]

DATA is a folder with one folder per task, each with train.jsonl and test.jsonl. Writes docs/results/solvers.md. Kernels
already in --out are used again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

FORMULAS = "sgd,signgd,asymmetric,lora"
ROWS = {
    ("sgd", "ridge"): "K(SGD), least squares",
    ("sgd", "logistic"): "K(SGD), logistic",
    ("signgd", "ridge"): "K(SignGD), least squares",
    ("signgd", "logistic"): "K(SignGD), logistic",
    ("asymmetric", "asymmetric"): "K(A-SignGD), asymmetric",
    ("lora-r8", "ridge"): "K(SGD, LoRA r = 8), least squares",
}
SOLVES = (("sgd,signgd", "ridge,logistic"), ("asymmetric", "asymmetric"), ("lora-r8", "ridge"))
PAGE = Path(__file__).parent.parent / "docs" / "results" / "solvers.md"


def foretune(*arguments: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "foretune", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def scores(options: argparse.Namespace, task: str, seed: str) -> dict[str, tuple[float, float, float]]:
    """Test score and its interval for each row of the table, on one task and seed."""
    folder = options.out / f"{options.model}-{task}-{options.k}-{seed}"
    data = (options.data / task, "--task", task, "--k", options.k, "--seed", seed, "--test", options.test)
    foretune("kernel", options.model, *data, "--formula", FORMULAS, "--memory", "6GiB", "--out", folder)
    found = {}
    for kernels, solvers in SOLVES:
        file = folder / "solutions.json"
        foretune("solve", folder, "--kernels", kernels, "--solver", solvers, "--json", file)
        result = json.loads(file.read_text())
        zero_shot = result["zero_shot"]
        found["zero-shot"] = (zero_shot["value"], zero_shot["low"], zero_shot["high"])
        for item in result["solutions"]:
            score = item["score"]
            found[ROWS[item["kernel"], item["solver"]]] = (score["value"], score["low"], score["high"])
    return found


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, default=Path("runs/solvers"))
    parser.add_argument("--tasks", default="mr,sst2,subj")
    parser.add_argument("--seeds", default="13,21")
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    tasks, seeds = options.tasks.split(","), options.seeds.split(",")
    found = {task: [scores(options, task, seed) for seed in seeds] for task in tasks}
    lines = [
        "# Kernels and solvers on real tasks",
        "",
        "`python -m benchmarks.solvers DATA` makes this table: "
        f"{options.model}, the tasks' manual prompts in their causal form, k = {options.k} examples per label for training "
        f"and as many for validation, seeds {', '.join(seeds)}, {options.test} test examples (the same for all seeds). "
        "Accuracy, mean over seeds, and in brackets each seed's; hyperparameters from the grids of Malladi et al. 2023, "
        "Table 3, chosen on validation.",
        "",
        "| | " + " | ".join(tasks) + " |",
        "|---|" + "---|" * len(tasks),
    ]
    for row in ["zero-shot", *ROWS.values()]:
        cells = []
        for task in tasks:
            values = [result[row][0] for result in found[task]]
            cells.append(f"{statistics.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    PAGE.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
