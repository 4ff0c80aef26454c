"""What announces the score of a real run with a prompt, and how many test examples it takes, from pages of real runs.

    PYTHONPATH=src python -m benchmarks.announced runs/prompts/k16/page.json --data DATA --k 16 --test 64,400

The pages are those of `benchmarks.prompt_calibration`. For every cell with two labels and accuracy the kernels with test
examples are made again (two to nine minutes a cell on one core), and the score of every run is announced by the simulated
run, by label regression, by their mean and by the larger of the two, the larger with the interval of `foretune forecast`.

The last row is no prediction but a bound: of all ridges on the candidate's own kernel, with any strength and threshold, the
one whose score is nearest to the real one, known afterwards. Where even the best of them falls short, nothing that chooses
among them can announce the real score.
"""

from __future__ import annotations

import argparse
import json
import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from benchmarks.prompt_calibration import cells_of, studies
from foretune.analysis.scores import Score, predicted_classes, scored
from foretune.candidates.announced import announcing_pool
from foretune.candidates.comparison import criterion_of
from foretune.candidates.evidence import Evidence
from foretune.candidates.prediction import prediction
from foretune.model.load import load_model
from foretune.validation.runs import Measured, ValidationStudy, named_of

STRENGTHS = np.geomspace(1e-6, 10, 30)
"""Ridges of the bound, in units of the kernel's lambda_max."""
BOUND = "bound: the nearest ridge and threshold, known afterwards"


@dataclass(frozen=True)
class Announcement:
    """One way to announce one run, beside what it reached.

    Attributes:
        score: announced.
        real: of the run, on all test examples.
    """

    score: Score
    real: float


def announcements(study: ValidationStudy, cell: Measured, tests: list[int]) -> Iterator[tuple[int, str, Announcement]]:
    """For each number of test examples and each run: every way to announce it."""
    experiment = study.cell(cell.task, cell.seed)
    if experiment.outputs.n_outputs != 1:
        return
    pool = announcing_pool(experiment, study.rank, study.sketch(experiment), study.grid[0], max(tests))
    known = {item.label: item for item in named_of(experiment, study.rank)}
    first = pool.inputs.n_train + pool.inputs.n_validation
    for name, outcome in zip(cell.names, cell.outcomes, strict=True):
        if outcome.failure is not None:
            continue
        evidence = pool.evidence(known[name])
        run = evidence.adam_run
        simulated = (pool.inputs.f0 if run is None else run.outputs)[first:]
        regressed = evidence.labels.outputs[pool.inputs.n_validation :]
        for test in tests:
            y = pool.inputs.y[first : first + test]
            a, b = (scored(y, predicted_classes(f[:test]), "accuracy") for f in (simulated, regressed))
            mean = Score((a.value + b.value) / 2, (a.low + b.low) / 2, (a.high + b.high) / 2)
            told = {
                "a simulated run": a,
                "label regression": b,
                "their mean": mean,
                "the larger": max(a, b, key=_value),
            }
            if test == max(tests):
                scored_candidate = evidence.scored(known[name])
                told["as announced"] = prediction(scored_candidate, pool, criterion_of(pool)).score
                told[BOUND] = _nearest(evidence, test, outcome.test_score)
            for way, score in told.items():
                yield test, way, Announcement(score, outcome.test_score)
        pool.forget(known[name])


def _value(score: Score) -> float:
    return score.value


def _nearest(evidence: Evidence, test: int, real: float) -> Score:
    """The score on the test examples nearest to the real one, of ridges on the kernel with any strength and threshold."""
    inputs, eigen = evidence.inputs, evidence.spectrum
    n, first = inputs.n_train, inputs.n_train + inputs.n_validation
    joint = np.asarray(evidence.kernel).reshape(n, -1)
    labels = eigen.coordinates(2.0 * inputs.y[:n] - 1)
    y, reached = inputs.y[first : first + test], []
    for strength in STRENGTHS * eigen.largest:
        coefficients = eigen.combined(labels / (eigen.values + strength))
        f = (coefficients @ joint)[first : first + test, None]
        reached += [scored(y, predicted_classes(f, float(threshold)), "accuracy") for threshold in np.sort(f[::4, 0])]
    return min(reached, key=lambda score: abs(score.value - real))


def table(found: dict[tuple[int, str], list[Announcement]]) -> str:
    """Root mean square distance, bias and coverage of every way."""
    lines = ["| test examples | announced by | runs | off, points | bias | within 4 | interval holds | width |",
             "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for (test, way), each in sorted(found.items(), key=lambda item: item[0][0]):
        off = 100 * np.array([one.score.value - one.real for one in each])
        held = np.mean([one.score.low <= one.real <= one.score.high for one in each])
        width = 100 * np.mean([one.score.high - one.score.low for one in each])
        sure = "- | -" if way == BOUND else f"{held:.0%} | {width:.0f}"
        lines.append(
            f"| {test} | {way} | {len(each)} | {math.sqrt(np.mean(off**2)):.1f} | {off.mean():+.1f} "
            f"| {np.mean(np.abs(off) <= 4):.0%} | {sure} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Announce cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+", help="page.json of prompt_calibration, all of one k")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per task")
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--test", default="64,400", help="test examples that announcements read")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--memory", default="6GiB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("announced"), help="kernels are kept below it")
    options = parser.parse_args()
    tests = TypeAdapter(list[int]).validate_python(options.test.split(","))
    lm = load_model(options.model, device=options.device)
    found: dict[tuple[int, str], list[Announcement]] = {}
    for cell in (cell for page in options.pages for cell in cells_of(page)):
        if cell.metric != "accuracy":
            continue
        asked = {"cells": f"{cell.task}-{cell.seed}", "rates": "1e-3", "test": max(tests), "rank": 8, "prodigy": False,
                 "candidates": ",".join(cell.names), "unannounced": False}  # fmt: skip
        (study,) = studies(lm, options.k, Namespace(**{**vars(options), **asked}))
        for test, way, one in announcements(study, cell, tests):
            found.setdefault((test, way), []).append(one)
        print(f"{cell.task}, seed {cell.seed}", flush=True)
    print(table(found))
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [[*key, one.score.value, one.real] for key, each in found.items() for one in each]
    (options.out / "announced.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
