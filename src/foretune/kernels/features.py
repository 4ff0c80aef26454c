r"""Tangent features: sketched gradients of every parameter block, from which the kernel of any set of blocks is a product.

    K_S[i, a, j, e] = sum_{b in S} phi_b(x_i)[a] . phi_b(x_j)[e]

Where `BlockKernel` holds b x n x c x m x c numbers, this holds (n + m) x c x b x k of them, in chunks of examples: arrays,
or files that are read where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from foretune.kernels.block_kernel import BlockKernel
from foretune.model.batches import constant
from foretune.shapes import Bool, Float32


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
        blocks = slice(self.first, self.first + len(self.names))
        ends = [end(part[:, :, blocks], axis=0).ravel() for part in self.chunks for end in (np.min, np.max)]
        return not constant(np.stack(ends))

    def only(self, places: Sequence[int], n: int) -> TangentFeatures:
        """The same of some examples, the first n of which are for training."""
        starts = np.cumsum([0, *map(len, self.chunks)])
        at = np.searchsorted(starts, places, side="right") - 1
        rows = [self.chunks[chunk][place - starts[chunk]] for chunk, place in zip(at, places, strict=True)]
        return replace(self, chunks=[np.stack(rows)], n=n)

    def of(
        self, names: Sequence[str], examples: int | None = None
    ) -> Iterator[tuple[int, Float32[np.ndarray, "m c k"]]]:
        """The features of some blocks, one after the other, in the order of the model.

        Args:
            names: of the blocks.
            examples: only so many, the first; all without it.

        Yields:
            A number of the block that no block of another kernel of the same pass has, and its features.
        """
        wanted, total = set(names), self.shape[3] if examples is None else examples
        for place, name in enumerate(self.names, self.first):
            if name in wanted:
                yield place, np.concatenate([part[:, :, place] for part in self._parts(total)])

    def _parts(self, examples: int) -> Iterator[Float32[np.ndarray, "_ c b k"]]:
        """The chunks up to a number of examples."""
        for chunk in self.chunks:
            if examples <= 0:
                return
            yield chunk[:examples]
            examples -= len(chunk)

    def _any(self, part: Float32[np.ndarray, "_ c b k"]) -> Bool[np.ndarray, " _"]:
        return (part[:, :, self.first : self.first + len(self.names)] != 0).any((0, 1, 3))


Blocks = tuple[str, ...]
"""Names of parameter blocks."""
Blocked = BlockKernel | TangentFeatures
"""Kernels block by block: multiplied out, or held as features."""
