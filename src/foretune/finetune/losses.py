"""Losses on logits (n, c): cross-entropy and squared loss, each a mean over examples, in nats or squared logits.

One difference output f = f_1 - f_0 (c = 1) stands for the two logits (0, f): its cross-entropy is the logistic loss, and
its regression target is +-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:  # torch is imported where it is used, so that the command line knows the settings without it
    from torch import Tensor

    from foretune.shapes import Float, Int


@dataclass(frozen=True)
class Loss:
    """What training minimises."""

    name: ClassVar[str] = ""

    def mean(self, logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """The mean loss of the examples, whose classes are `y`."""
        raise NotImplementedError


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """`-log softmax(f)_y`, in nats; Malladi et al. 2023, section 2."""

    name: ClassVar[str] = "cross-entropy"

    def mean(self, logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """The mean loss of the examples, whose classes are `y`."""
        import torch
        from torch import nn

        full = torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
        return nn.functional.cross_entropy(full, y)


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """`1/2 ||f - y||^2` with one-hot targets, +-1 for a difference output; its derivative is `chi = f - y`."""

    name: ClassVar[str] = "squared"

    def mean(self, logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """The mean loss of the examples, whose classes are `y`."""
        import torch

        from foretune.analysis.losses import targets

        wanted = torch.from_numpy(targets(y.cpu().numpy(), logits.shape[1])).to(logits)
        return (logits - wanted).square().sum(1).mean() / 2


LOSSES: Mapping[str, type[Loss]] = {choice.name: choice for choice in (CrossEntropy, SquaredLoss)}
