"""What leaving out needless work saves: the same calls on two trees of the source, taking turns.

    git worktree add /tmp/before COMMIT
    OMP_NUM_THREADS=1 python -m benchmarks.waste /tmp/before      every case, as a table
    python -m benchmarks.waste --one forecast                     one case of this tree: CPU seconds and a number, as JSON

Each measurement is a process of its own with one thread; its CPU seconds count, and the medians are compared. The number
that a case ends in tells whether both trees compute the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent.parent
TURNS = 3


def _timed(work: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds of some work, and what it returns."""
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def _case(n: int, words: int = 0):  # noqa: ANN202 - outputs and examples
    from benchmarks.case import Case
    from foretune.text.example import Example

    outputs, examples = Case("minilm", n, difference=True).outputs()
    if words:
        pool = " ".join(example.text for example in examples).split()
        examples = [Example(" ".join(pool[17 * k % 997 :][:words])) for k in range(n)]
    return outputs, examples


def _kernel(formulas: str, n: int, words: int = 0) -> Callable[[], tuple[float, float]]:
    """Kernels of MiniLM with a head."""

    def measured() -> tuple[float, float]:
        import foretune as ft

        outputs, examples = _case(n, words)
        job = ft.separate_job(outputs, examples, None, None)
        wanted = {
            "sgd": [ft.SGD()],
            "lora": [ft.LoRA(rank) for rank in (1, 4, 16, 64)],
            "sketch": [ft.Kronecker(512)],
        }[formulas]
        ft.kernels_of(job, [ft.LoRA(1)])  # libraries start
        return _timed(lambda: float(ft.kernels_of(job, wanted)[wanted[-1].label].total().trace(axis1=0, axis2=2).sum()))

    return measured


def _prompted() -> tuple[float, float]:
    """The kernels of a forecast of SmolLM2 with a prompt: full tuning and adapters of four ranks."""
    import foretune as ft
    from benchmarks.case import Case

    outputs, examples = Case("smollm2", 64, difference=True).outputs()
    job = ft.joint_job(outputs, examples[:32], examples[32:])
    formulas = [ft.SGD(), *(ft.LoRA(rank) for rank in (1, 4, 16, 64))]
    return _timed(lambda: float(sum(kernel.array.sum() for kernel in ft.kernels_of(job, formulas).values())))


def _last_layers() -> tuple[float, float]:
    """The kernel of SmolLM2's last two layers, in so little memory that rows come again."""
    import foretune as ft
    from benchmarks.case import Case

    outputs, examples = Case("smollm2", 96, difference=True).outputs()
    blocks = ["*layers.28.*", "*layers.29.*"]
    return _timed(lambda: float(ft.block_kernels(outputs, examples, blocks=blocks, memory="250MiB").array.sum()))


def _planned() -> tuple[float, float]:
    """The tiles of a kernel of 1,000 x 2,064 examples."""
    from foretune.kernels.memory_plan import Footprint, tile_plan

    lengths = np.random.default_rng(0).integers(8, 60, 2064).tolist()
    footprint = Footprint(400_000, 150_000.0, 600_000.0)
    return _timed(
        lambda: tile_plan(footprint, (lengths[:1000], lengths), 2**31, overlap=True, single=False).passes / 1000
    )


def _forecast(n: int) -> Callable[[], tuple[float, float]]:
    """The stage of a forecast after the kernels: its candidates, simulated and compared (made kernels, MiniLM's blocks)."""

    def measured() -> tuple[float, float]:

        import foretune as ft
        from foretune.candidates.candidate import formulas_for, parameter_sizes
        from foretune.candidates.evidence import Pool
        from foretune.experiment.inputs import Inputs
        from foretune.forecasting.forecast import pool_forecast

        outputs, _ = _case(1)
        kinds, rng = outputs.kinds(), np.random.default_rng(0)
        total = 2 * n + 64
        y = np.arange(total) % 2
        z = rng.standard_normal((2, 24))[y] + 1.2 * rng.standard_normal((total, 24))
        kernels = {}
        for formula in formulas_for(kinds):
            names = formula.blocks(kinds)
            array = np.zeros((len(names), n, 1, total, 1))
            for place in range(len(names)):
                own = np.random.default_rng(place)
                phi = np.tanh(z @ own.standard_normal((24, 32)) / 5) * np.exp(own.standard_normal())
                array[place, :, 0, :, 0] = phi[:n] @ phi.T
            kernels[formula.label] = ft.BlockKernel(tuple(names), array)
        sizes = {name: tensor.numel() for name, tensor in outputs.parameters().items()}
        f0 = 0.1 * rng.standard_normal((total, 1))
        inputs = Inputs(y, f0, z, n, n, 2, sizes, "accuracy", head="probed")
        pool = Pool.sized(kernels, inputs, parameter_sizes(outputs))
        return _timed(lambda: sum(item.score.validation_loss for item in pool_forecast(pool).comparison.candidates))

    return measured


def _command(name: str) -> Callable[[], tuple[float, float]]:
    """A command that computes nothing."""

    def measured() -> tuple[float, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "foretune", name], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 0.0

    return measured


CASES: dict[str, tuple[str, Callable[[], tuple[float, float]]]] = {
    "plan": ("tiles of 1,000 x 2,064 examples at 2 GiB", _planned),
    "sgd-long": ("SGD kernel, 16 texts of 100 words", _kernel("sgd", 16, 100)),
    "sgd": ("SGD kernel, 64 snippets", _kernel("sgd", 64)),
    "lora": ("LoRA kernels of four ranks, 64 snippets", _kernel("lora", 64)),
    "sketch": ("Kronecker sketch, k = 512, 64 snippets", _kernel("sketch", 64)),
    "prompt": (
        "kernels of a forecast with a prompt (SmolLM2, 32 x 64 snippets, full tuning and four ranks)",
        _prompted,
    ),
    "last-layers": ("SGD kernel of SmolLM2's last two layers, 96 snippets in 250 MiB", _last_layers),
    "forecast-64": ("forecast after the kernels, 64 training examples", _forecast(64)),
    "forecast-320": ("forecast after the kernels, 320 training examples", _forecast(320)),
    "tasks": ("foretune tasks", _command("tasks")),
    "env": ("foretune env", _command("env")),
}


def measured_in(tree: Path, case: str) -> tuple[float, float]:
    """One measurement of a tree, in a process of its own."""
    source = f"{tree / 'src'}{os.pathsep}{HERE}"
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", case]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, value = json.loads(result.stdout.splitlines()[-1])
    return seconds, value


def main() -> None:
    """Print the table, or one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", nargs="?", type=Path)
    parser.add_argument("--one", choices=list(CASES))
    parser.add_argument("--only", nargs="*", default=list(CASES))
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(CASES[given.one][1]()))
        return
    print("| work | before, CPU s | after, CPU s | before / after | difference of the result |\n|---|---|---|---|---|")
    for case in given.only:
        turns = [(measured_in(given.before, case), measured_in(HERE, case)) for _ in range(TURNS)]
        before, after = (statistics.median(turn[side][0] for turn in turns) for side in (0, 1))
        (_, old), (_, new) = turns[0]
        apart = abs(new - old) / abs(old) if old else 0.0
        print(f"| {CASES[case][0]} | {before:.2f} | {after:.2f} | {before / after:.2f} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
