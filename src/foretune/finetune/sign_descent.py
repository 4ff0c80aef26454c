"""Sign descent as a torch optimiser: `theta -= eta sign(grad)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn


class SignOptimizer(torch.optim.Optimizer):
    """The torch optimiser of `SignGDOptimiser`."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; with a closure, its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])
        return loss
