"""What every kernel formula offers: its blocks, and the contraction of gradient factors between two tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from foretune.errors import NonFiniteError
from foretune.kernels.tile import Tile
from foretune.shapes import Float


class Formula(ABC):
    """How gradient factors become a kernel. A formula is a frozen dataclass that carries its own parameters.

    Attributes:
        symmetric: whether K(x, x') = K(x', x), transposed in the outputs: one triangle is enough.
        label: a short name for folders and tables, such as `lora-r8`.
    """

    symmetric: ClassVar[bool] = True

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for folders and tables."""

    @property
    def family(self) -> type[Formula]:
        """Formulas of one family share work: their class computes them `together`."""
        return type(self)

    def blocks(self, kinds: Mapping[str, str]) -> list[str]:
        """The blocks of the kernel.

        Args:
            kinds: parameters that take part -> what they are, as `outputs.kinds()` says.

        Raises:
            UsageError: this formula has no kernel of these parameters.
        """
        return list(kinds)

    @classmethod
    @abstractmethod
    def together(
        cls, formulas: Sequence[Any], rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
    ) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
        """The kernels of several formulas of this family between two tiles.

        Args:
            formulas: of this family.
            rows: gradient factors; examples are in the order of the batches.
            columns: of the column examples; the same object as `rows` for a tile against itself.
            names: formula -> its blocks.

        Yields:
            Formula, block and kernel, float64 on the factors' device; zero where a block does not influence the outputs.
        """


def overflow(name: str, label: str) -> NonFiniteError:
    """What to say of a kernel that is infinite or undefined."""
    return NonFiniteError(
        f"The kernel of {name!r} ({label}) is infinite or undefined although its gradients are finite: they are too "
        "large for the model's precision. Use --dtype float64, or leave the block out (--blocks)."
    )


def contracted(
    rows: Tile, columns: Tile, names: Mapping[Formula, Sequence[str]]
) -> Iterator[tuple[Formula, str, Float[Tensor, "n c m d"]]]:
    """The kernels of all formulas between two tiles, family by family. See `Formula.together`."""
    families: dict[type[Formula], list[Formula]] = defaultdict(list)
    for formula in names:
        families[formula.family].append(formula)
    for family, formulas in families.items():
        yield from family.together(formulas, rows, columns, names)
