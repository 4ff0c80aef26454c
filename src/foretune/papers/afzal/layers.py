"""Which layer to add (Rahimi Afzal et al., Figure 3).

theta is W_k of layer 0; every other layer's W_k is a candidate. The figure sets the logarithm of the risk ratio
R(theta and candidate) / R(theta) beside that of the ratio of largest eigenvalues, which eq. 8 makes a proxy for it. The
brackets of eqs. 7 and 8 stand beside (`analysis.bounds`, with their premises), and the same ratio of real runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from foretune.analysis.bounds import Bracket, CandidateBounds, candidate_bounds
from foretune.analysis.feature_kernel import dense
from foretune.analysis.losses import targets
from foretune.candidates.candidate import Candidate, parameter_sizes
from foretune.candidates.joint import train_matrix
from foretune.candidates.pool import pool_of
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.finetune.training import Training
from foretune.page import Cell, Curve, Figure, Quantity, mean_and_spread
from foretune.papers.afzal.page import SOURCE, PlacementsPage
from foretune.papers.afzal.runs import (
    RANK,
    SIGMA,
    placement,
    placement_work,
    projections,
    single_training,
    trained_placement,
)
from foretune.papers.recipe import Defaults, Study
from foretune.papers.sections import Section, TaskGroup, by_item, table_of


@dataclass(frozen=True)
class AddedLayer:
    """What adding a layer does.

    Attributes:
        number: number of the added layer.
        bounds: bounds of the ridge objective, with its exact ratio.
        trained: log of the ratio of training losses of real runs.
    """

    number: int
    bounds: CandidateBounds
    trained: float

    @property
    def ridge(self) -> float:
        """Logarithm of the exact ratio of the ridge risks."""
        return float(np.log(self.bounds.risk_ratio.exact))

    @property
    def proxy(self) -> float:
        """Logarithm of the ratio of largest eigenvalues."""
        return float(np.log(self.bounds.proxy))


Layers = Sequence[Sequence[AddedLayer]]
"""Of each seed, the same layers in the same order."""


class LayerChoice(PlacementsPage[Layers]):
    """Risk ratio and eigenvalue ratio of layer 0 with each other layer."""

    name: ClassVar[str] = "afzal-layers"
    title: ClassVar[str] = "what each further layer does to the risk and to the largest eigenvalue"
    source: ClassVar[str] = f"{SOURCE} eqs. 7 and 8, and Figure 3 of the longer paper"
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr", "subj"), ks=(32,), seeds=(13, 21), test=1000)

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Layers:
        """Every added layer on every seed."""
        training = single_training(study.budget)
        return [added_layers(cell, training) for cell in cells]

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """One run of layer 0 and one with each other layer, and the kernels of all."""
        return placement_work(cell, layer_placements(cell), single_training(study.budget))

    def section(self, study: Study, group: TaskGroup[Layers]) -> Section:
        """A table and a figure."""
        caption = f"{group.where}: theta is W_k of layer 0; means over {len(group.seeds)} seed(s)"
        table = table_of(COLUMNS, by_item(group.found), caption)
        return Section((table,), (_figure(group),), tuple(_findings(group.found, group.where)))

    def remarks(self, study: Study, groups: Sequence[TaskGroup[Layers]]) -> tuple[str, ...]:
        """The kernels, both risks, and what differs from the paper."""
        training = single_training(study.budget)
        return (
            f"Model {study.lm.name} with a random head, which is trained too; tasks {', '.join(study.tasks)}; k = "
            f"{', '.join(map(str, study.ks))} examples per label; seeds {', '.join(map(str, study.seeds))}.",
            f"K and S are kernels of LoRA of rank {RANK} at the start on the training examples, K with the head; sigma = "
            f"{SIGMA:g} lambda_max of the kernel with adapters on all linear layers. y is what the pretrained outputs "
            "leave of the targets.",
            "Risk: the optimum of the ridge objective, for which eq. 8 holds where eta < 1 (it fails for the empirical "
            "risk of eq. 4: see foretune.analysis.bounds). Sharp bracket: 1 / (1 + eta_sigma) to 1 / (1 + mu), "
            "without premise.",
            f"Real runs: AdamW at {training.optimiser.learning_rate:g}, batches of {training.batch_size}; the risk is the "
            "mean training loss of the last epoch.",
            "What differs: the paper shows RoBERTa-base on whole training sets, and no run.",
        )


def layer_placements(cell: Experiment) -> list[Candidate]:
    """The keys of layer 0 alone, then with those of each other layer."""
    first, *others = projections(cell.outputs, "W_k").values()
    sizes = parameter_sizes(cell.outputs)
    return [
        placement("W_k of layer 0", first, sizes, sizes.head),
        *(
            placement(f"W_k of layers 0 and {number}", [*first, *blocks], sizes, sizes.head)
            for number, blocks in enumerate(others, 1)
        ),
    ]


def added_layers(cell: Experiment, training: Training) -> list[AddedLayer]:
    """Every other layer's keys beside those of layer 0."""
    pool, (first, *others) = pool_of(cell, RANK), projections(cell.outputs, "W_k").values()
    n = pool.inputs.n_train
    y = (targets(pool.inputs.y[:n], pool.inputs.f0.shape[1]) - pool.inputs.f0[:n]).reshape(-1)
    sigma = SIGMA * pool.largest_of_all(RANK)

    def matrix(blocks: Sequence[str], head: tuple[str, ...]) -> np.ndarray:
        return dense(train_matrix(pool.of(tuple(blocks), RANK, head).kernel))

    base = matrix(first, pool.head)
    alone, *both = layer_placements(cell)
    start = trained_placement(cell, alone, training).risk
    found = []
    for number, (blocks, item) in enumerate(zip(others, both, strict=True), 1):
        bounds = candidate_bounds(base, matrix(blocks, ()), y, sigma)
        risk = trained_placement(cell, item, training).risk
        found.append(
            AddedLayer(number, bounds, float(np.log(risk / start)) if risk > 0 and start > 0 else float("nan"))
        )
    return found


