"""Wrong labels against cleanlab, the loss of a probe, and chance: the tables of docs/results/labels.md.

    PYTHONPATH=src:CLEANLAB python -m benchmarks.labels --data DATA --models bert-tiny --seeds 13,21,42 --out wrong

DATA has a folder for each task with train.jsonl, CLEANLAB a folder with cleanlab 2.9 (`pip install --target`). Kernels and
features are kept in --out. Rows are the first N different texts by a hash; 10% of their labels are changed, uniformly over
the other classes, or to the class that a probe confuses a text with (drawn by its probability). `movies` has no labels
changed: what is looked for are rows that 20 people rated between -1 and 1 on a scale from -4 to 4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from foretune.analysis.label_noise import label_noise
from foretune.analysis.leave_one_out import ridge_left_out
from foretune.experiment.data import found_examples
from foretune.experiment.experiment import Experiment, Model, Work, load_experiment
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.labelling.kernel import label_kernel
from foretune.labelling.rows import RowsToAsk, as_training, labelled_rows
from foretune.text.builtin import load_rows

SHARE, FOLDS, UNCLEAR = 0.1, 5, 1.0
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the probe behind cleanlab; the best of them on average is its row."""
SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def rows_of(task: str, data: Path, count: int) -> list[dict]:
    """The first different texts by a hash."""
    rows = load_rows("movies") if task == "movies" else map(json.loads, (data / task / "train.jsonl").open())
    texts = {str(row["text"]): dict(row) for row in rows}
    return sorted(texts.values(), key=lambda row: hashlib.sha256(str(row["text"]).encode()).hexdigest())[:count]


def probed(features: np.ndarray, y: np.ndarray, seed: int, strength: float, *, scaled: bool = True) -> np.ndarray:
    """5-fold probabilities of logistic regression on features."""
    spread = features.std(0)
    alive = spread > 1e-6 * np.sqrt((spread**2).mean())
    x = (features[:, alive] - features[:, alive].mean(0)) / (spread[alive] if scaled else np.sqrt(spread**2).mean())
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return cross_val_predict(LogisticRegression(C=strength, max_iter=500), x, y, cv=folds, method="predict_proba")


