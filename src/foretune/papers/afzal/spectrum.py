"""Whether the condition number at the start says how fast and how well LoRA trains (Rahimi Afzal et al., Figure 2).

The paper shows, for LoRA of rank 8 over 10 epochs, a positive correlation of kappa(K + sigma I) with the convergence rate
of the optimisation, and a negative one with the accuracy after training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from foretune.analysis.rank_statistics import BootstrapEstimate, median_correlation
from foretune.candidates.candidate import Candidate, parameter_sizes
from foretune.candidates.pool import pool_of
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.finetune.training import Training
from foretune.page import Cell, Curve, Figure, Quantity, mean_and_spread
from foretune.papers.afzal.page import SOURCE, PlacementsPage
from foretune.papers.afzal.runs import (
    EPOCHS,
    RANK,
    SIGMA,
    TrainedPlacement,
    mean_of,
    placement,
    placement_work,
    projections,
    single_training,
    trained_placement,
)
from foretune.papers.recipe import Defaults, Study
from foretune.papers.sections import Section, TaskGroup, by_item, table_of

KINDS = ("W_k", "W_q, W_v")
PRINTED = {"rate": 1, "score": -1}
"""Signs of the correlations that the paper shows."""


@dataclass(frozen=True)
class PlacementPoint:
    """One placement on one sample.

    Attributes:
        name: name of the placement.
        largest, smallest: eigenvalues of its training kernel.
        kappa: condition number kappa(K + sigma I).
        run: the real run of the placement.
    """

    name: str
    largest: float
    smallest: float
    kappa: float
    run: TrainedPlacement


Points = Sequence[Sequence[PlacementPoint]]
"""Of each seed, the same placements in the same order."""


class SpectrumAgainstTraining(PlacementsPage[Points]):
    """kappa(K + sigma I) at the start against convergence rate and accuracy, placement by placement."""

    name: ClassVar[str] = "afzal-spectrum"
    title: ClassVar[str] = "condition number at the start against convergence rate and accuracy"
    source: ClassVar[str] = f"{SOURCE} Figure 2 of the longer paper, and the poster's two figures"
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr", "subj"), ks=(64,), seeds=(13, 21), test=1000)

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Points:
        """Every placement on every seed."""
        training = single_training(study.budget)
        return [_points(cell, training) for cell in cells]

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """One run of each placement, and the kernels of all."""
        return placement_work(cell, placements(cell), single_training(study.budget))

    def section(self, study: Study, group: TaskGroup[Points]) -> Section:
        """A table, and both scatter plots."""
        kinds = ("rate", "score")
        return Section(
            (table_of(COLUMNS, by_item(group.found), group.caption),),
            tuple(_figure(group, of) for of in kinds),
            tuple(correlation_finding(group.where, of, correlation(group.found, of)) for of in kinds),
        )

    def remarks(self, study: Study, groups: Sequence[TaskGroup[Points]]) -> tuple[str, ...]:
        """The runs, the kernel, the rate, and what differs from the paper."""
        training = single_training(study.budget)
        length = f"{EPOCHS} epochs" if training.steps is None else f"{training.steps} steps instead of {EPOCHS} epochs"
        return (
            f"Model {study.lm.name} with a random head; tasks {', '.join(study.tasks)}; k = "
            f"{', '.join(map(str, study.ks))} examples per label for training; seeds {', '.join(map(str, study.seeds))}; "
            f"at most {study.test} test examples.",
            f"Runs: LoRA of rank {RANK} and the head, AdamW at {training.optimiser.learning_rate:g}, "
            f"batches of {training.batch_size}, {length}, a constant rate; scores are those after the last step.",
            f"K is the kernel of adapters and head on the training examples at the start; sigma = {SIGMA:g} "
            "lambda_max of the kernel with adapters on all linear layers, the same for all placements.",
            "Convergence rate: minus the slope of the logarithm of the mean training loss of each epoch.",
            "What differs: the paper trains RoBERTa-base on whole training sets, with the kernel of 32 examples; "
            "it gives neither its sigma, nor how it defines the rate, nor an interval.",
            "Correlations are Spearman's over placements, the median over seeds; intervals from placements drawn again.",
        )


def placements(cell: Experiment) -> list[Candidate]:
    """Keys, and queries with values: of the first, middle and last layer, of each of them, and of all layers."""
    found: dict[frozenset[str], Candidate] = {}
    sizes = parameter_sizes(cell.outputs)
    for what in KINDS:
        by_layer = projections(cell.outputs, what)
        names = list(by_layer)
        chosen = list(dict.fromkeys((0, len(names) // 2, len(names) - 1)))
        sets = {"first, middle and last layer": chosen, **{f"layer {number}": [number] for number in chosen}}
        sets["all layers"] = list(range(len(names)))
        for title, numbers in sets.items():
            blocks = [block for number in numbers for block in by_layer[names[number]]]
            item = placement(f"{what} of {title}", blocks, sizes, sizes.head)
            found.setdefault(frozenset(blocks), item)
    return list(found.values())


def _points(cell: Experiment, training: Training) -> list[PlacementPoint]:
    pool = pool_of(cell, RANK)
    sigma = SIGMA * pool.largest_of_all(RANK)
    found = []
    for item in placements(cell):
        eigen = pool.evidence(item).spectrum
        run = trained_placement(cell, item, training)
        found.append(PlacementPoint(item.name, eigen.largest, eigen.smallest, eigen.condition_number(sigma), run))
    return found


def correlation(points: Points, of: str) -> BootstrapEstimate:
    """Median over seeds of Spearman's correlation of kappa and a result, with an interval over placements.

    Args:
        points: of each seed, the same placements in the same order; runs that failed are left out of all seeds.
        of: `rate` or `score`.
    """
    values = np.array([[getattr(point.run, of) for point in seed] for seed in points], dtype=np.float64)
    kappas = np.array([[point.kappa for point in seed] for seed in points], dtype=np.float64)
    kept = np.isfinite(values).all(0)
    if kept.sum() < 3:
        return BootstrapEstimate(float("nan"), float("nan"), float("nan"))
    return median_correlation(kappas[:, kept], values[:, kept])


def correlation_finding(where: str, of: str, found: BootstrapEstimate) -> str:
    """What a correlation says beside the paper's sign."""
    what = "the convergence rate" if of == "rate" else "the test score"
    sign = "positive" if PRINTED[of] > 0 else "negative"
    if np.isnan(found.value):
        return f"{where}: no correlation of kappa with {what}: fewer than three placements, or all the same."
    if found.low <= 0 <= found.high:
        verdict = f"its sign is uncertain; the paper shows a {sign} one"
    elif found.value * PRINTED[of] > 0:
        verdict = f"{sign}, as in the paper"
    else:
        verdict = f"opposite to the paper, which shows a {sign} one"
    return (
        f"{where}: kappa(K + sigma I) and {what} have a rank correlation of {found.value:.2f} (95%: {found.low:.2f} to "
        f"{found.high:.2f}): {verdict}."
    )


