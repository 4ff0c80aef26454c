"""Optimisers as choices: plain gradient descent, Adam, Adam that finds its own rate, and the sign of the gradient.

Malladi et al. 2023, Definition 3.1: SignGD, `theta -= eta sign(grad)`, is what Adam does early in fine-tuning.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from foretune.errors import UsageError

if TYPE_CHECKING:  # torch is imported where it is used, so that the command line knows the settings without it
    import torch
    from torch import nn


@dataclass(frozen=True)
class Optimiser:
    """How a gradient becomes a step.

    Attributes:
        learning_rate: learning rate eta.

    Raises:
        UsageError: a learning rate that is not a positive number.
    """

    learning_rate: float = 1e-3
    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(
                f"The learning rate is {self.learning_rate}; expected a positive number, 1e-3 for example."
            )

    def on(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        raise NotImplementedError


@dataclass(frozen=True)
class SGDOptimiser(Optimiser):
    """Stochastic gradient descent, `theta -= eta grad`.

    Attributes:
        learning_rate: learning rate eta.
        momentum: momentum of the heavy ball.
        weight_decay: strength of the L2 penalty.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    name: ClassVar[str] = "sgd"

    def on(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        import torch

        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class AdamWOptimiser(Optimiser):
    """Adam with decoupled weight decay; without decay it is Adam.

    Attributes:
        learning_rate: learning rate eta.
        betas: decay of the running first and second moments.
        epsilon: added to the root of the second moment.
        weight_decay: share of the parameters that a step removes, times eta.
    """

    learning_rate: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    name: ClassVar[str] = "adamw"

    def on(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        import torch

        return torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=self.betas, eps=self.epsilon, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class SignGDOptimiser(Optimiser):
    """Sign descent, `theta -= eta sign(grad)` with sign(0) = 0.

    Attributes:
        learning_rate: learning rate eta.
    """

    learning_rate: float = 2e-5
    name: ClassVar[str] = "signgd"

    def on(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        from foretune.finetune.sign_descent import SignOptimizer

        return SignOptimizer(parameters, self.learning_rate)


@dataclass(frozen=True)
class ProdigyOptimiser(Optimiser):
    """Adam that estimates its learning rate from how far it has come (Mishchenko & Defazio 2023, arXiv 2306.06101).

    Attributes:
        learning_rate: a factor of the estimate; 1 as its authors advise.

    Raises:
        UsageError: the package `prodigyopt` is missing.
    """

    learning_rate: float = 1.0
    name: ClassVar[str] = "prodigy"

    def on(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        refuse_missing_prodigy()
        from prodigyopt import Prodigy

        return Prodigy(parameters, lr=self.learning_rate)


def refuse_missing_prodigy() -> None:
    """See that the optimiser can be made.

    Raises:
        UsageError: the package `prodigyopt` is missing.
    """
    if importlib.util.find_spec("prodigyopt") is None:
        raise UsageError(
            "The optimiser prodigy needs the package prodigyopt, which is not installed. Install it: "
            "pip install 'foretune[prodigy]'"
        )


OPTIMISERS: Mapping[str, type[Optimiser]] = {
    choice.name: choice for choice in (SGDOptimiser, AdamWOptimiser, SignGDOptimiser)
}
"""What `foretune tune` offers; `ProdigyOptimiser` is a rival in `foretune validate`."""
