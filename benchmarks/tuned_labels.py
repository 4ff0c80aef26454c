"""What `foretune labels` and `foretune explain` say, judged by real fine-tuning: the tables of docs/results/labels.md.

    PYTHONPATH=src:CLEANLAB python -m benchmarks.tuned_labels wrong --data DATA --tasks mr --seeds 13,21,42 --out tuned
    PYTHONPATH=src python -m benchmarks.tuned_labels next --data DATA --tasks mr --seeds 13,21,42 --out tuned
    PYTHONPATH=src python -m benchmarks.tuned_labels curve --data DATA --tasks mr --seeds 13,21,42 --out tuned
    PYTHONPATH=src python -m benchmarks.tuned_labels influence --data DATA --tasks mr --seeds 13 --out tuned
    PYTHONPATH=src:CLEANLAB python -m benchmarks.tuned_labels table --out tuned

DATA has a folder for each task with train.jsonl and test.jsonl, CLEANLAB a folder with cleanlab 2.9 (`pip install
--target`). A real run is LoRA of rank 8 on all linear layers with its head (or label words, for --output prompt), AdamW,
batches of 16, to the last step. Every task and seed is a cell, a few lines of JSON in OUT; `table` joins all files there.

    wrong       cleanlab on 5-fold probabilities of real runs, beside foretune, on rows and noises of `benchmarks.labels`
    next        accuracy of real runs on rows chosen at random, by the margin of a probe, and by foretune, in rounds of 32;
                --ways names others: `both` is on features and gradients together, with balanced classes
    curve       accuracy of real runs on N, 2 N and 4 N rows, beside what foretune says of them from N, with either kernel
                (--real FILE takes the real runs from a file that it has written before)
    influence   rank correlation, over 60 halves of the rows, of real runs on a half with the summed influences of its rows
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

from benchmarks.balanced_rows import balanced_rows
from benchmarks.labels import FOLDS, SCORES, UNCLEAR, changed, every_row, rows_of
from benchmarks.many_runs import BATCH, Wanted, many_runs
from foretune.analysis.example_kernel import Factors, gaussian, kernel_factors
from foretune.analysis.influence import row_influences
from foretune.analysis.leave_one_out import ridge_left_out
from foretune.analysis.losses import LogLoss, targets
from foretune.experiment.experiment import Experiment, Work
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import Run, fine_tuned
from foretune.finetune.training import Training
from foretune.kernels.compute import kernels_of
from foretune.kernels.job import separate_job
from foretune.kernels.sgd import SGD
from foretune.labelling.budget import budget_of
from foretune.labelling.kernel import label_kernel, row_kernel
from foretune.labelling.next_rows import rows_to_label
from foretune.labelling.rows import Row
from foretune.model.encoding import Encoded
from foretune.model.load import LanguageModel, load_model
from foretune.text.split import Split

SIZES = (64, 96, 128, 192, 256)
"""Labelled rows at which real runs are made of each way to choose them; the first 32 are random."""
ROUND, DRAWN, SUBSETS, ASKED, TIMES = 32, 3, 60, 40, (1, 2, 4)


@dataclass(frozen=True)
class Cell:
    """A model and rows: their class numbers, the kernel of features between them, and how real runs are made."""

    made: Experiment
    rows: list[dict]
    y: np.ndarray
    labels: tuple[str, ...]
    features: np.ndarray
    rate: float
    epochs: float
    at_once: int
    pool: int = 0

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.labels)

    @cached_property
    def encoded(self) -> list[Encoded]:
        """The rows as the model reads them."""
        return [self.made.outputs.encode(example) for example in self.made.split.train]

    @cached_property
    def both(self) -> np.ndarray:
        """The mean of the kernels of features and of gradients between the rows of the pool."""
        gradients = label_kernel(self.made, self.made.split.train[: self.pool], "gradients").factors
        return (kernel_factors(gaussian(self.features[: self.pool])).matrix + gradients.matrix) / 2

    def steps(self, n: int) -> int:
        """Of a run on n rows."""
        return max(1, round(self.epochs * n / BATCH))

    def runs(self, wanted: Sequence[Wanted], rate: float | None = None) -> list[np.ndarray]:
        """The log-probabilities of each run, for the rows that it is asked of: (m, c); runs on about as many rows."""
        steps = self.steps(max(len(each.train) for each in wanted))
        found = []
        for start in range(0, len(wanted), self.at_once):
            some = wanted[start : start + self.at_once]
            found += many_runs(self.made.outputs, self.encoded, some, rate or self.rate, steps)
        return [log_softmax(np.hstack([0 * each, each]) if each.shape[1] == 1 else each, axis=1) for each in found]

    def accuracies(self, known: Sequence[Sequence[int]], test: np.ndarray, runs: int) -> np.ndarray:
        """Of real runs on some sets of rows, some runs of each: (sets, runs)."""
        wanted = [Wanted(rows, self.y, test, seed) for rows in known for seed in range(runs)]
        right = [(p.argmax(1) == self.y[test]).mean() for p in self.runs(wanted)]
        return np.array(right).reshape(len(known), runs)

    def whole_run(self, n: int) -> Run:
        """One run on the first n rows as users make it, asked of all; its model stays."""
        rows = self.made.split.train
        training = Training(
            optimiser=AdamWOptimiser(self.rate),
            batch_size=BATCH,
            steps=self.steps(n),
            evaluate_every=self.steps(n),
            best_by="loss",  # of the training rows: the last step
            dropout=False,
        )
        split = Split(train=rows[:n], validation=rows[:n], test=rows)
        return fine_tuned(self.made.outputs, self.made.task, split, LoRATuning(), training)


def train_and_test(task: str, options: argparse.Namespace) -> tuple[list[dict], int]:
    """Different texts of the training file and then of the test file, in an order by chance; how many the first are."""
    parts, seen = [], set()
    for name in ("train", "test"):
        rows = {}
        for row in map(json.loads, (options.data / task / f"{name}.jsonl").open()):
            if row["text"] not in seen:
                rows.setdefault(row["text"], row)
        seen.update(rows)
        order = np.random.default_rng(0).permutation(len(rows))
        parts.append([list(rows.values())[i] for i in order])
    return [*parts[0], *parts[1][: options.test]], len(parts[0])


def setting_of(task: str, rows: list[dict], options: argparse.Namespace) -> Setting:
    """All rows for training, and how they are asked."""
    plain = [{"text": row["text"], "label": row["label"]} for row in rows]
    if options.output == "prompt":
        source, question = DataSource(plain, task=task), Question(output="prompt", max_length=128)
    else:
        source, question = DataSource(plain), Question(output="head", head="random", max_length=64)
    return Setting(source, test=None, question=question)


def cell_of(lm: LanguageModel, task: str, rows: list[dict], options: argparse.Namespace) -> Cell:
    """Rows asked of a model with a random head, or by a prompt."""
    made, read = every_row(setting_of(task, rows, options), lm, work=Work(memory=options.memory))
    kernel = row_kernel(made, made.split.train)
    ordered = [rows[row.row] for row in read.rows]
    return Cell(made, ordered, read.y, read.labels, kernel.features, options.rate, options.epochs, options.at_once)


def wrong(lm: LanguageModel, task: str, seed: int, options: argparse.Namespace) -> Iterator[dict]:
    """Suspicion by foretune and by cleanlab on out-of-sample probabilities of real runs."""
    from cleanlab.rank import get_label_quality_scores

    cell = cell_of(lm, task, rows_of(task, options.data, options.n), options)
    start, places = time.perf_counter(), np.arange(len(cell.y))
    gradients = label_kernel(cell.made, cell.made.split.train, "gradients").factors
    taken = time.perf_counter() - start
    kernels = {"features": (kernel_factors(gaussian(cell.features)), 0.0), "gradients": (gradients, taken)}
    for kind in ["human"] if task == "movies" else ["uniform", "confusable"]:
        y = cell.y if kind == "human" else changed(kind, cell.features, cell.y, seed)
        bad = np.array([abs(row["rating"]) < UNCLEAR for row in cell.rows]) if kind == "human" else y != cell.y
        values, seconds = {}, {}
        for how, (factors, taken) in kernels.items():
            start = time.perf_counter()
            values[f"foretune, {how}"] = -ridge_left_out(factors, y, cell.classes).probabilities[places, y]
            seconds[f"foretune, {how}"] = taken + time.perf_counter() - start
        folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(places, y))
        for rate in options.rates:
            start = time.perf_counter()
            p = np.zeros((len(y), cell.classes))
            found = cell.runs([Wanted(train, y, held, seed) for train, held in folds], rate)
            for (_, held), each in zip(folds, found, strict=True):
                p[held] = np.exp(each)
            taken = time.perf_counter() - start
            for score in SCORES:
                name = f"cleanlab {score}, AdamW {rate:g}"
                values[name], seconds[name] = -get_label_quality_scores(y, p, method=score), taken
        for name, each in values.items():
            first = np.argsort(-each, kind="stable")[:20]
            yield {
                "kind": kind, "method": name, "aupr": average_precision_score(bad, each),
                "first": float(bad[first].mean()), "seconds": seconds[name],
            }  # fmt: skip


def by_margin(cell: Cell, known: list[int], left: np.ndarray) -> np.ndarray:
    """Rows whose two likeliest classes are nearest to each other for a probe on the features."""
    x = cell.features - cell.features[known].mean(0)
    x = x / np.sqrt((x[known] ** 2).mean())
    p = np.sort(LogisticRegression(max_iter=500).fit(x[known], cell.y[known]).predict_proba(x[left]), axis=1)
    return left[np.argsort(p[:, -1] - p[:, -2], kind="stable")[:ROUND]]


def by_foretune(cell: Cell, known: list[int], left: np.ndarray) -> np.ndarray:
    """The rows of `foretune labels --unlabelled`."""
    factors = kernel_factors(gaussian(cell.features[[*known, *left]]))
    rows = [Row("", int(i), "", None, None) for i in left]
    found = rows_to_label(factors, cell.y[known], cell.classes, rows, ROUND)
    return np.array([row.row for row in found.rows])


def by_both(cell: Cell, known: list[int], left: np.ndarray) -> np.ndarray:
    """By gradients and features together, all classes balanced."""
    every = [*known, *left]
    return left[balanced_rows(cell.both[np.ix_(every, every)], cell.y[known], cell.classes, ROUND)]


WAYS: dict[str, Callable[[Cell, list[int], np.ndarray], np.ndarray]] = {
    "margin": by_margin,
    "foretune": by_foretune,
    "both": by_both,
}


def next_rows(lm: LanguageModel, task: str, seed: int, options: argparse.Namespace) -> Iterator[dict]:
    """Accuracies of real runs on rows that were chosen."""
    rows, n = train_and_test(task, options)
    order = np.random.default_rng(seed).permutation(n)[: options.pool]
    cell = replace(cell_of(lm, task, [*(rows[i] for i in order), *rows[n:]], options), pool=len(order))
    pool, test = np.arange(len(order)), np.arange(len(order), len(cell.y))
    found: dict[str, dict[int, list]] = defaultdict(dict)
    for name in [f"random {draw}" for draw in range(DRAWN)] + options.ways.split(","):
        known, generator = list(pool[:ROUND]), np.random.default_rng([seed, len(name), ord(name[-1])])
        while len(known) < SIZES[-1]:
            left = np.setdiff1d(pool, known)
            if name in WAYS:
                known += list(WAYS[name](cell, known, left))
            else:
                known += list(generator.choice(left, ROUND, replace=False))
            found[name][len(known)] = list(known)
    for size in SIZES:
        every = cell.accuracies([sets[size] for sets in found.values()], test, options.runs)
        for name, each in zip(found, every, strict=True):
            yield {"way": name.split()[0], "rows": size, "accuracies": each.tolist()}


def curve(lm: LanguageModel, task: str, seed: int, options: argparse.Namespace) -> Iterator[dict]:
    """What `foretune labels` says of more labels, with either kernel, beside accuracies of real runs."""
    rows, n = train_and_test(task, options)
    order = np.random.default_rng(seed).permutation(n)
    ordered, count = [*(rows[i] for i in order), *rows[n:]], options.n
    made, read = every_row(setting_of(task, ordered[:count], options), lm, work=Work(memory=options.memory))
    start, told = time.process_time(), {}
    for how in ("features", "gradients"):
        kernel = label_kernel(made, made.split.train, how)
        taken, start = time.process_time() - start, time.process_time()
        told[how] = {point.times: point for point in budget_of(read, kernel, seed).points}, taken
    real = known_runs(f"{task} {seed}", options.real)
    if not real:
        cell = cell_of(lm, task, ordered, options)
        sets = {times: range(count * times) for times in TIMES if count * times <= n}
        real = {
            t: float(cell.accuracies([some], np.arange(n, len(cell.y)), options.runs).mean())
            for t, some in sets.items()
        }
    for how, (points, seconds) in told.items():
        for times, accuracy in real.items():
            point = points[times]
            yield {
                "times": times, "real": accuracy, "kernel": how, "predicted": point.accuracy, "low": point.low,
                "high": point.high, "can_tell": point.can_tell, "seconds": seconds,
            }  # fmt: skip


def known_runs(cell: str, file: Path | None) -> dict[int, float]:
    """Times of the rows -> accuracy of real runs of a cell in a file of `curve`."""
    lines = [] if file is None else map(json.loads, file.read_text().splitlines())
    return {line["times"]: line["real"] for line in lines if line["cell"] == cell}


def summed(cell: Cell, n: int, options: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Method -> influence (asked, rows) of each row on the log-odds of the right class, and seconds."""
    wanted, asked = np.eye(cell.classes)[cell.y[:n]], np.arange(n, len(cell.y))
    values, seconds = {}, {}

    def representer(kernel: Factors) -> np.ndarray:
        matrix = kernel.matrix
        fit = ridge_left_out(kernel_factors(matrix[:n, :n]), cell.y[:n], cell.classes)
        found = row_influences(matrix[:n, :n], matrix[n:, :n], wanted, fit.strength)
        return found.removals[np.arange(len(asked)), :, cell.y[asked]]

    start = time.perf_counter()
    values["foretune, features"] = representer(kernel_factors(gaussian(cell.features)))
    seconds["foretune, features"] = time.perf_counter() - start
    start = time.perf_counter()
    values["foretune, gradients"] = representer(row_kernel(cell.made, cell.made.split.train, "gradients").factors)
    seconds["foretune, gradients"] = time.perf_counter() - start
    start = time.perf_counter()
    run = cell.whole_run(n)
    seconds["one run"] = time.perf_counter() - start
    start = time.perf_counter()
    job = separate_job(run.outputs, cell.made.split.train, None, list(run.parameters_after))
    blocks = kernels_of(job, [SGD()], options.memory)["sgd"].total()  # (m, c, m, c)
    side = targets(cell.y, blocks.shape[1])
    doubt = -LogLoss().derivative(run.test_logits.copy(), side)
    slopes = np.einsum("ic,icjd,jd->ij", side[asked], blocks[n:, :, :n], doubt[:n])
    values["gradients of the run, inner products"] = slopes
    mixed = np.einsum("icjc->ij", blocks)
    ridge = 0.1 * np.trace(mixed[:n, :n]) / n
    inverse = np.linalg.inv(mixed[:n, :n] + ridge * np.eye(n))
    agree = side[asked] @ side[:n].T
    weight = np.abs(doubt[:n]).max(1)
    values["TRAK of the run, exact gradients"] = (mixed[n:, :n] @ inverse) * agree * weight
    seconds["TRAK of the run, exact gradients"] = time.perf_counter() - start
    return values, seconds