COLUMNS: Mapping[str, Callable[[Sequence[PlacementPoint]], Cell]] = {
    "LoRA r = 8 on": lambda every: every[0].name,
    "lambda_max": lambda every: Quantity(mean_of(every, "largest"), ".3g"),
    "lambda_min": lambda every: Quantity(mean_of(every, "smallest"), ".1e"),
    "kappa(K + sigma I)": lambda every: Quantity(mean_of(every, "kappa"), ".2f"),
    "convergence rate (1 / epoch)": lambda every: mean_and_spread([point.run.rate for point in every], 1.0, 3),
    "test score (%)": lambda every: mean_and_spread([point.run.score for point in every]),
}
"""Of the table: heading -> the text for one placement on all seeds."""


def _figure(group: TaskGroup[Points], of: str) -> Figure:
    curves = [
        Curve(
            f"seed {seed}",
            np.array([getattr(point.run, of) for point in found], dtype=float),
            np.array([point.kappa for point in found], dtype=float),
        )
        for seed, found in zip(group.seeds, group.found, strict=True)
    ]
    label = "convergence rate (1 / epoch)" if of == "rate" else "test score"
    title = f"Condition number at the start and {label.partition(' (')[0]}, {group.name}"
    return Figure(f"kappa-{of}-{group.name}", title, "kappa(K + sigma I)", label, tuple(curves), points=True)
