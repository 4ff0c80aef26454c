"""What workers bring and cost: speed-up of two against one, overhead per item, bytes moved.

    OMP_NUM_THREADS=1 python -m benchmarks.workers tiles minilm movies 64
    OMP_NUM_THREADS=1 python -m benchmarks.workers features minilm movies 64
    OMP_NUM_THREADS=1 python -m benchmarks.workers runs minilm movies 32
    OMP_NUM_THREADS=1 python -m benchmarks.workers items

Each engine does the same work in a folder of its own, with the model loaded before the clock starts and one thread for
each worker. `wall` is a time of the clock, which others on the same machine lengthen; `CPU, all` the seconds of the
processors; `CPU, busiest` those of the worker that had most to do: what the clock would show if every worker had a core
of its own. Speed-up is that of one worker, this process, over each.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.worker_items import Empty, Nothing, Ready
from foretune.candidates.candidate import formulas_for
from foretune.experiment.experiment import Experiment, load_experiment
from foretune.experiment.items import AskedCell, AskedGrid, ModelInHand, carry_out_runs
from foretune.experiment.record import kernels_with
from foretune.experiment.sample import Sampled
from foretune.experiment.setting import PROBED_HEAD, DataSource, Question, Setting
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.training import Training
from foretune.kernels.items import TileItem
from foretune.kernels.job import joint_job
from foretune.kernels.sketch import Sketch
from foretune.model.load import LanguageModel, ModelSource
from foretune.work.crew import Crew, Opening
from foretune.work.here import ThisProcess
from foretune.work.item import Done
from foretune.work.on_ray import OnRay
from foretune.work.processes import LocalProcesses

RATES = tuple(1e-4 * 2**number for number in range(8))
ITEMS = 500


def _seconds(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.Error:
        return 0.0
    return spent.user + spent.system


def _workers(crew: Crew) -> list[psutil.Process]:
    """The processes that carry out the items."""
    if isinstance(crew, ThisProcess):
        return [psutil.Process()]
    if isinstance(crew, LocalProcesses):
        return [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
    return [each for each in psutil.process_iter() if "_Actor" in " ".join(each.cmdline() or [each.name()])]


def _measured(crew: Crew, folder: Path, work: Callable[[], object]) -> tuple[float, list[float]]:
    """Seconds of the clock, and CPU seconds of each worker."""
    crew.carry_out("ready", [Ready(folder, number, crew.size) for number in range(crew.size)])
    processes = _workers(crew)
    before, start = [_seconds(each) for each in processes], time.perf_counter()
    work()
    wall = time.perf_counter() - start
    return wall, [_seconds(each) - spent for each, spent in zip(processes, before, strict=True)]


def _crews(opening: Opening, here: Opening) -> dict[str, Callable[[], Crew]]:
    return {
        "this process": lambda: ThisProcess(1, here),
        "2 processes": lambda: LocalProcesses(2, opening, 1),
        "2 Ray actors": lambda: OnRay(2, opening, 1),
    }


def _work(what: str, made: Experiment, crew: Crew) -> Callable[[], object]:
    """The work on an experiment."""
    if what == "runs":
        grid = [Training(AdamWOptimiser(rate), batch_size=16, epochs=4, evaluate_every=1000) for rate in RATES]
        return lambda: carry_out_runs(crew, [AskedGrid(AskedCell.of(made), made, LoRATuning(8), grid)])
    job = joint_job(made.outputs, *made.examples)
    formulas = formulas_for(job.kinds)
    made.work.crew = crew
    return lambda: kernels_with(made, job, formulas, sketch=Sketch() if what == "features" else None)


def speed_up(what: str, lm: LanguageModel, data: str, n: int, test: int) -> list[str]:
    """The rows of a table: an engine each."""
    rows, base = [], (0.0, 0.0, 0.0)
    setting = Setting(DataSource(data), Sampled(n), 0, test, Question.answered_by(PROBED_HEAD))
    for name, crew_of in _crews(ModelSource(lm.name), ModelInHand(lm)).items():
        with tempfile.TemporaryDirectory() as place, crew_of() as crew:
            made = load_experiment(setting, lm, Path(place) / "one")
            wall, spent = _measured(crew, Path(place), _work(what, made, crew))
        found = wall, sum(spent), max(spent)
        base = base if base[0] else found
        numbers = " | ".join(f"{seconds:.1f}" for seconds in found)
        ratios = f"{base[0] / found[0]:.2f} | {base[2] / found[2]:.2f}"
        rows.append(f"| {what}, n = {n} | {name} | {numbers} | {ratios} | {os.getloadavg()[0]:.1f} |")
        print(rows[-1], flush=True)
    return rows


def overhead() -> None:
    """Milliseconds per item that does nothing, and bytes that travel for an item of a kernel and back."""
    for name, crew_of in _crews(Nothing(), Nothing()).items():
        with tempfile.TemporaryDirectory() as place, crew_of() as crew:
            items = [Empty(Path(place) / f"{number}") for number in range(ITEMS)]
            wall, spent = _measured(crew, Path(place), lambda crew=crew, items=items: crew.carry_out("items", items))
        print(
            f"| {name} | {1000 * wall / ITEMS:.2f} | {1000 * sum(spent) / ITEMS:.2f} | {os.getloadavg()[0]:.1f} |",
            flush=True,
        )


def moved(lm: LanguageModel, data: str, n: int, test: int) -> None:
    """Bytes of an item and of what comes back, and of the factors of its examples, which do not travel."""
    setting = Setting(DataSource(data), Sampled(n), 0, test, Question.answered_by(PROBED_HEAD))
    sent: list[TileItem] = []

    class Counted(ThisProcess):
        def carry_out(self, what: str, items: Sequence, progress: object = None) -> list[Path]:
            sent.extend(items)
            return super().carry_out(what, items)

    with tempfile.TemporaryDirectory() as place, Counted(1, ModelInHand(lm)) as crew:
        made = load_experiment(setting, lm, Path(place) / "one")
        _work("tiles", made, crew)()
        there = len(pickle.dumps(sent[0]))
        back = len(pickle.dumps(Done(sent[0].out[0] / "tiles" / "0-0.npy")))
        job = joint_job(made.outputs, *made.examples)
        held = sum(job.source.footprint(0))
    print(
        f"{len(sent)} tiles; {there:,} bytes to a worker and {back:,} back per tile; {held:,} bytes of an example's factors"
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tiles", "features", "runs", "items", "bytes"])
    parser.add_argument("model", nargs="?", default="minilm")
    parser.add_argument("data", nargs="?", default="movies")
    parser.add_argument("n", nargs="?", type=int, default=64)
    parser.add_argument("--test", type=int, default=64)
    asked = parser.parse_args()
    if asked.what == "items":
        print("| engine | wall, ms per item | CPU, ms per item | load |\n|---|---|---|---|")
        overhead()
        return
    lm = ModelSource(asked.model).opened()
    if asked.what == "bytes":
        moved(lm, asked.data, asked.n, asked.test)
        return
    print("| work | engine | wall, s | CPU, all, s | CPU, busiest, s | speed-up, wall | speed-up, CPU | load |")
    print("|---|---|---|---|---|---|---|---|")
    speed_up(asked.what, lm, asked.data, asked.n, asked.test)


if __name__ == "__main__":
    main()
