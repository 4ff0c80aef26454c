"""The kernel of every parameter block, in one array.

`K[b, i, a, j, e] = <d f_a(x_i) / d theta_b, d f_e(x_j) / d theta_b>` for the SGD kernel. Blocks add up: the kernel of
any set of parameters is the sum over its blocks.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from foretune.errors import UsageError, nearest
from foretune.kernels.folder import read_folder, write_folder
from foretune.model.batches import constant
from foretune.shapes import Float64

Pattern = str | Sequence[str] | Callable[[str], bool]


def matching(names: Sequence[str], pattern: Pattern) -> list[int]:
    """The places of the names that a glob, one of several globs, or a predicate accepts.

    Raises:
        UsageError: none does; the message names the nearest.
    """
    if callable(pattern):
        chosen = [place for place, name in enumerate(names) if pattern(name)]
    else:
        globs = [pattern] if isinstance(pattern, str) else list(pattern)
        chosen = [place for place, name in enumerate(names) if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]
    if not chosen:
        hint = nearest(str(pattern).strip("*"), names)
        raise UsageError(
            f"No parameter block matches {pattern!r}. The {len(names)} blocks begin with {names[0]!r}.{hint}"
        )
    return chosen


def in_words(names: Sequence[str], shape: Sequence[int]) -> str:
    """Blocks, examples and outputs of a kernel; of the names the first and the last."""
    blocks, n, c, m, d = shape
    shown = names if blocks < 3 else (names[0], "...", names[-1])
    return f"{blocks} block{'s' * (blocks != 1)} ({', '.join(shown)}), {n} x {m} examples, {c} x {d} outputs"


@dataclass(frozen=True)
class BlockKernel:
    """Kernels by parameter block.

    Attributes:
        names: the parameter of each block.
        array: float64, shape (b, n, c, m, d): rows are examples i with outputs a, columns examples j with outputs e.
        description: how the values were got (model, data, formula, versions).
    """

    names: tuple[str, ...]
    array: Float64[np.ndarray, "b n c m d"]
    description: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        """A line that a notebook can show: the sizes, and the first and last of the names."""
        return f"BlockKernel({in_words(self.names, self.shape)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Blocks, row examples, outputs, column examples, outputs."""
        return self.array.shape

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """The blocks whose training moves some training output: those of a joint kernel that are not zero there."""
        n = self.array.shape[1]
        return tuple(name for name, block in zip(self.names, self.array, strict=True) if block[:, :, :n].any())

    @property
    def unsound(self) -> str | None:
        """The first block with an infinite or undefined entry."""
        blocks = zip(self.names, self.array, strict=True)
        return next((name for name, block in blocks if not np.isfinite(block).all()), None)

    @property
    def tells_apart(self) -> bool:
        """Whether the kernel of some block differs from example to example."""
        blocks = self.array.transpose(0, 1, 3, 2, 4)  # (b, n, m, c, d)
        return any(not constant(block.reshape(-1, block.shape[2] * block.shape[3])) for block in blocks if block.any())

    def summed(self, names: Sequence[str], examples: int | None = None) -> Float64[np.ndarray, "n c m d"]:
        """The kernel of some blocks together, added in the order of the model.

        Args:
            names: of the blocks.
            examples: of the first so many examples against themselves only; all without it.
        """
        wanted = set(names)
        places = [place for place, name in enumerate(self.names) if name in wanted]
        few = self.array[0, :examples, :, :examples]
        found = np.empty(few.shape)
        for row in range(len(few)):  # one after the other: the blocks of all would be copied
            found[row] = self.array[places, row, :, : few.shape[2]].sum(0)
        return found

    def total(self) -> Float64[np.ndarray, "n c m d"]:
        """The kernel of all blocks together."""
        return self.array.sum(0)

    def matrix(self) -> Float64[np.ndarray, "nc md"]:
        """The kernel of all blocks as a matrix: row `i * c + a`, column `j * d + e`."""
        n, c, m, d = self.array.shape[1:]
        return self.total().reshape(n * c, m * d)

    def select(self, pattern: Pattern) -> BlockKernel:
        """The blocks whose name matches a glob, one of several globs, or a predicate.

        Raises:
            UsageError: no block matches.
        """
        chosen = matching(self.names, pattern)
        return BlockKernel(tuple(self.names[place] for place in chosen), self.array[chosen], self.description)

    def save(self, folder: str | Path) -> None:
        """Write a kernel folder: `kernel.zarr` and a readable `kernel.json`.

        Raises:
            UsageError: the folder holds another computation.
            StorageError: the disk is full or the folder cannot be written.
        """
        write_folder(Path(folder), self.names, self.array, self.description)

    @classmethod
    def open(cls, folder: str | Path) -> BlockKernel:
        """Read a complete kernel folder.

        Raises:
            KernelFolderError: no kernel there, or an unfinished one.
            StorageError: it is damaged.
        """
        names, array, description = read_folder(Path(folder))
        return cls(tuple(names), array, description)
