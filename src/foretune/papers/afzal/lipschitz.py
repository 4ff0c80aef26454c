"""How fast the tangent features turn with the distance from the pretrained weights (Rahimi Afzal et al., Algorithms 1, 2).

L_avg is the mean and L_upper the largest local Lipschitz constant of `theta -> df(x; theta)` over examples and random
directions, by radius (`behaviour.smoothness.ball_constants`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from foretune.experiment.experiment import Experiment
from foretune.experiment.setting import PROBED_HEAD
from foretune.page import Cell, Curve, Figure, Quantity, mean_and_spread
from foretune.papers.afzal.page import SOURCE, AfzalPage
from foretune.papers.recipe import Defaults, Study
from foretune.papers.sections import Section, TaskGroup, table_of
from foretune.regime.smoothness import ball_constants
from foretune.shapes import Float64

EXAMPLES, DRAWS = 4, 4
RADII = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Over ||theta_0||. Smaller ones are lost among the rounding errors of float32 gradients."""


Constants = Float64[np.ndarray, "s r 3"]
"""Radius, L_avg and L_upper of each seed at each of `RADII`."""


class Lipschitz(AfzalPage[Constants]):
    """L_avg and L_upper against the radius."""

    name: ClassVar[str] = "afzal-lipschitz"
    title: ClassVar[str] = "local Lipschitz constants of the tangent features against the radius"
    source: ClassVar[str] = f"{SOURCE} Algorithms 1 and 2 of the longer paper"
    defaults: ClassVar[Defaults] = Defaults("minilm", ("mr",), ks=(16,), seeds=(13,), test=64)
    output: ClassVar[str] = PROBED_HEAD

    def measure(self, study: Study, cells: Sequence[Experiment]) -> Constants:
        """Radius and both constants."""
        return np.array([constants(cell) for cell in cells])

    def section(self, study: Study, group: TaskGroup[Constants]) -> Section:
        """A table and a figure."""
        table = table_of(COLUMNS, list(zip(RADII, group.found.swapaxes(0, 1), strict=True)), group.caption)
        return Section((table,), (_figure(group),), (_finding(group),))

    def remarks(self, study: Study, groups: Sequence[TaskGroup[Constants]]) -> tuple[str, ...]:
        """Around which model, and along which directions."""
        return (
            f"Model {study.lm.name} with a head that starts from linear probing; {EXAMPLES} test examples, {DRAWS} random "
            f"directions over all trainable parameters; seeds {', '.join(map(str, study.seeds))}.",
            "Constants along random directions describe the neighbourhood; training follows the few directions along which "
            "features turn, where they are larger (foretune behaviour measures those of a run).",
        )


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


COLUMNS: Mapping[str, Callable[[tuple[float, np.ndarray]], Cell]] = {
    "radius / ||theta_0||": lambda at: Quantity(at[0], "g"),
    "radius": lambda at: Quantity(float(at[1][:, 0].mean()), ".3g"),
    "L_avg": lambda at: mean_and_spread(at[1][:, 1].tolist(), 1.0, 3),
    "L_upper": lambda at: mean_and_spread(at[1][:, 2].tolist(), 1.0, 3),
}
"""Of the table: heading -> the text at one radius, from its share of ||theta_0|| and (seeds, 3) constants."""


def _figure(group: TaskGroup[Constants]) -> Figure:
    middle = group.found.mean(0)
    curves = tuple(Curve(title, middle[:, place], middle[:, 0]) for place, title in ((1, "L_avg"), (2, "L_upper")))
    title = f"Local Lipschitz constants of the tangent features, {group.name}"
    unit = "constant (outputs / parameters^2)"
    return Figure(f"lipschitz-{group.name}", title, "radius", unit, curves, logarithmic=True)


def _finding(group: TaskGroup[Constants]) -> str:
    middle = group.found.mean(0)
    return (
        f"{group.where}: from a radius of {middle[0, 0]:.3g} to {middle[-1, 0]:.3g} L_avg goes from {middle[0, 1]:.3g} to "
        f"{middle[-1, 1]:.3g}, L_upper from {middle[0, 2]:.3g} to {middle[-1, 2]:.3g}."
    )
