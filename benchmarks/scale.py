"""What a forecast from tangent features costs as examples and labels grow, and how far it is from one of exact kernels.

    OMP_NUM_THREADS=2 python -m benchmarks.scale OUT                        every row that OUT does not have yet
    OMP_NUM_THREADS=2 python -m benchmarks.scale OUT --only head,labels --share 0.1
    OMP_NUM_THREADS=2 python -m benchmarks.scale OUT --data FOLDER          six tasks: FOLDER/{mr,sst2,...}/*.jsonl

Each row runs in a process of its own and is kept in OUT/NAME.json; OUT/table.md is written after each. `--share` makes all
numbers of examples smaller. A row of cost is `ft.forecast` as people call it, from the loaded model to the written folder;
the peak is the largest resident memory above that of the loaded model. More rows than a task has are made of halves of two
texts of one label. A row `tasks-NAME` makes both kernels of the same examples and compares both forecasts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import foretune as ft
from foretune.analysis.label_regression import label_regression
from foretune.analysis.rank_statistics import rank_correlation
from foretune.candidates.candidate import formulas_for, named_candidates, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.candidates.sketched import sketch_for
from foretune.experiment.data import drawn
from foretune.experiment.experiment import Experiment, load_experiment
from foretune.experiment.sample import Full, Sampled
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.finetune.lora_config import adaptable
from foretune.forecasting.forecast import PoolForecast, pool_forecast
from foretune.kernels.compute import kernels_of
from foretune.kernels.feature_pass import tangent_features
from foretune.kernels.job import Job, joint_job

BUILT_IN = "movies"
TASKS = {"mr": None, "sst2": None, "subj": None, "mpqa": None, "cola": None, "sst5": ("positive", "negative")}
"""Tasks with enough rows -> the labels that are taken; None for all."""


@dataclass(frozen=True)
class Cost:
    """A forecast whose cost is measured.

    Attributes:
        model, output: of the forecast.
        n: training examples.
        labels: how many; 2 without `difference` have two outputs.
        others: validation and test examples.
        difference: two labels have one output.
    """

    model: str
    output: str
    n: int
    labels: int = 2
    others: tuple[int, int] = (1000, 500)
    difference: bool = True


COSTS = {
    "head": Cost("minilm", "head", 10_000),
    "labels": Cost("minilm", "head", 1_000, labels=6, others=(300, 200)),
    "prompt": Cost("smollm2", "prompt", 2_000, others=(300, 200)),
    **{f"n-{n}": Cost("minilm", "head", n, others=(n // 5, n // 5)) for n in (1_500, 3_000, 6_000)},
    **{f"c-{c}": Cost("minilm", "head", 520, c, (260, 260), difference=False) for c in (2, 6, 20)},
}


def _texts(data: str | None) -> list[tuple[str, str]]:
    """Texts and labels of a task of two labels."""
    source = BUILT_IN if data is None else str(Path(data) / "mr")
    split = drawn(Setting(DataSource(source), Full(), 0, 1, Question(output="head"))).split
    return [(each.text, str(each.label)) for each in (*split.train, *split.validation, *split.test)]


def _rows(texts: Sequence[tuple[str, str]], count: int, labels: int) -> list[dict[str, str]]:
    """So many different rows: the texts, then halves of two of one label; for more labels these are numbered through."""
    generator, found = random.Random(0), list(texts)  # noqa: S311
    generator.shuffle(found)
    by_label: dict[str, list[list[str]]] = {}
    for text, label in texts:
        by_label.setdefault(label, []).append(text.split())
    known = {text for text, _ in found}
    while len(found) < count:
        label = generator.choice(sorted(by_label))
        first, second = generator.sample(by_label[label], 2)
        text = " ".join((*first[: len(first) // 2], *second[len(second) // 2 :]))
        if text and text not in known:
            known.add(text)
            found.append((text, label))
    numbered = enumerate(found[:count])
    return [
        {"text": text, "label": label if labels == 2 else f"kind {place % labels}"} for place, (text, label) in numbered
    ]


def cost(what: Cost, data: str | None, share: float) -> dict[str, object]:
    """A forecast as people call it, measured."""
    n, v, t = (max(2 * what.labels, round(count * share)) for count in (what.n, *what.others))
    rows = _rows(_texts(data), n + v + t, what.labels)
    model = ft.load_model(what.model)
    before = psutil.Process().memory_info().rss
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        forecast = ft.forecast(
            model,
            rows[:n],
            validation_data=rows[n : n + v],
            test_data=rows[n + v :],
            n=n,
            test=t,
            output=what.output,  # type: ignore[arg-type]
            difference=what.difference,
            features="sketched",
            memory="3GiB",
            out=Path(folder) / "forecast",
        )
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    stages = {stage["name"]: stage["seconds"] for stage in forecast.record["stages"]}
    outputs = 1 if what.labels == 2 and what.difference else what.labels
    return {
        "kind": "cost", "model": what.model, "n": n, "examples": n + v + t, "outputs": outputs,
        "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": peak / 2**30, "disk": disk / 2**30,
        "stages": stages, "verdict": forecast.verdict,
    }  # fmt: skip


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def _job(made: Experiment) -> Job:
    return joint_job(made.outputs, *made.examples)


def _label_errors(pool: Pool) -> dict[str, np.ndarray]:
    """Label regression of the named sets tuned in full: the errors of the validation examples."""
    found = {}
    for item in named_candidates(pool.kernels, pool.sizes):
        if item.rank is None:
            found[item.title] = pool.evidence(item).own_labels.errors
            pool.forget(item)
    return found


def _ceilings(pool: Pool) -> tuple[float, float]:
    """Rank correlation of exact label errors by two halves of the validation, and by two halves of the training rows."""
    inputs, n, v = pool.inputs, pool.inputs.n_train, pool.inputs.n_validation
    halves: list[list[float]] = [[], []]
    whole = []
    for item in named_candidates(pool.kernels, pool.sizes):
        if item.rank is not None:
            continue
        kernel = pool.evidence(item).kernel
        whole.append(pool.evidence(item).own_labels.errors)
        for half in (0, 1):
            rows = np.arange(half, n, 2)
            columns = np.concatenate([rows, np.arange(n, n + v)])
            halves[half].append(label_regression(kernel[rows][:, :, columns], inputs.y[columns]).error)
        pool.forget(item)
    errors = np.array(whole)  # (sets, v)
    by_validation = rank_correlation(errors[:, ::2].mean(1), errors[:, 1::2].mean(1))
    return float(by_validation), float(rank_correlation(*map(np.array, halves)))


def beside(task: str, data: str, share: float) -> dict[str, object]:
    """Exact kernels and features of the same examples, and the forecasts from both."""
    n = round(500 * share)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{task}.jsonl"
        file.write_text("".join(part.read_text() for part in sorted((Path(data) / task).glob("*.jsonl"))))
        source = DataSource(str(file), labels=TASKS[task]) if TASKS[task] else DataSource(str(file))
        setting = Setting(source, Sampled(n), 0, round(200 * share), Question(output="head"))
        made = load_experiment(setting, "minilm")
        inputs, sizes = made.inputs, parameter_sizes(made.outputs)
    job = _job(made)
    formulas = formulas_for(job.kinds, targets=adaptable(made.outputs, job.kinds).targets)
    exact_seconds, exact = _timed(lambda: kernels_of(job, formulas, "8GiB"))
    sketch = sketch_for(job, formulas, "8GiB", on_disk=False)
    seconds, features = _timed(lambda: tangent_features(_job(made), formulas, sketch, "8GiB"))
    pools = [Pool.sized(kernels, inputs, sizes) for kernels in (exact, features)]
    ceilings = _ceilings(pools[0])
    errors = [{title: found.mean() for title, found in _label_errors(pool).items()} for pool in pools]
    results: list[PoolForecast] = [pool_forecast(pool) for pool in pools]
    scored = [{item.title: item.score for item in found.comparison.candidates} for found in results]
    both = sorted(set(scored[0]) & set(scored[1]))

    def ranks(sides: Sequence[Mapping[str, Any]], names: Sequence[str], of: Callable[[Any], float]) -> float:
        first, second = (np.array([of(side[name]) for name in names]) for side in sides)
        return float(rank_correlation(first, second)) if len(names) > 2 else math.nan

    return {
        "kind": "beside", "task": task, "n": n, "sets": len(errors[0]), "compared": len(both),
        "ranks": ranks(errors, list(errors[0]), float),
        "error": float(np.sqrt(np.mean([(errors[0][name] - errors[1][name]) ** 2 for name in errors[0]]))),
        "spread": float(np.std(list(errors[0].values()))),
        "ranks_label": ranks(scored, both, lambda score: score.label_error),
        "ranks_loss": ranks(scored, both, lambda score: score.validation_loss),
        "other_validation": ceilings[0], "other_training": ceilings[1],
        "predicted": [found.predicted.score.value for found in results],
        "whole": [found.whole.score.value for found in results],
        "same_first": results[0].chosen.title == results[1].chosen.title,
        "exact_cpu": exact_seconds, "features_cpu": seconds,
    }  # fmt: skip


def _table(out: Path) -> str:
    """What is there, as tables."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
    costs = {name: each for name, each in found.items() if each["kind"] == "cost"}
    lines = [
        "| row | model | N | examples | C | CPU s | wall s | peak, GiB | disk, GiB | slowest stages, s |",
        "|---" * 10 + "|",
    ]
    for name, each in costs.items():
        slow = sorted(each["stages"].items(), key=lambda item: -item[1])[:3]
        stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in slow)
        numbers = f"{each['cpu']:.0f} | {each['wall']:.0f} | {each['peak']:.2f} | {each['disk']:.1f}"
        lines.append(
            f"| {name} | {each['model']} | {each['n']} | {each['examples']} | {each['outputs']} | {numbers} | {stages} |"
        )
    for kind, size in (("n-", "examples"), ("c-", "outputs")):
        rows = sorted((each[size], each["cpu"]) for name, each in costs.items() if name.startswith(kind))
        for (less, before), (more, after) in pairwise(rows):
            exponent = math.log(after / before) / math.log(more / less)
            lines.append(f"\nCPU time from {less} to {more} {size}: exponent {exponent:.2f}")
    tasks = [each for each in found.values() if each["kind"] == "beside"]
    if tasks:
        lines += [
            "",
            "| task | N | sets | ranks, label error | rms | spread | other validation rows | other training rows "
            "| compared | ranks, label error | ranks, loss | predicted: exact, features | whole: exact, features "
            "| same first | exact, CPU s | features, CPU s |",
            "|---" * 16 + "|",
        ]
    for each in tasks:
        cells = [
            each["task"], each["n"], each["sets"], f"{each['ranks']:.2f}", f"{each['error']:.3f}", f"{each['spread']:.3f}",
            f"{each['other_validation']:.2f}", f"{each['other_training']:.2f}", each["compared"],
            f"{each['ranks_label']:.2f}", f"{each['ranks_loss']:.2f}", ", ".join(f"{x:.3f}" for x in each["predicted"]),
            ", ".join(f"{x:.3f}" for x in each["whole"]), "yes" if each["same_first"] else "no",
            f"{each['exact_cpu']:.0f}", f"{each['features_cpu']:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if tasks:
        off = [abs(each["predicted"][0] - each["predicted"][1]) for each in tasks]
        ranks = [each["ranks"] for each in tasks]
        lines.append(
            f"\nMedian of {len(tasks)}: predicted score off by {np.median(off):.3f}, ranks {np.median(ranks):.2f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make every row that is missing, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="folder of tasks; without it the built-in one, and no rows `tasks-*`")
    parser.add_argument("--only", default="", help="names of rows, or how they begin, with commas")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        kind, _, task = given.one.partition("tasks-")
        found = beside(task, given.data, given.share) if task else cost(COSTS[kind], given.data, given.share)
        (given.out / f"{given.one}.json").write_text(json.dumps(found, indent=1))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    names = [*COSTS, *(f"tasks-{task}" for task in TASKS if given.data)]
    wanted = tuple(filter(None, given.only.split(",")))
    for name in names:
        if (given.out / f"{name}.json").exists() or (wanted and not name.startswith(wanted)):
            continue
        command = [sys.executable, "-m", "benchmarks.scale", str(given.out), "--one", name, "--share", str(given.share)]
        finished = subprocess.run(
            [*command, *(["--data", given.data] if given.data else [])], env=os.environ, check=False
        )
        print(f"{name}: {'made' if finished.returncode == 0 else 'FAILED'}", flush=True)
        (given.out / "table.md").write_text(_table(given.out))
    print(_table(given.out))


if __name__ == "__main__":
    main()
