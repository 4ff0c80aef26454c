"""How fast the tangent features turn with the distance from the pretrained weights (Rahimi Afzal et al., Algorithms 1, 2).

L_avg is the mean and L_upper the largest local Lipschitz constant of `theta -> df(x; theta)` over examples and random
directions, by radius (`behaviour.smoothness.ball_constants`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from foretune.behaviour.smoothness import ball_constants
from foretune.experiment.experiment import Experiment
from foretune.page import Curve, Figure, Page, Table, mean_and_spread
from foretune.reproduce.afzal.cost import SOURCE
from foretune.reproduce.recipe import Defaults, Recipe, Study

EXAMPLES, DRAWS = 4, 4
RADII = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Over ||theta_0||. Smaller ones are lost among the rounding errors of float32 gradients."""


class Lipschitz(Recipe):
    """L_avg and L_upper against the radius."""

    name: ClassVar[str] = "afzal-lipschitz"
    title: ClassVar[str] = "local Lipschitz constants of the tangent features against the radius"
    source: ClassVar[str] = f"{SOURCE} Algorithms 1 and 2 of the longer paper"
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr",), ks=(16,), seeds=(13,), test=64)

    def page(self, study: Study) -> Page:
        """A table and a figure for each task."""
        tables, figures, findings = [], [], []
        for task in study.tasks:
            for k in study.ks:
                cells = [study.cell(task, k, seed, "probed head") for seed in study.seeds]
                found = np.array([constants(cell) for cell in cells])  # (seeds, radii, 3)
                tables.append(_table(found, f"{task}, k = {k}: means (standard deviations) over {len(cells)} seed(s)"))
                figures.append(_figure(found, f"{task}-k{k}"))
                findings.append(_finding(found, f"{task}, k = {k}"))
        notes = (
            f"Source: {self.source}.",
            f"Model {study.lm.name} with a head that starts from linear probing; {EXAMPLES} test examples, {DRAWS} random "
            f"directions over all trainable parameters; seeds {', '.join(map(str, study.seeds))}.",
            "Constants along random directions describe the neighbourhood; training follows the few directions along which "
            "features turn, where they are larger (foretune behaviour measures those of a run).",
        )
        return Page(f"Rahimi Afzal et al.: {self.title}", notes, tuple(tables), tuple(figures), tuple(findings))


def constants(cell: Experiment) -> list[list[float]]:
    """Radius, L_avg and L_upper at each of `RADII`; kept."""
    key = {"examples": EXAMPLES, "draws": DRAWS, "radii": list(RADII)}

    def measured() -> dict[str, list[list[float]]]:
        norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in cell.outputs.parameters().values()))
        rows = cell.split.test[:EXAMPLES]
        found = ball_constants(cell.outputs, rows, [share * norm for share in RADII], DRAWS)
        columns = zip(found.radii, found.average, found.largest, strict=True)
        return {"constants": [[float(value) for value in row] for row in columns]}

    return cell.value("lipschitz-ball", key, measured)["constants"]


def _table(found: np.ndarray, caption: str) -> Table:
    rows = [
        (
            f"{share:g}",
            f"{found[:, place, 0].mean():.3g}",
            mean_and_spread(_plain(found[:, place, 1]), 1.0, 3),
            mean_and_spread(_plain(found[:, place, 2]), 1.0, 3),
        )
        for place, share in enumerate(RADII)
    ]
    return Table(("radius / ||theta_0||", "radius", "L_avg", "L_upper"), tuple(rows), caption)


def _plain(values: np.ndarray) -> Sequence[float]:
    return [float(value) for value in values]


def _figure(found: np.ndarray, name: str) -> Figure:
    middle = found.mean(0)
    curves = tuple(Curve(title, middle[:, place], middle[:, 0]) for place, title in ((1, "L_avg"), (2, "L_upper")))
    title = f"Local Lipschitz constants of the tangent features, {name}"
    return Figure(f"lipschitz-{name}", title, "radius", "constant (outputs / parameters^2)", curves, logarithmic=True)


def _finding(found: np.ndarray, where: str) -> str:
    middle = found.mean(0)
    return (
        f"{where}: from a radius of {middle[0, 0]:.3g} to {middle[-1, 0]:.3g} L_avg goes from {middle[0, 1]:.3g} to "
        f"{middle[-1, 1]:.3g}, L_upper from {middle[0, 2]:.3g} to {middle[-1, 2]:.3g}."
    )