def changed(kind: str, features: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Labels, a share of them changed."""
    generator, classes, found = np.random.default_rng(seed), int(y.max()) + 1, y.copy()
    count = round(SHARE * len(y))
    if kind == "uniform":
        places = generator.choice(len(y), count, replace=False)
        found[places] = (y[places] + generator.integers(1, classes, count)) % classes
        return found
    others = probed(features, y, 0, 0.1, scaled=False)
    others[np.arange(len(y)), y] = 0
    places = generator.choice(len(y), count, replace=False, p=others.max(1) / others.max(1).sum())
    found[places] = others[places].argmax(1)
    return found


def scores(kernels: dict[str, tuple], features: np.ndarray, y: np.ndarray, seed: int) -> dict[str, tuple]:
    """Method -> suspicion of each row, seconds, and for ours the interval of the share of wrong labels."""
    from cleanlab.rank import get_label_quality_scores

    found, classes, places = (
        {"random": (np.random.default_rng(seed).random(len(y)), 0.0, None)},
        int(y.max()) + 1,
        np.arange(len(y)),
    )
    for name, kernel in kernels.items():
        start = time.perf_counter()
        fit = ridge_left_out(kernel, y, classes)
        taken = time.perf_counter() - start
        noise = label_noise(fit.outputs, y)
        found[f"foretune {name}"] = (-fit.probabilities[places, y], taken, (noise.low, noise.high, noise.can_tell))
    for strength in STRENGTHS:
        start = time.perf_counter()
        p = probed(features, y, seed, strength)
        taken = time.perf_counter() - start
        found[f"loss, C={strength:g}"] = (-np.log(np.maximum(p[places, y], 1e-300)), taken, None)
        for score in SCORES:
            values = -get_label_quality_scores(y, p, method=score)
            found[f"cleanlab {score}, C={strength:g}"] = (values, taken, None)
    return found


def every_row(
    setting: Setting, model: Model, folder: Path | None = None, work: Work | None = None
) -> tuple[Experiment, RowsToAsk]:
    """A model asked of all rows of a setting, as `foretune labels` asks it; and the rows."""
    found = found_examples(setting)
    read = labelled_rows(found)
    return load_experiment(setting, model, folder, work, as_training(found, read)), read


def cell(model: str, task: str, options: argparse.Namespace) -> tuple[dict, np.ndarray, list[dict]]:
    """Kernels, features and rows of a task."""
    rows = rows_of(task, options.data, options.n)
    setting = Setting(DataSource(rows), test=None, question=Question(output="head", head="random", max_length=64))
    place = options.out / model / f"{task}-{options.n}"
    place.mkdir(parents=True, exist_ok=True)
    made, read = every_row(setting, model, place)
    kernels = {}
    for how in options.kernels.split(","):
        start = time.perf_counter()
        kernel = label_kernel(made, made.split.train, how)
        taken = time.perf_counter() - start
        kernels[how] = kernel.factors
        features = kernel.features
        print(model, task, how, f"{taken:.1f} s", flush=True)
    return kernels, features, [replace(row).__dict__ | rows[row.row] for row in read.rows]


def main() -> None:
    """Measure, and print medians over tasks and seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="bert-tiny")
    parser.add_argument("--tasks", default="mr,sst2,subj,trec,mpqa,cola,movies")
    parser.add_argument("--seeds", default="13,21,42")
    parser.add_argument("--kernels", default="gradients,features")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    table: dict[tuple, list] = defaultdict(list)
    held: dict[str, list] = defaultdict(list)
    for model in options.models.split(","):
        for task in options.tasks.split(","):
            kernels, features, rows = cell(model, task, options)
            names = sorted({row["label"] for row in rows})
            right = np.array([names.index(row["label"]) for row in rows])
            for seed in map(int, options.seeds.split(",")):
                for kind in ["human"] if task == "movies" else ["uniform", "confusable"]:
                    y = right if kind == "human" else changed(kind, features, right, seed)
                    wrong = np.array([abs(row["rating"]) < UNCLEAR for row in rows]) if kind == "human" else y != right
                    for name, (values, taken, noise) in scores(kernels, features, y, seed).items():
                        first = np.argsort(-values, kind="stable")[:20]
                        table[model, kind, name].append(
                            (task, seed, average_precision_score(wrong, values), float(wrong[first].mean()), taken)
                        )
                        if noise is not None and kind == "uniform":
                            held[f"{model} {name}"].append(
                                (noise[0] <= SHARE <= noise[1], noise[2], noise[1] - noise[0])
                            )
    for model, kind in dict.fromkeys(key[:2] for key in table):
        print(f"\n### {model}, {kind}\n\n| method | AUPR, median | mean | right of the first 20 | seconds |")
        print("|---|---|---|---|---|")
        of_kind = {
            name: np.array([each[2:] for each in table[model, kind, name]])
            for *at, name in table
            if at == [model, kind]
        }
        for name, values in sorted(of_kind.items(), key=lambda line: -np.median(line[1][:, 0])):
            aupr, first, seconds = values.T
            shown = f"{np.median(aupr):.3f} | {aupr.mean():.3f} | {first.mean():.2f} | {seconds.mean():.3f}"
            print(f"| {name} | {shown} |")
    for name, values in held.items():
        inside, told, width = (np.array(part) for part in zip(*values, strict=True))
        print(
            f"\nShare of wrong labels, {name}: the interval holds {SHARE:.0%} in {inside.mean():.0%} of {len(inside)}; told"
            f" in {told.mean():.0%}, of which {inside[told].mean():.0%} hold it; median width {np.median(width):.2f}"
        )
    file = options.out / f"table-{options.models}-{options.seeds}.json"
    file.write_text(json.dumps([[*key, values] for key, values in table.items()]))


if __name__ == "__main__":
    main()
