"""The page of what a kernel would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foretune.kernels.cost import KernelCost
from foretune.page import Column, Fact, Page, Table

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class KernelCostData(KernelCost):
    """The cost of a kernel, for programs.

    Attributes:
        about: what was read and what would be asked.
    """

    about: Mapping[str, Any]


def kernel_cost_page(needed: KernelCost, about: tuple[Fact, ...], data: object) -> Page:
    """What a computation would need, why, and what makes it cheaper.

    Args:
        needed: the cost.
        about: what was read and would be asked.
        data: the same for programs.
    """
    rows = (
        ("examples (training x evaluation)", f"{needed.train} x {needed.evaluation}"),
        ("parameter blocks, outputs", f"{needed.blocks}, {needed.outputs}"),
        ("longest example", f"{needed.longest} tokens"),
        ("examples per forward pass / row tile / column tile", f"{needed.batch} / {needed.rows} / {needed.columns}"),
        ("examples through the model", f"{needed.passes}"),
        ("time", f"about {needed.seconds:,.0f} s"),
        ("memory above the model", f"about {needed.memory / _MIB:,.0f} MiB of {needed.budget / _MIB:,.0f} MiB"),
        ("disk with --out", f"{needed.disk / _MIB:,.1f} MiB"),
    )
    caption = "The model was loaded and one batch was timed; no kernel was computed"
    return Page(
        title="Plan",
        answer=(
            f"About {needed.seconds:,.0f} s, {needed.memory / _MIB:,.0f} MiB of memory above the model, and "
            f"{needed.disk / _MIB:,.1f} MiB of disk with --out."
        ),
        about=about,
        tables=(Table((Column("what", words=True), Column("how much", words=False)), rows, caption),),
        findings=tuple(_reasons(needed)),
        kind="plan",
        data=data,
    )


def _reasons(needed: KernelCost) -> list[str]:
    """What the time and the size of a plan grow with, and which options change that."""
    held = needed.train + needed.evaluation
    found = [
        "Time and size grow with the examples (--k, --test), the length of the texts (--max-length) and the parameters "
        "(--layers, --blocks, --exclude-embeddings)."
    ]
    if needed.outputs > 1:
        found.append(
            f"{needed.outputs} outputs mean {needed.outputs} backward passes for each example, and a kernel "
            f"{needed.outputs**2} times as large as that of one output. Data with fewer labels needs less"
            f"{'; two labels need one output without --no-difference' if needed.outputs == 2 else ''}."
        )
    if needed.passes > held:
        found.append(
            f"{needed.passes:,} passes for {held:,} examples: the factors of all of them do not fit into "
            f"{needed.budget / _MIB:,.0f} MiB, so that some are computed again. A larger --memory needs fewer."
        )
    return found
