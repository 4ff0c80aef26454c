"""What the other kernel formulas cost beside the SGD kernel, and how far low rank is from full rank.

    python -m benchmarks.formulas        to docs/results/formulas.md

MiniLM with a head, N = 64 movie-review snippets, float32. Each time is a ratio to the SGD kernel computed right before it
in the same process, the median of three. Deviations are those of SmolLM2's and MiniLM's real gradients.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch

import foretune as ft
from benchmarks.case import Case
from foretune.analysis.johnson_lindenstrauss import JohnsonLindenstrauss, measured_deviation
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job

RANKS = tuple(2**k for k in range(7))
DRAWS = 20
ASYMMETRIC = ft.AsymmetricSignGD()
COSTS: dict[str, list[Formula]] = {
    "SignGD": [ft.SignGD()],
    "asymmetric SignGD": [ASYMMETRIC],
    "asymmetric SignGD, both orientations": [ASYMMETRIC, ASYMMETRIC.reversed],
    "LoRA, r = 8": [ft.LoRA(8)],
    "LoRA, r = 1, 2, 4, ..., 64": [ft.LoRA(rank) for rank in RANKS],
    "LoRA, every r from 1 to 64": [ft.LoRA(rank) for rank in range(1, 65)],
    "Kronecker sketch, k = 512": [ft.Kronecker(512)],
    "SGD, SignGD and LoRA r = 1 to 64 in one pass": [ft.SGD(), ft.SignGD(), *(ft.LoRA(rank) for rank in RANKS)],
}
PAGE = Path(__file__).parent.parent / "docs" / "results" / "formulas.md"


def seconds(job: Job, formulas: list[Formula]) -> float:
    """Time of one computation."""
    start = time.perf_counter()
    ft.kernels_of(job, formulas)
    return time.perf_counter() - start


def costs() -> list[str]:
    """Time of each formula over that of the SGD kernel, for one and two outputs."""
    ratios: dict[str, list[str]] = {name: [] for name in COSTS}
    for difference in (True, False):
        outputs, examples = Case("minilm", 64, difference=difference).outputs()
        job = ft.separate_job(outputs, examples, None, None)
        seconds(job, [ft.SGD()])  # threads and libraries start
        for name, formulas in COSTS.items():
            pairs = [(seconds(job, [ft.SGD()]), seconds(job, formulas)) for _ in range(3)]
            ratios[name].append(f"{statistics.median(own / base for base, own in pairs):.2f}")
    lines = ["| kernel | time / SGD, one output | time / SGD, two outputs |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {' | '.join(values)} |" for name, values in ratios.items())]


def deviations(model: str, n: int) -> list[str]:
    """Relative deviation of the LoRA kernel from the kernel of the same weights, by rank, with the fitted slope."""
    outputs, examples = Case(model, n, difference=True).outputs()
    job = ft.separate_job(outputs, examples, None, None)
    sizes = {name: tensor.shape[-1] for name, tensor in outputs.parameters().items() if tensor.dim() == 2}
    found = np.zeros((DRAWS, len(RANKS)))
    full = ft.kernels_of(job, [ft.SGD()])["sgd"]
    for seed in range(len(found)):
        formulas = [ft.LoRA(rank, seed=seed) for rank in RANKS]
        for place, (formula, kernel) in enumerate(zip(formulas, ft.kernels_of(job, formulas).values(), strict=True)):
            of_blocks = dict(zip(full.names, full.array, strict=True))
            ratio = [formula.expected_ratio(sizes[name]) for name in kernel.names]
            scaled = sum(values / r for values, r in zip(kernel.array, ratio, strict=True))
            weights = np.sum([of_blocks[name] for name in kernel.names], axis=0)
            premises = JohnsonLindenstrauss(n, c=float(np.abs(weights).max()))
            found[seed, place] = measured_deviation(weights, np.asarray(scaled), formula.rank, premises).relative
    size = np.sqrt((found**2).mean(0))
    slope = np.polyfit(np.log(RANKS), np.log(size), 1)[0]
    cells = " | ".join(f"{value:.4f}" for value in size)
    return [f"| {model}, N = {n} | {cells} | {slope:.2f} |"]


def projected(model: str, n: int) -> list[str]:
    """Measured deviation of Rademacher and Kronecker sketches beside the bound of Theorem E.2."""
    outputs, examples = Case(model, n, difference=True).outputs()
    job = ft.separate_job(outputs, examples, None, None)
    full = ft.kernels_of(job, [ft.SGD()])["sgd"].total()
    premises = JohnsonLindenstrauss(n, c=float(np.abs(full).max()))
    lines = []
    for k in (64, 256, 1024):
        cells = []
        for kind in (ft.Rademacher, ft.Kronecker):
            (kernel,) = ft.kernels_of(job, [kind(k)]).values()
            cells.append(f"{measured_deviation(full, kernel.total(), k, premises).largest / premises.c:.3f}")
        bound = premises.deviation(k) / premises.c
        shown = f"{bound:.3f}" if np.isfinite(bound) else "says nothing"
        lines.append(f"| {k} | {' | '.join(cells)} | {shown} |")
    return lines


def main() -> None:
    """Measure and write the page."""
    lines = [
        "# Other kernels: what they cost, and how close low rank is",
        "",
        "`python -m benchmarks.formulas` makes this page. MiniLM with a head, N = 64 snippets, all parameters, float32, "
        f"{torch.get_num_threads()} threads; each ratio is to the SGD kernel computed right before, median of three.",
        "",
        *costs(),
        "",
        "Relative deviation `||K_LoRA / E - K|| / ||K||` of the linear layers' kernels (one output; "
        f"root mean square of {DRAWS} draws of A; E is the known expectation of the scale):",
        "",
        "| | " + " | ".join(f"r = {rank}" for rank in RANKS) + " | slope |",
        "|---|" + "---|" * (len(RANKS) + 1),
        *deviations("minilm", 32),
        *deviations("smollm2", 8),
        "",
        "Largest deviation of a sketched kernel over its largest entry (MiniLM, N = 16, one output), beside what Theorem "
        "E.2 of Malladi et al. 2023 guarantees with probability 0.95:",
        "",
        "| k | Rademacher | Kronecker | bound |",
        "|---|---|---|---|",
        *projected("minilm", 16),
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
