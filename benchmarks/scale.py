"""What a forecast from tangent features costs as examples grow, and how far it is from one of exact kernels.

    OMP_NUM_THREADS=1 python -m benchmarks.scale cost minilm movies 250 500 1000
    OMP_NUM_THREADS=1 python -m benchmarks.scale cost smollm2 movies 64 128 --output prompt
    OMP_NUM_THREADS=1 python -m benchmarks.scale accuracy minilm movies 128

`cost` takes N training examples, as many for validation and 200 for the test. CPU seconds of the process count; the peak is
the largest resident memory above that of the loaded model. `accuracy` makes both kernels and compares both forecasts.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
import psutil

from foretune.analysis.rank_statistics import rank_correlation
from foretune.candidates.candidate import formulas_for, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.experiment.experiment import Experiment, load_experiment
from foretune.experiment.sample import Sampled
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.finetune.lora_config import adaptable
from foretune.forecasting.forecast import PoolForecast, pool_forecast
from foretune.kernels.compute import kernels_of
from foretune.kernels.feature_pass import tangent_features
from foretune.kernels.job import Job, joint_job
from foretune.kernels.sketch import Sketch

TEST = 200


def _timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def _experiment(model: str, data: str, n: int, output: str) -> Experiment:
    setting = Setting(DataSource(data), Sampled(n), 0, TEST, Question(output=output))
    return load_experiment(setting, model)


def _job(made: Experiment) -> Job:
    return joint_job(made.outputs, *made.examples)


def _forecast(kernels, made: Experiment) -> PoolForecast:  # noqa: ANN001
    return pool_forecast(Pool.sized(kernels, made.inputs, parameter_sizes(made.outputs)))


def cost(model: str, data: str, n: int, output: str) -> str:
    """A row of the table of costs."""
    made = _experiment(model, data, n, output)
    inputs = made.inputs
    before, job = psutil.Process().memory_info().rss, _job(made)
    formulas = formulas_for(job.kinds, targets=adaptable(made.outputs, job.kinds).targets)
    with tempfile.TemporaryDirectory() as folder:
        seconds, features = _timed(lambda: tangent_features(job, formulas, out=folder))
        held = sum(chunk.nbytes for chunk in features["sgd"].chunks)  # type: ignore[index]
        stage, _ = _timed(lambda: _forecast(features, made))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    cells = (
        len(inputs.y),
        inputs.f0.shape[1],
        f"{seconds:.0f}",
        f"{stage:.0f}",
        f"{held / 2**20:.0f}",
        f"{peak / 2**30:.2f}",
    )
    return f"| {model} | {n} | {' | '.join(map(str, cells))} |"


def accuracy(model: str, data: str, n: int, output: str) -> str:
    """A row of the table of errors."""
    made = _experiment(model, data, n, output)
    job = _job(made)
    formulas = formulas_for(job.kinds, targets=adaptable(made.outputs, job.kinds).targets)
    exact_seconds, exact = _timed(lambda: kernels_of(job, formulas, "12GiB"))
    seconds, features = _timed(lambda: tangent_features(_job(made), formulas, Sketch(), "4GiB"))
    results = [_forecast(kernels, made) for kernels in (exact, features)]
    scored = [{item.title: item.score for item in found.comparison.candidates} for found in results]
    both = sorted(set(scored[0]) & set(scored[1]))
    correlations = [
        float(rank_correlation(*(np.array([getattr(side[title], name) for title in both]) for side in scored)))
        for name in ("label_error", "validation_loss")
    ]
    predicted = [found.predicted.score.value for found in results]
    whole = [found.whole.score.value for found in results]
    cells = (
        len(both),
        *(f"{value:.2f}" for value in correlations),
        *(f"{value:.3f}" for value in (*predicted, *whole)),
        f"{exact_seconds:.0f}",
        f"{seconds:.0f}",
    )
    return f"| {model}, {data} | {n} | {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "accuracy"))
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("n", nargs="+", type=int)
    parser.add_argument("--output", default="head", choices=("head", "prompt"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    row = cost if given.what == "cost" else accuracy
    head = {
        "cost": "| model | N | examples | C | features, CPU s | forecast, CPU s | on disk, MiB | peak, GiB |",
        "accuracy": "| case | N | candidates | label error, ranks | validation loss, ranks | predicted, exact | predicted, "
        "features | whole model, exact | whole model, features | exact, CPU s | features, CPU s |",
    }[given.what]
    print(head)
    print("|" + "---|" * (head.count("|") - 1))
    for n in given.n:
        print(row(given.model, given.data, n, given.output), flush=True)


if __name__ == "__main__":
    main()
