r"""The SGD kernel, the empirical neural tangent kernel `K(x, x') = <d f(x) / d theta, d f(x') / d theta>`.

Malladi et al. 2023, Definition 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.kernels.inner_product import InnerProduct


@dataclass(frozen=True)
class SGD(InnerProduct):
    """The SGD kernel `<df, df'>` (Malladi et al. 2023, Definition 2.4). It has no parameters."""

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "sgd"

    @property
    def through(self) -> None:
        """Gradients are whole."""
        return
