"""Learning curves continued, against fits to as many rows; and influences against heads that are trained again.

    PYTHONPATH=src python -m benchmarks.label_budget --data DATA --model minilm --seeds 13,21,42 --out budget

DATA has a folder for each task with train.jsonl and test.jsonl. From the labels of N rows, the error at 2 N and 4 N is
predicted, and compared with that of fits to 2 N and 4 N rows, asked of all rows behind these. The linear datamodelling
score is the rank correlation, over random halves of the N rows, of the summed influences of a half and the output of a
logistic regression on the features that is trained on that half; its mean over test rows. Features are kept in --out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from foretune.analysis.example_kernel import gaussian, kernel_factors
from foretune.analysis.influence import row_influences
from foretune.analysis.learning_curve import continued, part_errors
from foretune.analysis.leave_one_out import STRENGTHS, ridge_left_out
from foretune.model.batches import outputs_and_features
from foretune.model.head import HeadLogits
from foretune.model.load import load_model
from foretune.text.example import Example

TIMES, SUBSETS, ASKED = (2, 4), 60, 20


def features_of(task: str, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Features and class numbers of the first different texts in a random order."""
    file = options.out / f"{options.model}-{task}-{options.rows}.npz"
    if not file.exists():
        parts = [(options.data / task / f"{name}.jsonl").open() for name in ("train", "test")]
        rows = list(
            {row["text"]: row for part in parts for row in map(json.loads, reversed(part.readlines()))}.values()
        )
        rows = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[: options.rows]]
        labels = sorted({row["label"] for row in rows})
        head = HeadLogits(load_model(options.model), 2, "mean", difference=True, max_length=64)
        found = outputs_and_features(head, [Example(row["text"]) for row in rows])
        np.savez(file, f=found.features, y=[labels.index(row["label"]) for row in rows])
    kept = np.load(file)
    return kept["f"].astype(float), kept["y"]


def real_error(kernel: np.ndarray, y: np.ndarray, count: int, first: int, classes: int) -> float:
    """The error of a fit to `count` rows on those from `first` on."""
    some = slice(0, min(count, 400))
    ridge = ridge_left_out(kernel_factors(kernel[some, some]), y[some], classes, STRENGTHS).strength
    alpha = np.linalg.solve(kernel[:count, :count] + ridge * np.eye(count), np.eye(classes)[y[:count]])
    return float(((kernel[first:, :count] @ alpha).argmax(1) != y[first:]).mean())


def datamodelling_score(features: np.ndarray, y: np.ndarray, n: int, classes: int, seed: int) -> float:
    """The rank correlation of summed influences and heads that were trained again."""
    kernel = kernel_factors(gaussian(features[: n + ASKED])).matrix
    ridge = ridge_left_out(kernel_factors(kernel[:n, :n]), y[:n], classes).strength
    found = row_influences(kernel[:n, :n], kernel[n:, :n], np.eye(classes)[y[:n]], ridge)
    labels, generator = found.outputs.argmax(1), np.random.default_rng(seed)
    removals = found.removals[np.arange(ASKED), :, labels]  # (t, n)
    scaled = (features - features[:n].mean(0)) / np.sqrt(features[:n].var(0).mean())
    predicted, real = [], []
    for _ in range(SUBSETS):
        part = generator.permutation(n)[: n // 2]
        if len(set(y[part])) < classes:
            continue
        head = LogisticRegression(C=1.0, max_iter=500).fit(scaled[part], y[part])
        real.append(head.predict_log_proba(scaled[n : n + ASKED])[np.arange(ASKED), labels])
        predicted.append(removals[:, part].sum(1))
    pairs = zip(np.array(predicted).T, np.array(real).T, strict=True)
    return float(np.mean([spearmanr(one, other).statistic for one, other in pairs]))


def main() -> None:
    """Measure, and print medians over tasks and seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", default="mr,subj,trec,sst2,mpqa")
    parser.add_argument("--seeds", default="13,21,42")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1500, help="of a task, all in all")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found, scores = [], []
    for task in options.tasks.split(","):
        features, y = features_of(task, options)
        classes, n = int(y.max()) + 1, options.n
        for seed in map(int, options.seeds.split(",")):
            order = np.random.default_rng(seed).permutation(len(y))
            x, labels = features[order], y[order]
            measured = part_errors(kernel_factors(gaussian(x[:n])), labels[:n], classes, seed)
            beyond = continued(measured, TIMES, seed)
            whole = kernel_factors(gaussian(x)).matrix
            real = [real_error(whole, labels, n * times, n * TIMES[-1], classes) for times in TIMES]
            low, high = beyond.interval
            found.append(
                (abs(beyond.mean - real), (low <= real) & (real <= high), high - low, abs(measured.mean[-1] - real))
            )
            scores.append(datamodelling_score(x, labels, n, classes, seed))
            print(
                task,
                seed,
                measured.mean.round(3),
                beyond.mean.round(3),
                np.round(real, 3),
                f"LDS {scores[-1]:.2f}",
                flush=True,
            )
    off, inside, width, flat = (np.array(part) for part in zip(*found, strict=True))
    for place, times in enumerate(TIMES):
        print(
            f"{times}x: median error {100 * np.median(off[:, place]):.1f} points (no change: "
            f"{100 * np.median(flat[:, place]):.1f}), interval holds {inside[:, place].mean():.0%} of {len(off)}, median "
            f"width {100 * np.median(width[:, place]):.0f} points"
        )
    print(f"Linear datamodelling score: median {np.median(scores):.2f}, {min(scores):.2f} to {max(scores):.2f}")


if __name__ == "__main__":
    main()
