"""What a forecast would announce for a candidate of an experiment: a score with an interval, and go or no-go."""

from __future__ import annotations

from dataclasses import dataclass, replace

from foretune.candidates.candidate import Candidate, parameter_sizes
from foretune.candidates.comparison import criterion_of
from foretune.candidates.evidence import Pool
from foretune.candidates.pool import pool_kernels
from foretune.candidates.prediction import prediction
from foretune.candidates.verdict import DECISIONS, Decision, verdict
from foretune.experiment.experiment import EVALUATION, Experiment
from foretune.experiment.folder import Inside
from foretune.finetune.training import Training
from foretune.kernels.sketch import Sketch

ANNOUNCED = 64
"""Test examples that are read for it, as `foretune forecast` does."""


@dataclass(frozen=True)
class Announced:
    """The score that is announced for a candidate.

    Attributes:
        value, low, high: predicted score on test examples, with its 95% interval.
        decision: `go`, `no-go` or `cannot tell`.
    """

    value: float
    low: float
    high: float
    decision: Decision


def announcing_pool(
    cell: Experiment, rank: int | None, sketch: Sketch | None = None, run: Training | None = None, test: int = ANNOUNCED
) -> Pool:
    """The pool of a cell with its first test examples, in a folder inside that of the cell.

    Args:
        cell: model and data.
        rank: of LoRA; None for full tuning.
        sketch: how kernels are sketched; None for exact ones.
        run: the run that is to be made; its rate does not matter. `planned_run(n)` where nobody says.
        test: how many of them.
    """
    split = replace(cell.split, test=cell.split.test[:test])
    few = replace(cell, split=split, folder=None, known=cell.readings)
    if cell.folder is not None:
        few = few.kept_in(Inside(cell.folder / f"announced-{test}"))
    kernels = pool_kernels(few, rank, sketch, EVALUATION)
    return Pool.sized(kernels, few.inputs, parameter_sizes(few.outputs), run=run)


def announced(pool: Pool, candidate: Candidate) -> Announced:
    """What is announced for a candidate, two classes told apart by the sign of their difference output.

    Args:
        pool: with test examples.
        candidate: one of its candidates.
    """
    scored = pool.evidence(candidate).scored(candidate)
    predicted = prediction(scored, pool, criterion_of(pool))
    decision = DECISIONS[verdict(predicted)]
    return Announced(predicted.score.value, predicted.score.low, predicted.score.high, decision)
