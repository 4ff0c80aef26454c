"""One call that takes a parameter, and the derivatives of the outputs with respect to its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from foretune.gradients.factors import Factor
from foretune.shapes import Float

Derivatives = tuple[Float[Tensor, "n t o"], ...]
"""Of each output with respect to the result of a call."""
Rule = Callable[[Derivatives], list[tuple[str, Factor]]]


class NotPerExampleError(Exception):
    """An operation mixed or flattened the examples of a batch; one example at a time is needed."""


@dataclass(frozen=True)
class Watched:
    """A tensor that stands for a parameter: the parameter itself, some rows or one slice of it, or its transpose.

    Attributes:
        name: the parameter.
        rows: which of its rows; None for all.
        slice: which slice of a 3-D parameter; None for all.
        turned: whether rows and columns are exchanged.
    """

    name: str
    rows: Tensor | None = None
    slice: int | None = None
    turned: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is the parameter itself."""
        return self.rows is None and self.slice is None and not self.turned


class Use:
    """One call that takes a parameter.

    Attributes:
        name: the parameter.
        rule: turns the derivatives into factors.
        result: what the call returned, kept only until the forward pass has ended.
    """

    def __init__(self, name: str, rule: Rule, result: Tensor) -> None:
        self.name, self.rule, self.result = name, rule, result
        self.received: dict[int, Tensor] = {}
        self.output, self.outputs = 0, 1

    def receive(self, g: Float[Tensor, "n t o"]) -> None:
        """Take the derivative of the output whose backward pass is running, as it is: a copy would touch fresh memory."""
        self.received[self.output] = g

    def derivatives(self) -> Derivatives | None:
        """All derivatives, after the last backward pass; None if no output depends on this call."""
        received, self.received = self.received, {}
        if not received:
            return None
        if len(received) < self.outputs:  # zero for an output that does not depend on this call
            some = next(iter(received.values()))
            zero = some.new_zeros(()).expand(some.shape)
            received = {output: received.get(output, zero) for output in range(self.outputs)}
        return tuple(received[output] for output in range(self.outputs))