def _brackets(every: Sequence[AddedLayer]) -> list[Bracket]:
    """Those of eq. 8, of the seeds for which it says something."""
    return [layer.bounds.risk_ratio for layer in every if layer.bounds.risk_ratio.high < float("inf")]


def _log_end(brackets: Sequence[Bracket], end: str) -> Quantity:
    """The mean logarithm of one end, `low` or `high`."""
    mean = float(np.mean([np.log(getattr(bracket, end)) for bracket in brackets])) if brackets else None
    return Quantity(mean, ".2f", missing="-")


COLUMNS: Mapping[str, Callable[[Sequence[AddedLayer]], Cell]] = {
    "layers": lambda every: f"0, {every[0].number}",
    "log risk ratio (ridge)": lambda every: mean_and_spread([layer.ridge for layer in every], 1.0, 3),
    "log lambda_max ratio": lambda every: mean_and_spread([layer.proxy for layer in every], 1.0, 3),
    "eta": lambda every: Quantity(float(np.mean([layer.bounds.eta for layer in every])), ".2f"),
    "eq. 7 bounds below": lambda every: "yes" if all(layer.bounds.eta < 1 for layer in every) else "no",
    "eq. 8 says something": lambda every: Quantity(len(_brackets(every)), "d", f"of {len(every)}"),
    "eq. 8, log: low": lambda every: _log_end(_brackets(every), "low"),
    "eq. 8, log: high": lambda every: _log_end(_brackets(every), "high"),
    "sharp bracket, log: low": lambda every: _log_end([layer.bounds.sharp_risk_ratio for layer in every], "low"),
    "sharp bracket, log: high": lambda every: _log_end([layer.bounds.sharp_risk_ratio for layer in every], "high"),
    "log risk ratio (real runs)": lambda every: mean_and_spread([layer.trained for layer in every], 1.0, 3),
}
"""Of the table: heading -> the text for one layer on all seeds."""


def _figure(group: TaskGroup[Layers]) -> Figure:
    numbers = np.array([layer.number for layer in group.found[0]], dtype=float)
    drawn = {
        "log risk ratio (ridge)": "ridge",
        "log lambda_max ratio": "proxy",
        "log risk ratio (real runs)": "trained",
    }
    values = {
        name: np.array([[getattr(layer, of) for layer in seed] for seed in group.found], dtype=float)
        for name, of in drawn.items()
    }
    curves = tuple(Curve(name, of_seeds.mean(0), numbers) for name, of_seeds in values.items())
    title = f"Layer 0 with one more layer, {group.name}"
    return Figure(f"layers-{group.name}", title, "added layer", "logarithm of the ratio", curves)


def _findings(found: Layers, where: str) -> list[str]:
    every = [layer for seed in found for layer in seed]
    silent = sum(layer.bounds.eta >= 1 for layer in every)
    opposite = sum(layer.ridge < 0 < layer.proxy for layer in every)
    real = [layer.trained for layer in every if np.isfinite(layer.trained)]
    lower = sum(value < 0 for value in real)
    etas = [layer.bounds.eta for layer in every]
    return [
        f"{where}: eta is {min(etas):.2f} to {max(etas):.2f}; "
        f"eq. 8 says nothing for {silent} of {len(every)} added layers, and eq. 7 bounds nothing from below there.",
        f"{where}: the risk falls while the largest eigenvalue grows for {opposite} of {len(every)} added layers; more "
        f"blocks never raise the ridge risk. Real runs end with a lower training loss in {lower} of {len(real)}.",
    ]