def influence(lm: LanguageModel, task: str, seed: int, options: argparse.Namespace) -> Iterator[dict]:
    """Linear datamodelling scores, and how far two runs on one half agree."""
    rows, n = train_and_test(task, options)
    order = np.random.default_rng(seed).permutation(n)[: options.n]
    chosen = [*(rows[i] for i in order), *rows[n : n + ASKED]]
    cell = cell_of(lm, task, chosen, options)
    n, asked = len(order), np.arange(len(order), len(chosen))
    values, seconds = summed(cell, n, options)
    generator, parts = np.random.default_rng(seed), []
    while len(parts) < options.subsets:
        part = np.sort(generator.permutation(n)[: n // 2])
        if len(set(cell.y[part])) == cell.classes:
            parts.append(part)
    found = cell.runs([Wanted(part, cell.y, asked, run) for part in parts for run in range(options.runs)])
    right = np.array([p[np.arange(len(asked)), cell.y[asked]] for p in found])
    odds = right - np.log(np.maximum(-np.expm1(right), 1e-12))
    outcome = odds.reshape(len(parts), options.runs, len(asked))
    for name, each in values.items():
        told = np.array([each[:, part].sum(1) for part in parts])  # (subsets, asked)
        yield {
            "method": name, "score": _ranked(told, outcome.mean(1)), "seconds": seconds.get(name),
            "run": seconds["one run"],
        }  # fmt: skip
    if options.runs > 1:
        yield {"method": "another run", "score": _ranked(outcome[:, 0], outcome[:, 1]), "seconds": None, "run": 0.0}


def _ranked(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.nanmean([spearmanr(a, b).statistic for a, b in zip(one.T, other.T, strict=True)]))


PARTS: dict[str, Any] = {"wrong": wrong, "next": next_rows, "curve": curve, "influence": influence}


def _of(lines: list[dict], key: str) -> dict[Any, list[dict]]:
    found: dict[Any, list[dict]] = defaultdict(list)
    for line in lines:
        found[line[key]].append(line)
    return found


def wrong_table(lines: list[dict]) -> Iterator[str]:
    """Medians over tasks and seeds."""
    for kind, of_kind in _of(lines, "kind").items():
        yield f"\n| {kind}: method | AUPR, median | mean | right of the first 20 | seconds | cells |\n|{'---|' * 6}"
        for method, found in _of(of_kind, "method").items():
            aupr, first, seconds = (np.array([each[key] for each in found]) for key in ("aupr", "first", "seconds"))
            shown = f"{np.median(aupr):.3f} | {aupr.mean():.3f} | {first.mean():.2f} | {np.median(seconds):.3f}"
            yield f"| {method} | {shown} | {len(found)} |"


def rows_needed(accuracies: np.ndarray, wanted: float) -> float:
    """Labelled rows at which a curve over `SIZES` first reaches an accuracy; twice the last where it does not."""
    best = np.maximum.accumulate(accuracies)
    if best[-1] < wanted:
        return 2.0 * SIZES[-1]
    place = int(np.argmax(best >= wanted))
    if place == 0:
        return float(SIZES[0])
    share = (wanted - best[place - 1]) / (best[place] - best[place - 1])
    return SIZES[place - 1] + float(share) * (SIZES[place] - SIZES[place - 1])


def next_table(lines: list[dict]) -> Iterator[str]:
    """Accuracies by task, and the share of labels that a way saves where random rows have 128 and 256."""
    yield f"\n| task | way | {' | '.join(map(str, SIZES))} | saved of 128 | saved of 256 |\n|{'---|' * (len(SIZES) + 4)}"
    saved: dict[str, list] = defaultdict(list)
    for task, of_task in _of(lines, "task").items():
        curves = {
            way: np.array([np.mean([each["accuracies"] for each in found if each["rows"] == size]) for size in SIZES])
            for way, found in _of(of_task, "way").items()
        }
        for way, values in curves.items():
            shares = [1 - rows_needed(values, curves["random"][SIZES.index(size)]) / size for size in (128, 256)]
            saved[way].append(shares)
            cells = " | ".join(f"{100 * value:.1f}" for value in values)
            yield f"| {task} | {way} | {cells} | {shares[0]:.0%} | {shares[1]:.0%} |"
    for way, shares in saved.items():
        yield f"\n{way}: median saved {', '.join(f'{each:.0%}' for each in np.median(shares, axis=0))} of 128, 256"


def curve_table(lines: list[dict]) -> Iterator[str]:
    """Every cell, and how far curves are from real runs: as they stand, and with the real share of errors of N rows."""
    yield f"\n| cell | kernel | {' | '.join(f'{t}x: real, told (interval)' for t in TIMES)} |\n|{'---|' * (len(TIMES) + 2)}"
    for cell, of_cell in _of(lines, "cell").items():
        for kernel, found in _of(of_cell, "kernel").items():
            numbers = ([100 * each[key] for key in ("real", "predicted", "low", "high")] for each in found)
            shown = (f"{real:.1f}, {told:.1f} ({low:.0f} to {high:.0f})" for real, told, low, high in numbers)
            yield f"| {cell} | {kernel} | {' | '.join(shown)} |"
    yield "\n| kernel | labels | median error | moved by the errors of N | no change | interval holds it | cells |"
    yield "|---|---|---|---|---|---|---|"
    for kernel, of_kernel in _of(lines, "kernel").items():
        cells = _of(of_kernel, "cell")
        for times, found in _of(of_kernel, "times").items():
            first = [cells[each["cell"]][0] for each in found]
            off = [each["predicted"] - each["real"] for each in found]
            moved = [
                1 - (1 - each["predicted"]) * (1 - one["real"]) / (1 - one["predicted"]) - each["real"]
                for each, one in zip(found, first, strict=True)
            ]
            flat = [one["real"] - each["real"] for each, one in zip(found, first, strict=True)]
            held = sum(each["low"] <= each["real"] <= each["high"] for each in found)
            errors = " | ".join(f"{100 * np.median(np.abs(each)):.1f}" for each in (off, moved, flat))
            yield f"| {kernel} | {times}x | {errors} | {held} | {len(found)} |"


def influence_table(lines: list[dict]) -> Iterator[str]:
    """Scores by cell."""
    for model, found in _of(lines, "model").items():
        cells = list(_of(found, "cell"))
        yield f"\n| {model}: method | {' | '.join(cells)} | time over that of a run |\n|{'---|' * (len(cells) + 2)}"
        for method, each in _of(found, "method").items():
            scores = " | ".join(f"{line['score']:.2f}" for line in each)
            cost = [line["seconds"] / line["run"] for line in each if line["seconds"] is not None]
            yield f"| {method} | {scores} | {f'{np.median(cost):.3f}' if cost else ''} |"


TABLES = {"wrong": wrong_table, "next": next_table, "curve": curve_table, "influence": influence_table}


def main() -> None:
    """Measure a part, cell by cell, or print the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "table"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--output", choices=("head", "prompt"), default="head")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="mr,sst2,subj,trec,mpqa,cola")
    parser.add_argument("--seeds", default="13,21,42")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--pool", type=int, default=1000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--subsets", type=int, default=SUBSETS)
    parser.add_argument("--runs", type=int, default=2, help="of each set of rows")
    parser.add_argument("--real", type=Path, help="curve: a file with the real runs")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--rates", type=lambda text: [float(each) for each in text.split(",")], default=[5e-4, 2e-3])
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--ways", default="margin,foretune", help="of `next`, beside random rows")
    parser.add_argument("--at-once", type=int, default=10, help="runs in one pass")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.part == "table":
        for part, table in TABLES.items():
            files = sorted(options.out.rglob(f"{part}-*.jsonl"))
            lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
            for seeds, chosen in (("13, 21, 42", (13, 21, 42)), ("new", (87, 100))):
                found = [line for line in lines if line["seed"] in chosen]
                if found:
                    print(f"\n## {part}, seeds {seeds}", *table(found), sep="\n")
        return
    lm = load_model(options.model, device=options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.part}-{options.model}.jsonl"
    for seed in map(int, options.seeds.split(",")):
        for task in options.tasks.split(","):
            start = time.perf_counter()
            at = {"cell": f"{task} {seed}", "task": task, "seed": seed, "model": options.model}
            lines = [json.dumps(at | found) + "\n" for found in PARTS[options.part](lm, task, seed, options)]
            with file.open("a") as opened:
                opened.writelines(lines)
            print(options.part, task, seed, f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
