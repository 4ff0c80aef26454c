"""Which layer to add (Rahimi Afzal et al., Figure 3).

theta is W_k of layer 0; every other layer's W_k is a candidate. The figure sets the logarithm of the risk ratio
R(theta and candidate) / R(theta) beside that of the ratio of largest eigenvalues, which eq. 8 makes a proxy for it. The
brackets of eqs. 7 and 8 stand beside (`analysis.bounds`, with their premises), and the same ratio of real runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from foretune.analysis.bounds import CandidateBounds, candidate_bounds
from foretune.analysis.solvers import targets
from foretune.candidates.pool import pool_of
from foretune.experiment.experiment import Experiment
from foretune.finetune.training import Training
from foretune.page import Curve, Figure, Page, Table, mean_and_spread
from foretune.reproduce.afzal.cost import SOURCE
from foretune.reproduce.afzal.runs import RANK, SIGMA, placement, projections, single_training, trained_placement
from foretune.reproduce.recipe import Defaults, Recipe, Study


@dataclass(frozen=True)
class AddedLayer:
    """What adding a layer does.

    Attributes:
        number: of the layer.
        bounds: of the ridge objective, with its exact ratio.
        trained: log of the ratio of training losses of real runs.
    """

    number: int
    bounds: CandidateBounds
    trained: float


class LayerChoice(Recipe):
    """Risk ratio and eigenvalue ratio of layer 0 with each other layer."""

    name: ClassVar[str] = "afzal-layers"
    title: ClassVar[str] = "what each further layer does to the risk and to the largest eigenvalue"
    source: ClassVar[str] = f"{SOURCE} eqs. 7 and 8, and Figure 3 of the longer paper"
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr", "subj"), ks=(32,), seeds=(13, 21), test=1000)

    def page(self, study: Study) -> Page:
        """A table and a figure for each task."""
        training = single_training(study.budget)
        tables, figures, findings = [], [], []
        for task in study.tasks:
            for k in study.ks:
                where = f"{task}, k = {k}"
                cells = [study.cell(task, k, seed, "random head") for seed in study.seeds]
                found = [added_layers(cell, training) for cell in cells]
                tables.append(_table(found, f"{where}: theta is W_k of layer 0; means over {len(cells)} seed(s)"))
                figures.append(_figure(found, f"{task}-k{k}"))
                findings += _findings(found, where)
        notes = (
            f"Source: {self.source}.",
            f"Model {study.lm.name} with a random head, trained beside; tasks {', '.join(study.tasks)}; k = "
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
        return Page(f"Rahimi Afzal et al.: {self.title}", notes, tuple(tables), tuple(figures), tuple(findings))


def added_layers(cell: Experiment, training: Training) -> list[AddedLayer]:
    """Every other layer's keys beside those of layer 0."""
    pool, by_layer = pool_of(cell, RANK), projections(cell.outputs, "W_k")
    names = list(by_layer)
    n, k = pool.inputs.n_train, pool.inputs.n_train * pool.inputs.f0.shape[1]
    y = (targets(pool.inputs.y[:n], pool.inputs.f0.shape[1]) - pool.inputs.f0[:n]).reshape(-1)
    sigma = SIGMA * pool.largest_of_all(RANK)

    def matrix(blocks: Sequence[str], head: tuple[str, ...]) -> np.ndarray:
        return pool.of(tuple(blocks), RANK, head).kernel[:, :, :n].reshape(k, k)

    first = by_layer[names[0]]
    base = matrix(first, pool.head)
    start = trained_placement(cell, placement("W_k of layer 0", first, pool.sizes, pool.head), training).risk
    found = []
    for number, name in enumerate(names[1:], 1):
        bounds = candidate_bounds(base, matrix(by_layer[name], ()), y, sigma)
        both = placement(f"W_k of layers 0 and {number}", [*first, *by_layer[name]], pool.sizes, pool.head)
        risk = trained_placement(cell, both, training).risk
        found.append(
            AddedLayer(number, bounds, float(np.log(risk / start)) if risk > 0 and start > 0 else float("nan"))
        )
    return found


def _table(found: Sequence[Sequence[AddedLayer]], caption: str) -> Table:
    rows = []
    for place, first in enumerate(found[0]):
        every = [seed[place] for seed in found]
        bounds = [layer.bounds for layer in every]
        speaks = [each.risk_ratio.high < float("inf") for each in bounds]
        bracket = "says nothing"
        if any(speaks):
            low, high = (
                np.mean([np.log(getattr(b.risk_ratio, end)) for b, says in zip(bounds, speaks, strict=True) if says])
                for end in ("low", "high")
            )
            bracket = f"{low:.2f} to {high:.2f}" + ("" if all(speaks) else f" ({sum(speaks)} of {len(speaks)} seeds)")
        sharp = [np.mean([np.log(getattr(each.sharp_risk_ratio, end)) for each in bounds]) for end in ("low", "high")]
        rows.append(
            (
                f"0, {first.number}",
                mean_and_spread([float(np.log(each.risk_ratio.exact)) for each in bounds], 1.0, 3),
                mean_and_spread([float(np.log(each.proxy)) for each in bounds], 1.0, 3),
                f"{np.mean([each.eta for each in bounds]):.2f}",
                "yes" if all(each.eta < 1 for each in bounds) else "no",
                bracket,
                f"{sharp[0]:.2f} to {sharp[1]:.2f}",
                mean_and_spread([layer.trained for layer in every], 1.0, 3),
            )
        )
    header = (
        "layers",
        "log risk ratio (ridge)",
        "log lambda_max ratio",
        "eta",
        "eq. 7 bounds below",
        "eq. 8, log",
        "sharp bracket, log",
        "log risk ratio (real runs)",
    )
    return Table(header, tuple(rows), caption)


def _figure(found: Sequence[Sequence[AddedLayer]], name: str) -> Figure:
    numbers = np.array([layer.number for layer in found[0]], dtype=float)
    values = {
        "log risk ratio (ridge)": [[np.log(layer.bounds.risk_ratio.exact) for layer in seed] for seed in found],
        "log lambda_max ratio": [[np.log(layer.bounds.proxy) for layer in seed] for seed in found],
        "log risk ratio (real runs)": [[layer.trained for layer in seed] for seed in found],
    }
    curves = tuple(Curve(title, np.array(of, dtype=float).mean(0), numbers) for title, of in values.items())
    title = f"Layer 0 with one more layer, {name}"
    return Figure(f"layers-{name}", title, "added layer", "logarithm of the ratio", curves)


def _findings(found: Sequence[Sequence[AddedLayer]], where: str) -> list[str]:
    every = [layer for seed in found for layer in seed]
    silent = sum(layer.bounds.eta >= 1 for layer in every)
    ridge = np.array([np.log(layer.bounds.risk_ratio.exact) for layer in every])
    proxy = np.array([np.log(layer.bounds.proxy) for layer in every])
    opposite = int(((ridge < 0) & (proxy > 0)).sum())
    real = [layer.trained for layer in every if np.isfinite(layer.trained)]
    lower = sum(value < 0 for value in real)
    etas = [layer.bounds.eta for layer in every]
    return [
        f"{where}: eta is {min(etas):.2f} to {max(etas):.2f}; "
        f"eq. 8 says nothing for {silent} of {len(every)} added layers, and eq. 7 bounds nothing from below there.",
        f"{where}: the risk falls while the largest eigenvalue grows for {opposite} of {len(every)} added layers; more "
        f"blocks never raise the ridge risk. Real runs end with a lower training loss in {lower} of {len(real)}.",
    ]
