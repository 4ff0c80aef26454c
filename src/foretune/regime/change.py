r"""How far fine-tuning moved the parameters: `theta_FT - theta_0` and its norm `||theta_FT - theta_0||`.

The distance is what proximal fine-tuning bounds (Afzal et al., *Linearization Explains Fine-Tuning in Large Language
Models*, Theorem 1), and what the gap between a network and its linearization grows with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.model.outputs import Outputs


@dataclass(frozen=True)
class ParameterChange:
    """The step from one parameter vector to another.

    Attributes:
        start: theta_0 by parameter name; shares the model's memory.
        step: theta_FT - theta_0 by parameter name, zeros where a parameter did not move.
    """

    start: dict[str, Tensor]
    step: dict[str, Tensor]

    @property
    def norms(self) -> dict[str, float]:
        """||theta_FT - theta_0|| of each parameter, accumulated in float64."""
        return {name: norm(tensor) for name, tensor in self.step.items()}

    @property
    def distance(self) -> float:
        """||theta_FT - theta_0|| of all parameters together."""
        return math.hypot(*self.norms.values())

    @property
    def relative(self) -> float:
        """The distance over ||theta_0||."""
        return self.distance / math.hypot(*(norm(tensor) for tensor in self.start.values()))

    def point(self, share: float) -> dict[str, Tensor]:
        """theta_0 + share * (theta_FT - theta_0)."""
        return {name: tensor + share * self.step[name] for name, tensor in self.start.items()}


def norm(tensor: Tensor) -> float:
    """The Euclidean norm, in float64."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def parameter_change(before: Outputs, after: Outputs) -> ParameterChange:
    """The step of fine-tuning, on the parameters that are trainable in `before`.

    For adapters `before` is the model with its adapters at their start, not the model without them.

    Args:
        before, after: the same kind of outputs on two models of one architecture.

    Raises:
        UsageError: different parameters or shapes, a parameter that is frozen in `before` and yet differs,
            or no trainable one.
    """
    first, second = dict(before.module.named_parameters()), dict(after.module.named_parameters())
    if before.description["kind"] != after.description["kind"] or first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())[:3]
        raise UsageError(
            f"The models before and after do not have the same parameters{f', {odd} for example' if odd else ''}. Compare "
            "two models of one architecture with the same kind of outputs; for adapters, start from the model with them."
        )
    trainable = {id(tensor): name for name, tensor in before.parameters().items()}
    start: dict[str, Tensor] = {}
    step: dict[str, Tensor] = {}
    for inner, tensor in first.items():
        other, name = second[inner].detach().to(tensor.device), trainable.get(id(tensor))
        if other.shape != tensor.shape:
            raise UsageError(
                f"The parameter {inner} has shape {tuple(tensor.shape)} before and {tuple(other.shape)} after; expected "
                "two models of one architecture."
            )
        if name is not None and tensor.is_floating_point():
            start[name], step[name] = tensor.detach(), other.to(tensor.dtype) - tensor.detach()
        elif not torch.equal(tensor.detach(), other.to(tensor.dtype)):
            raise UsageError(
                f"The parameter {inner} differs before and after, but it is frozen (or quantised) in the model before. "
                "Set requires_grad_(True) on what was trained."
            )
    if not step:
        raise UsageError("The model before has no trainable parameter. Set requires_grad_(True) on what was trained.")
    return ParameterChange(start, step)
