"""When kernels are sketched instead of exact, and how far the sketched ones are off on a few examples, measured.

A sample of examples is given both kernels. What is compared is what a forecast reads: the kernel of the whole model
(relative Frobenius norm), its largest eigenvalue, the score that regression of the labels predicts on examples held out,
and the order of the candidates by the error of that regression (Spearman).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from foretune.analysis.feature_kernel import dense
from foretune.analysis.rank_statistics import rank_correlation
from foretune.analysis.scores import predicted_classes, score
from foretune.analysis.spectrum import largest_eigenvalue
from foretune.candidates.candidate import ParameterSizes, kernel_label, named_candidates, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.candidates.joint import train_matrix
from foretune.experiment.experiment import Experiment
from foretune.experiment.inputs import Inputs
from foretune.kernels.block_kernel import Pattern
from foretune.kernels.budget import device_bytes
from foretune.kernels.compute import kernels_of
from foretune.kernels.feature_pass import fits
from foretune.kernels.features import Blocked, TangentFeatures
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, joint_job
from foretune.kernels.memory_plan import machine_memory, memory_text
from foretune.kernels.sketch import Sketch

Features = Literal["auto", "exact", "sketched"]
SAMPLE = 64
"""Training examples, and as many held out, that both kernels are made of; with c outputs a c-th of them."""
_LEAST = 8
FINE = Sketch(1024)
"""Orders candidates as exact kernels do, for about 1.2 times the work of the usual sketch (docs/results/scale.md)."""
_FEW = 2000
"""Rows, all examples times outputs, up to which it is taken."""


NOT_MEASURED = "How far the sketch is off was not measured: there are too many outputs, or no validation examples."


@dataclass(frozen=True)
class SketchError:
    """How far sketched kernels are off.

    Attributes:
        examples: training examples of the sample, and held-out ones.
        kernel: relative error of the kernel of the whole model, ||K' - K|| / ||K||.
        largest: |lambda' - lambda| / lambda of its largest eigenvalue.
        exact_score, sketched_score: score of label regression of the whole model on the held-out examples.
        ranks: Spearman correlation of the candidates' label errors; not a number for fewer than three.
    """

    examples: tuple[int, int]
    kernel: float
    largest: float
    exact_score: float
    sketched_score: float
    ranks: float

    @property
    def words(self) -> str:
        """The numbers in a sentence."""
        n, v = self.examples
        told = (
            f"On {n} x {n + v} examples the sketched kernel is off by {self.kernel:.1%}, its largest eigenvalue by "
            f"{self.largest:.1%}, and label regression scores {self.sketched_score:.2f} (exact: {self.exact_score:.2f})"
        )
        return f"{told}." if np.isnan(self.ranks) else f"{told}; candidates' ranks correlate by {self.ranks:.2f}."


def chosen_sketch(
    job: Job, formulas: Sequence[Formula], memory: str | int, features: Features, *, on_disk: bool
) -> Sketch | None:
    """How kernels are sketched; None where they are exact.

    Args:
        job: the examples.
        formulas: of the kernels.
        memory: budget above the model's own.
        features: `exact`, `sketched`, or `auto`: sketched where exact ones do not fit.
        on_disk: features go to files.
    """
    wanted = features == "sketched" or (features == "auto" and needs_sketch(job, formulas, memory))
    return sketch_for(job, formulas, memory, on_disk=on_disk) if wanted else None


def needs_sketch(job: Job, formulas: Sequence[Formula], memory: str | int) -> bool:
    """Whether exact kernels do not fit into half of a budget, or of this machine, which holds them on a GPU too."""
    budget = machine_memory() if job.device.type == "cuda" else device_bytes(memory, job.device)
    return _bytes(job, formulas) > min(budget, machine_memory()) // 2


def sketch_for(job: Job, formulas: Sequence[Formula], memory: str | int, *, on_disk: bool) -> Sketch:
    """The finer sketch where there are so few rows that it takes minutes at most, and where the budget allows it.

    Args:
        job: the examples.
        formulas: of the kernels.
        memory: budget above the model's own.
        on_disk: features go to files.
    """
    few = len(job.columns) * job.source.outputs.n_outputs <= _FEW
    blocks = {each: each.blocks(job.kinds) for each in formulas}
    return FINE if few and fits(job, blocks, FINE, memory, on_disk=on_disk) else Sketch()


def sketch_reason(job: Job, formulas: Sequence[Formula], memory: str | int, sketch: Sketch) -> str:
    """Why and how the kernels are sketched, in words."""
    n, m = job.n, len(job.columns)
    found = f"Kernels are sketched, {sketch.k} numbers for each block, output and example"
    if not needs_sketch(job, formulas, memory):
        return f"{found}."
    return (
        f"{found}: the exact ones of {n:,} x {m:,} examples take {memory_text(_bytes(job, formulas))}, more than half of "
        "the memory that they may take."
    )


def _bytes(job: Job, formulas: Sequence[Formula]) -> int:
    return sum(job.array_bytes(formula) for formula in formulas)


def measured_error(
    experiment: Experiment,
    kernels: Mapping[str, Blocked],
    formulas: Sequence[Formula],
    inputs: Inputs,
    blocks: Pattern | None = None,
) -> SketchError | None:
    """How far the sketched kernels of an experiment are off; None where the exact ones of a few examples would be large.

    Args:
        experiment: model and examples.
        kernels: of all examples.
        formulas: of the kernels.
        inputs: of all examples.
        blocks: that take part.
    """
    features = {label: each for label, each in kernels.items() if isinstance(each, TangentFeatures)}
    n, v = sample_sizes(inputs)
    if not v:
        return None
    split, work = experiment.split, experiment.work
    few = joint_job(experiment.outputs, split.train[:n], split.validation[:v], blocks)
    exact = kernels_of(few, formulas, work.memory, progress=work.progress)
    return sketch_error(features, exact, inputs, parameter_sizes(experiment.outputs))


def sample_sizes(inputs: Inputs) -> tuple[int, int]:
    """Training and held-out examples of the sample; none where the exact kernel of a few would be large too."""
    most = SAMPLE // inputs.f0.shape[1]
    if most < _LEAST:
        return 0, 0
    return min(most, inputs.n_train), min(most, inputs.n_validation)


def sketch_error(
    features: Mapping[str, TangentFeatures], exact: Mapping[str, Blocked], inputs: Inputs, sizes: ParameterSizes
) -> SketchError:
    """How far sketched kernels are off.

    Args:
        features: of all examples.
        exact: kernels of the first training and the first validation examples, `sample_sizes(inputs)` of each.
        inputs: of all examples.
        sizes: of the parameters.
    """
    n, v = sample_sizes(inputs)
    places = [*range(n), *range(inputs.n_train, inputs.n_train + v)]
    own = {name: getattr(inputs, name)[places] for name in ("y", "f0", "features")}
    few = replace(inputs, n_train=n, n_validation=v, **own)
    pools = [
        Pool.sized(kernels, few, sizes)
        for kernels in (exact, {label: each.only(places, n) for label, each in features.items()})
    ]
    names = features[kernel_label(None)].names
    wholes = [pool.of(names, None, ()) for pool in pools]
    true, found = (dense(train_matrix(whole.kernel)) for whole in wholes)
    largest = [largest_eigenvalue(matrix) for matrix in (true, found)]
    scores = [
        score(few.y[n:], predicted_classes(whole.own_labels.outputs), few.metric) if v else float("nan")
        for whole in wholes
    ]
    return SketchError(
        (n, v),
        float(np.linalg.norm(found - true) / np.linalg.norm(true)),
        abs(largest[1] - largest[0]) / largest[0],
        scores[0],
        scores[1],
        _ranks(pools) if v else float("nan"),
    )


def _ranks(pools: Sequence[Pool]) -> float:
    sets = {item.blocks: item for item in named_candidates(pools[0].kernels, pools[0].sizes)}  # one rank of each
    candidates = list(sets.values())
    errors = [[pool.evidence(item).labels.error for item in candidates] for pool in pools]
    return float(rank_correlation(*map(np.array, errors))) if len(candidates) > 2 else float("nan")
