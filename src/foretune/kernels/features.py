r"""Tangent features: sketched gradients of every parameter block, from which the kernel of any set of blocks is a product.

    K_S[i, a, j, e] = sum_{b in S} phi_b(x_i)[a] . phi_b(x_j)[e]

Where `BlockKernel` holds b x n x c x m x c numbers, this holds (n + m) x c x b x k of them, in chunks of examples: arrays,
or files that are read where they lie. `summed` gives the features of a set S side by side, or mixed into fewer by random
signs where they would be many: the blocks' errors are there already, and another of that size hardly adds to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from foretune.kernels.block_kernel import Pattern, matching
from foretune.kernels.draws import draws
from foretune.shapes import Bool, Float32

MOST = 1024
"""Features that a sum over blocks has at most."""


@dataclass(frozen=True)
class TangentFeatures:
    """Features by parameter block.

    Attributes:
        names: the parameter of each block.
        chunks: float32, each of some examples, one after the other: (examples, c, all blocks, k).
        first: where this kernel's blocks begin among them.
        n: how many examples come first and are for training.
        description: how the values were got (model, data, formula, sketch, versions).
    """

    names: tuple[str, ...]
    chunks: Sequence[Float32[np.ndarray, "_ c b k"]] = field(repr=False)
    first: int
    n: int
    description: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the kernel: blocks, training examples, outputs, examples, outputs."""
        c = self.chunks[0].shape[1]
        return len(self.names), self.n, c, sum(map(len, self.chunks)), c

    def select(self, pattern: Pattern) -> Blocks:
        """The names of the blocks that match a glob, one of several globs, or a predicate. Raises as `matching` does."""
        return tuple(self.names[place] for place in matching(self.names, pattern))

    @cached_property
    def moving(self) -> Blocks:
        """The blocks whose training moves some training output."""
        found = np.zeros(len(self.names), dtype=bool)
        for chunk in self._parts(self.n):
            found |= self._any(chunk)
        return tuple(name for name, moves in zip(self.names, found, strict=True) if moves)

    @property
    def unsound(self) -> str | None:
        """The first block with an infinite or undefined number; None, since a pass refuses them."""
        return None

    @property
    def tells_apart(self) -> bool:
        """Whether the features differ from example to example."""
        one = self.chunks[0][:1, :, self.first : self.first + len(self.names)]
        limit = 1e-5 * max(float(np.abs(one).max()), np.finfo(np.float32).tiny)
        return any(
            (np.abs(part[:, :, self.first : self.first + len(self.names)] - one) > limit).any()
            for part in self._parts(self.shape[3])
        )

    def summed(
        self, names: Sequence[str], examples: int | None = None, most: int = MOST
    ) -> Float32[np.ndarray, "m c k"]:
        """The features of some blocks together: their product is the sum of the blocks' kernels.

        Args:
            names: of the blocks.
            examples: only so many, the first; all without it.
            most: features of the result at most. More are mixed: each is added, with a random sign, to one of so many
                sums, the same whatever else is added.
        """
        place = {name: number for number, name in enumerate(self.names)}
        places, k = [place[name] for name in names], self.chunks[0].shape[3]
        most = max(most, k)
        _, _, c, total, _ = self.shape
        total = total if examples is None else examples
        width = len(places) * k
        found = np.zeros((total, c, min(width, most)), dtype=np.float32)
        start = 0
        for part in self._parts(total):
            into = found[start : start + len(part)]
            for number, at in enumerate(places):
                values = part[:, :, self.first + at]
                if width <= most:
                    into[:, :, number * k : (number + 1) * k] = values
                else:
                    sums, signs = _mixture(self.names[at], self.first, k, most)
                    into[:, :, sums] += values * signs
            start += len(part)
        return found

    def _parts(self, examples: int) -> Iterator[Float32[np.ndarray, "_ c b k"]]:
        """The chunks up to a number of examples."""
        for chunk in self.chunks:
            if examples <= 0:
                return
            yield chunk[:examples]
            examples -= len(chunk)

    def _any(self, part: Float32[np.ndarray, "_ c b k"]) -> Bool[np.ndarray, " b"]:
        return (part[:, :, self.first : self.first + len(self.names)] != 0).any((0, 1, 3))


Blocks = tuple[str, ...]
"""Names of parameter blocks."""


def _mixture(name: str, first: int, k: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """To which sum each feature of a block is added, no two of one block to the same, and with which sign."""
    generator = draws(0, "mixture", name, first)
    sums = generator.permutation(most)[:k]
    return sums, (2 * generator.integers(0, 2, k) - 1).astype(np.float32)
