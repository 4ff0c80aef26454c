r"""How fast the tangent features turn: local Lipschitz constants of `theta -> df(x; theta)`, and what they bound.

    L(x) = ||df(x; theta_0 + r u) - df(x; theta_0)||_F / r,        u a unit vector, F over outputs and parameters

    ||f(x; theta) - f_lin(x; theta)|| <= L(x) / 2 ||theta - theta_0||^2

because `f - f_lin = int_0^1 <df(theta_0 + s D) - df(theta_0), D> ds` with D = theta - theta_0, wherever L(x) bounds the
quotient on the segment from theta_0 to theta. Along random directions (`ball_constants`) the constants describe the
neighbourhood, and the bound is only an estimate: a random direction is almost orthogonal to the few along which the
features turn, and training follows those. (SmolLM2-135M after three full-batch steps on eight movie reviews, two of them
measured, one draw: 0.5 along a random direction, 254 along the segment, and a gap up to nine times what 0.5 would bound.)
Along the segment itself (`segment_constants`) it is a bound up to how finely the segment is sampled.

Gradients are taken one example at a time, in the model's precision: a radius must be well above rounding,
`1e-7 ||theta_0||` in float32. Afzal et al., *Linearization Explains Fine-Tuning in Large Language Models*, ask how close
fine-tuning and its linearization are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.kernels.block_kernel import Pattern, matching
from foretune.kernels.draws import draws as draws_of
from foretune.model.batches import Rows, batches
from foretune.model.encoding import Batch
from foretune.model.outputs import Outputs
from foretune.regime.change import norm, parameter_change
from foretune.shapes import Float64
from foretune.text.example import as_examples

Vector = dict[str, Tensor]


@dataclass(frozen=True)
class LocalLipschitz:
    """Local Lipschitz constants of the tangent features.

    Attributes:
        radii: distances r from theta_0, ascending.
        values: the constant at each radius, along each direction, of each example.
    """

    radii: Float64[np.ndarray, " r"]
    values: Float64[np.ndarray, "r k n"]

    @property
    def average(self) -> Float64[np.ndarray, " r"]:
        """The mean over directions and examples, by radius."""
        return self.values.mean((1, 2))

    @property
    def largest(self) -> Float64[np.ndarray, " r"]:
        """The maximum over directions and examples, by radius."""
        return self.values.max((1, 2))

    def gap_bounds(self, distance: float) -> Float64[np.ndarray, " n"]:
        """L(x) / 2 distance^2 of each example, with the largest constant over directions and all radii up to there.

        Args:
            distance: ||theta - theta_0||.

        Raises:
            UsageError: the distance lies beyond the largest radius or below the smallest.
        """
        within = self.radii <= distance * (1 + 1e-9)
        if not within.any() or distance > self.radii[-1] * (1 + 1e-9):
            raise UsageError(
                f"The distance {distance:g} lies outside of the radii {self.radii[0]:g} to {self.radii[-1]:g} at which the "
                "constants were measured. Measure them up to there."
            )
        return self.values[within].max((0, 1)) * distance**2 / 2


def ball_constants(
    outputs: Outputs,
    rows: Rows,
    radii: Sequence[float],
    draws: int = 4,
    seed: int = 0,
    blocks: Pattern | None = None,
) -> LocalLipschitz:
    """Constants along random directions, uniform on the sphere.

    It costs `n * (1 + draws * radii) * c` backward passes, and the memory of about `2 c + 3` sets of parameters.

    Args:
        outputs: the model at theta_0, with c outputs.
        rows: n examples.
        radii: distances from theta_0, in units of the parameters.
        draws: k directions.
        seed: of the directions.
        blocks: globs or a predicate on parameter names, the parameters that move; all trainable ones when left out.

    Returns:
        Constants of shape (r, k, n), in units of outputs per squared unit of parameters.

    Raises:
        UsageError: radii that are not positive, no draws, no matching block, or no rows.
    """
    chosen = sorted(radii)
    if not chosen or not chosen[0] > 0 or not math.isfinite(chosen[-1]) or draws < 1:
        raise UsageError(f"Radii {list(radii)} and {draws} draws; expected positive radii and at least one draw.")
    start = outputs.parameters()
    names = list(start) if blocks is None else [list(start)[place] for place in matching(list(start), blocks)]
    start = {name: start[name].detach() for name in names}

    def direction(draw: int) -> Vector:
        return _unit({name: _normal(tensor, seed, draw, name) for name, tensor in start.items()})

    return _constants(outputs, rows, start, [lambda draw=draw: direction(draw) for draw in range(draws)], chosen)


def segment_constants(before: Outputs, after: Outputs, rows: Rows, points: int = 8) -> LocalLipschitz:
    """Constants along the segment from theta_0 to theta_FT, at evenly spaced points up to the end.

    Args:
        before: the model at theta_0, with c outputs.
        after: the same outputs of the fine-tuned model.
        rows: n examples.
        points: r, how many.

    Returns:
        Constants of shape (r, 1, n); `gap_bounds(change.distance)` covers the segment.

    Raises:
        UsageError: models that do not match (see `parameter_change`) or do not differ, no points, or no rows.
    """
    change = parameter_change(before, after)
    if points < 1 or not change.distance > 0:
        raise UsageError(f"{points} points on a segment of length {change.distance:g}; expected both above zero.")
    radii = [change.distance * point / points for point in range(1, points + 1)]
    return _constants(before, rows, change.start, [lambda: _unit(change.step)], radii)


def _normal(like: Tensor, seed: int, draw: int, name: str) -> Tensor:
    values = draws_of(seed, "lipschitz", draw, name).standard_normal(tuple(like.shape), dtype=np.float32)
    return torch.from_numpy(np.asarray(values)).to(like)


def _unit(vector: Vector) -> Vector:
    length = math.hypot(*(norm(tensor) for tensor in vector.values()))
    return {name: tensor / length for name, tensor in vector.items()}


def _constants(
    outputs: Outputs, rows: Rows, start: Vector, directions: Sequence[Callable[[], Vector]], radii: Sequence[float]
) -> LocalLipschitz:
    """One example at a time: its gradient at theta_0 is held while directions and radii pass by."""
    rows = as_examples(rows)
    values = np.empty((len(radii), len(directions), len(rows)))
    for (place,), batch in batches(outputs, rows, 1):
        base = _gradients(outputs, start, batch)
        for draw, made in enumerate(directions):
            unit = made()
            for number, radius in enumerate(radii):
                moved = {name: tensor + radius * unit[name] for name, tensor in start.items()}
                turned = _gradients(outputs, moved, batch)
                steps = [
                    norm(b - a)
                    for one, other in zip(base, turned, strict=True)
                    for a, b in zip(one, other, strict=True)
                ]
                values[number, draw, place] = math.hypot(*steps) / radius
    return LocalLipschitz(np.array(radii), values)


def _gradients(outputs: Outputs, parameters: Vector, batch: Batch) -> list[list[Tensor]]:
    """The gradient of each output of one example, by parameter."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    with torch.enable_grad():
        logits = outputs.logits(leaves, batch)[0]  # (c,)
    return [
        list(
            torch.autograd.grad(
                logit, list(leaves.values()), retain_graph=output < len(logits) - 1, materialize_grads=True
            )
        )
        for output, logit in enumerate(logits)
    ]
