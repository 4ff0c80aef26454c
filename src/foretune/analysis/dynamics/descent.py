"""How a run steps, as small objects that carry their own numbers, and the batches it steps over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foretune.errors import UsageError
from foretune.shapes import Float64, Int


@dataclass(frozen=True)
class Descent(ABC):
    """How a run steps.

    Attributes:
        learning_rate: lr, the step's factor.
        batch: examples per step, drawn without replacement in each epoch; the last batch of an epoch is what is left;
            None for all.
        proximal: lambda of lambda / 2 ||theta - theta0||^2; theta - theta0 shrinks by 1 - lr lambda each step.
        seed: seed of the order of the examples.

    Raises:
        UsageError: a number out of range.
    """

    learning_rate: float
    batch: int | None = None
    proximal: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        wrong_batch = self.batch is not None and self.batch < 1
        if not 0 < self.learning_rate < np.inf or not 0 <= self.proximal < np.inf or wrong_batch:
            raise UsageError(f"{self}: expected learning_rate > 0, proximal >= 0, and batch >= 1 or None for all.")

    @abstractmethod
    def direction(self, chi: Float64[np.ndarray, "l b c"]) -> Float64[np.ndarray, "l b c"]:
        """What a step subtracts from the coefficients, up to lr / B; may be written over `chi`."""


@dataclass(frozen=True)
class GradientDescent(Descent):
    """Gradient descent with the SGD kernel, or with a LoRA kernel for LoRA's parameters: exact for any batch."""

    def direction(self, chi: Float64[np.ndarray, "l b c"]) -> Float64[np.ndarray, "l b c"]:
        """chi itself."""
        return chi


@dataclass(frozen=True)
class SignDescent(Descent):
    """Sign steps with the asymmetric kernel K[x, i] = <df(x), sign df(x_i)>: rows df, columns signs.

    f_{t+1} - f_t = -lr K(., x_t) sign(chi_t) is the step of SignGD, theta <- theta - lr sign(gradient), for one example
    with one output (Malladi et al. 2023, Theorem 3.3 and D.4), because there sign(chi df) = sign(chi) sign(df). It is
    exact for `batch=1` and the difference form, c = 1.

    Otherwise it is another algorithm: every example and output steps by the sign of its own gradient, and the batch takes
    the mean over examples of the sum over outputs. The sign of a sum is not the sum of signs, and no kernel of pairs of
    examples holds the former. Where gradients disagree this step is shorter than SignGD's lr in each parameter, and so
    is the predicted change of the outputs.

    The pull towards theta0 is decoupled from the sign, as in AdamW.
    """

    batch: int | None = 1

    def direction(self, chi: Float64[np.ndarray, "l b c"]) -> Float64[np.ndarray, "l b c"]:
        """The signs of chi; zero where chi is."""
        return np.sign(chi, out=chi)


def drawn_batches(n: int, descent: Descent) -> Iterator[Int[np.ndarray, " _"]]:
    """The training examples of each step, without end: every epoch in a new order, its last batch what is left."""
    size = min(descent.batch or n, n)
    generator = np.random.default_rng(descent.seed)
    while True:
        order = generator.permutation(n)
        yield from (order[start : start + size] for start in range(0, n, size))
