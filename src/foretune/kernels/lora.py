r"""The kernel of low-rank adapters at their start, from the factors of the full model.

A LoRA layer computes `h = W x + s B A x` with `B = 0` at first, so only B has a gradient (Malladi et al. 2023, Lemma E.4):

    dB[n, c] = s sum_t g[n, c, t] (outer) A x[n, t]
    K_LoRA   = s^2 sum_{t, s} (A x[n, t] . A x'[m, s]) (g[n, c, t] . g'[m, d, s])

with the scaling `s = alpha / r`, or `alpha / sqrt(r)` for rsLoRA. A is drawn as peft draws it: uniform in
`+- 1 / sqrt(in)` (kaiming_uniform with a = sqrt(5)), or normal with standard deviation `1 / r`. The rows of A do not
depend on the rank except for their size, so every rank up to R reads the first rows of one drawing, and the kernels of
all ranks are running sums over the columns of one gradient of rank R: a product for each rank that is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foretune.errors import UsageError, nearest
from foretune.kernels.adapter import Adapter
from foretune.kernels.draws import drawn_rows
from foretune.kernels.inner_product import InnerProduct, Through
from foretune.model.bypassed import BYPASSED
from foretune.shapes import Float64


@dataclass(frozen=True)
class LoRA(Adapter, InnerProduct):
    """The kernel of LoRA adapters with B = 0 (Malladi et al. 2023, Lemma E.4), one block for each adapted weight.

    For a trained or loaded adapter pass the peft model itself: its A and B are parameters like any other. The attributes
    are those of `Adapter`.
    """

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return f"lora-r{self.rank}"

    @property
    def through(self) -> Through:
        """What gradients are seen through."""
        return Through(self.init, self.seed, self.rank, (self.scaling * self.unit) ** 2)

    def matrix(self, block: str, inputs: int) -> Float64[np.ndarray, "r i"]:
        """A for one adapted weight with `inputs` input features."""
        return self.unit * drawn_rows(self.init, self.seed, block, self.rank, inputs)

    def expected_ratio(self, inputs: int) -> float:
        """E[K_LoRA] / K for a weight with `inputs` input features: scaling^2 r Var(A)."""
        variance = 1 / (3 * inputs) if self.init == "kaiming" else 1 / self.rank**2
        return self.scaling**2 * self.rank * variance

    @property
    def unit(self) -> float:
        """How large A is against the common drawing."""
        return 1.0 if self.init == "kaiming" else 1 / self.rank

    def blocks(self, kinds: Mapping[str, str]) -> list[str]:
        """The weights of linear layers that `targets` names, without those that an adapter cannot serve.

        Raises:
            UsageError: one of them names none; the message has the nearest.
        """
        linear, bypassed = ([name for name, kind in kinds.items() if kind == of] for of in ("linear", "bypassed"))
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        found = {target: self._named(target, linear) for target in targets}
        missing = next((target for target, members in found.items() if not members), None)
        if missing is not None or not found:
            suffixes = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in linear})
            if missing is not None and self._named(missing, bypassed):
                left = [target for target in targets if found[target]] or suffixes
                hint = f"Leave it out: --target-modules {','.join(left)}." if left else "Use another method: ft."
                raise UsageError(
                    f"No adapter serves the LoRA target {missing!r}: {BYPASSED}. Its kernel would describe a training "
                    f"that is not possible. {hint}"
                )
            raise UsageError(
                f"The LoRA target {missing or '(none)'!r} matches no linear layer whose weight takes part. Linear layers "
                f"here end in {', '.join(suffixes) or '(there is none)'}.{nearest(missing or '', suffixes)}"
            )
        chosen = {name for members in found.values() for name in members}
        return [name for name in linear if name in chosen]

    def _named(self, target: str, weights: Sequence[str]) -> list[str]:
        """The weights whose modules a target names."""
        if target == self.targets == "all-linear":
            return list(weights)
        modules = {name: name.removesuffix(".weight") for name in weights}
        if target == self.targets:
            return [name for name, module in modules.items() if re.fullmatch(target, module)]
        return [name for name, module in modules.items() if f".{module}".endswith(f".{target}")]
