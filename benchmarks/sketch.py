"""How far sketched kernels are off, between examples that they were not made of, and what they take.

    OMP_NUM_THREADS=1 python -m benchmarks.sketch --data DATA --task mr

Both sketches of MiniLM with a head, two draws each: the distance to the exact kernel of the test examples over its norm
(Frobenius), for all blocks together; the same with the mean over examples taken from both sides, since what all examples
share tells none apart; and CPU seconds for all examples.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from foretune.analysis.feature_kernel import centred, dense
from foretune.candidates.candidate import formulas_for
from foretune.candidates.sketched import FINE
from foretune.experiment.experiment import load_experiment
from foretune.experiment.sample import Sampled
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.kernels.compute import kernels_of
from foretune.kernels.feature_pass import tangent_features
from foretune.kernels.job import joint_job, separate_job
from foretune.kernels.sketch import Sketch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="mr")
    parser.add_argument("--n", type=int, default=96, help="training examples; validation has as many")
    parser.add_argument("--test", type=int, default=48)
    asked = parser.parse_args()
    setting = Setting(
        DataSource(str(Path(asked.data) / asked.task)), Sampled(asked.n), 0, asked.test, Question(output="head")
    )
    made = load_experiment(setting, "minilm")
    train, others = made.examples
    tested = others[-asked.test :]
    exact = kernels_of(separate_job(made.outputs, tested, None, None), formulas_for(made.outputs.kinds(), ranks=(8,)))
    print("| numbers | kernel | off by, total | centred | CPU s |\n|---|---|---|---|---|")
    for sketch in (Sketch(), FINE):
        off: dict[str, list[tuple[float, float]]] = {}
        start = time.process_time()
        for seed in (0, 1):
            job = joint_job(made.outputs, train, others)
            formulas = formulas_for(job.kinds, ranks=(8,))
            for label, features in tangent_features(job, formulas, replace(sketch, seed=seed), "20GiB").items():
                kernel = exact[label].total()
                found = features.summed(features.names, len(train) + len(others))[-asked.test :, :, -asked.test :]
                inner, exact_inner = (dense(centred(each)) for each in (found - kernel, kernel))
                norms = [float(np.linalg.norm(each)) for each in (found - kernel, kernel, inner, exact_inner)]
                off.setdefault(label, []).append((norms[0] / norms[1], norms[2] / norms[3]))
        seconds = (time.process_time() - start) / 2
        for label, draws in off.items():
            total, inner = np.mean(draws, axis=0)
            print(f"| {sketch.k} | {label} | {total:.1%} | {inner:.1%} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
