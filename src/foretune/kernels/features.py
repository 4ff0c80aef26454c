r"""Tangent features: sketched gradients of every parameter block, from which the kernel of any set of blocks is a product.

    K_S[i, a, j, e] = sum_{b in S} phi_b(x_i)[a] . phi_b(x_j)[e]

Where `BlockKernel` holds b x n x c x m x c numbers, this holds at most (n + m) x c x b x k of them, in chunks of examples:
arrays, or files of which a block is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from foretune.kernels.block_kernel import BlockKernel, in_words
from foretune.model.batches import constant
from foretune.shapes import Float32, Float64


@dataclass(frozen=True)
class Chunk:
    """The features of some examples: block after block, (examples, c, width of the block) each.

    Attributes:
        held: the numbers, or a file that `np.load` reads.
        examples: how many.
        c: outputs.
    """

    held: Float32[np.ndarray, " _"] | Path = field(repr=False)
    examples: int
    c: int

    @cached_property
    def _offset(self) -> int:
        """Bytes of the file before its numbers."""
        return 0 if isinstance(self.held, np.ndarray) else np.load(self.held, mmap_mode="r", allow_pickle=False).offset

    @property
    def values(self) -> Float32[np.ndarray, " _"]:
        """All numbers."""
        return self.held if isinstance(self.held, np.ndarray) else np.load(self.held, allow_pickle=False)

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "m c w"]:
        """Those of a block, which has the numbers `start` to `stop` of each example and output."""
        each = self.examples * self.c
        if isinstance(self.held, np.ndarray):
            found = self.held[each * start : each * stop]
        else:
            size = each * (stop - start)
            found = np.fromfile(self.held, np.float32, size, offset=self._offset + 4 * each * start)
        return found.reshape(self.examples, self.c, stop - start)


@dataclass(frozen=True)
class TangentFeatures:
    """Features by parameter block: `foretune forecast --features sketched` writes them, `read_features` reads them.

    Attributes:
        names: the parameter of each block.
        chunks: of some examples each, one after the other; they hold the blocks of all kernels of a pass.
        starts: where each block begins among the numbers of an example and output, and where the last one ends.
        first: how many blocks of other kernels come before.
        n: how many examples come first and are for training.
        description: how the values were got (model, data, formula, sketch, versions).
    """

    names: tuple[str, ...]
    chunks: Sequence[Chunk] = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)
    first: int
    n: int
    description: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """A line that a notebook can show: the sizes, and the first and last of the names."""
        return f"TangentFeatures({in_words(self.names, self.shape)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the kernel: blocks, training examples, outputs, examples, outputs."""
        c = self.chunks[0].c
        return len(self.names), self.n, c, sum(chunk.examples for chunk in self.chunks), c

    @cached_property
    def moving(self) -> Blocks:
        """The blocks whose training moves some training output."""
        return tuple(
            name for place, name in enumerate(self.names) if any(part.any() for part in self._parts(place, self.n))
        )

    @property
    def unsound(self) -> str | None:
        """The first block with an infinite or undefined number; None, since a pass refuses them."""
        return None

    @property
    def tells_apart(self) -> bool:
        """Whether the features differ from example to example."""
        total = self.shape[3]
        for place in range(len(self.names)):
            ends = [end(part, axis=0).ravel() for part in self._parts(place, total) for end in (np.min, np.max)]
            if not constant(np.stack(ends)):
                return True
        return False

    def summed(self, names: Collection[str], examples: int | None = None) -> Float64[np.ndarray, "n c m c"]:
        """The kernel of some blocks together, multiplied out one block after the other.

        Args:
            names: of the blocks.
            examples: of the first so many examples against themselves only; without it, the n for training against all.
        """
        n, c = self.n if examples is None else examples, self.shape[2]
        m = self.shape[3] if examples is None else examples
        found = np.zeros((n, c, m, c))
        for _, features in self.of(names, examples):
            left, right = (each.reshape(-1, each.shape[-1]) for each in (features[:n], features))
            found += (left @ right.T).reshape(found.shape)
        return found

    def total(self) -> Float64[np.ndarray, "n c m c"]:
        """The kernel of all blocks together."""
        return self.summed(self.names)

    def matrix(self) -> Float64[np.ndarray, "nc mc"]:
        """The kernel of all blocks as a matrix: row `i * c + a`, column `j * c + e`."""
        _, n, c, m, _ = self.shape
        return self.total().reshape(n * c, m * c)

    def only(self, places: Sequence[int], n: int) -> TangentFeatures:
        """The same of some examples, the first n of which are for training."""
        ends = np.cumsum([chunk.examples for chunk in self.chunks])
        at = np.searchsorted(ends, places, side="right")
        blocks = []
        for start, stop in pairwise(self.starts):
            read = {number: self.chunks[number].block(start, stop) for number in set(at.tolist())}
            rows = [read[chunk][place - ends[chunk]] for chunk, place in zip(at.tolist(), places, strict=True)]
            blocks.append(np.stack(rows).ravel())
        starts = tuple(start - self.starts[0] for start in self.starts)
        chunk = Chunk(np.concatenate(blocks), len(places), self.chunks[0].c)
        return replace(self, chunks=[chunk], starts=starts, n=n)

    def width(self, names: Collection[str]) -> int:
        """Numbers of some blocks together, for an example and output."""
        wanted = set(names)
        return sum(
            stop - start
            for name, (start, stop) in zip(self.names, pairwise(self.starts), strict=True)
            if name in wanted
        )

    def of(
        self, names: Collection[str], examples: int | None = None
    ) -> Iterator[tuple[int, Float32[np.ndarray, "m c w"]]]:
        """The features of some blocks, one after the other, in the order of the model.

        Args:
            names: of the blocks.
            examples: only so many, the first; all without it.

        Yields:
            A number of the block that no block of another kernel of the same pass has, and its features.
        """
        wanted, total = set(names), self.shape[3] if examples is None else examples
        for place, name in enumerate(self.names):
            if name in wanted:
                yield self.first + place, np.concatenate(list(self._parts(place, total)))

    def _parts(self, place: int, examples: int) -> Iterator[Float32[np.ndarray, "_ c w"]]:
        """A block of the chunks up to a number of examples."""
        for chunk in self.chunks:
            if examples <= 0:
                return
            yield chunk.block(*self.starts[place : place + 2])[:examples]
            examples -= chunk.examples


Blocks = tuple[str, ...]
"""Names of parameter blocks."""
Blocked = BlockKernel | TangentFeatures
"""Kernels block by block: multiplied out, or held as features."""
