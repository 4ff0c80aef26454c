"""What is to be computed: the examples on both sides, the parameters, and everything that determines the values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from foretune.errors import UsageError
from foretune.gradients.source import GradientSource
from foretune.kernels.block_kernel import Pattern, matching
from foretune.kernels.budget import device_bytes, refuse_beyond_host, sizes_on
from foretune.kernels.formula import Formula
from foretune.kernels.memory_plan import Footprint, Sizes, TilePlan, refuse_too_large, tile_plan
from foretune.model.fingerprint import outputs_identity, versions_of
from foretune.model.outputs import Outputs
from foretune.text.example import AnyRows, Example, as_examples

LEAST_PART = 64
"""Examples in a part of the columns: for smaller ones the rows' gradients would be formed too often."""


@dataclass(frozen=True)
class Job:
    """What is computed: row and column examples by their place in the source, and which columns are the rows.

    Attributes:
        source: the factors of all examples.
        n: row examples, at places 0 to n - 1.
        columns: places of the column examples.
        overlap: the columns begin with the rows.
    """

    source: GradientSource
    n: int
    columns: range
    overlap: bool

    @property
    def kinds(self) -> dict[str, str]:
        """What each parameter that takes part is."""
        kinds = self.source.outputs.kinds()
        return {name: kinds[name] for name in self.source.parameters}

    @property
    def _longest(self) -> int:
        """The place of the longest example."""
        lengths = self.source.lengths
        return max(range(len(lengths)), key=lengths.__getitem__)

    def footprint(self) -> Footprint:
        """Bytes per example and token, measured on the longest example."""
        lengths = self.source.lengths
        longest = self._longest
        held, graph = self.source.footprint(longest)
        c = self.source.outputs.n_outputs
        vectors = [t for t in self.source.parameters.values() if t.dim() == 1]
        fixed = sum(t.numel() * t.element_size() * c for t in vectors)
        fixed += sum(self.source.parameters[name].numel() * 4 * c for name in self.source.direct)
        fixed = min(fixed, held)
        return Footprint(fixed, (held - fixed) / lengths[longest], graph / lengths[longest])

    def array_bytes(self, formula: Formula) -> int:
        """Bytes of the kernel of one formula."""
        return 8 * len(formula.blocks(self.kinds)) * self.n * len(self.columns) * self.source.outputs.n_outputs**2

    @property
    def device(self) -> torch.device:
        """Where factors and products are."""
        return self.source.outputs.lm.device

    def sizes(self, memory: str | int) -> Sizes:
        """How work is cut for a budget."""
        return sizes_on(self.device, device_bytes(memory, self.device), self.source.outputs.n_outputs)

    def refuse_too_large(self, formulas: Sequence[Formula], memory: str | int) -> None:
        """See that the kernels of some formulas can be held, before anything is computed.

        Raises:
            UsageError: they do not fit into this machine; see `foretune.kernels.memory_plan.refuse_too_large`.
        """
        arrays = sum(self.array_bytes(formula) for formula in formulas)
        if self.device.type == "cuda":
            refuse_beyond_host(arrays)
        else:
            refuse_too_large(arrays, device_bytes(memory, self.device))

    def plan(self, memory: str | int, arrays: int, parts: int = 1) -> TilePlan:
        """Tiles that keep the computation within its budget.

        Args:
            memory: the budget.
            arrays: bytes of the kernels themselves.
            parts: into how many the columns beside the rows are cut at least, where there are enough of them.

        Raises:
            UsageError: the budget is too small, or the host has too little memory for the kernels.
        """
        lengths = self.source.lengths
        sides = (lengths[: self.n], [lengths[place] for place in self.columns])
        footprint, budget = self.footprint(), device_bytes(memory, self.device)
        front = self.source.kept(self._longest) / lengths[self._longest]  # only in tiles do examples come again
        footprint = replace(footprint, front=front)
        if self.device.type == "cuda":
            refuse_beyond_host(arrays)
            arrays = 0
        single, sizes = self.source.single, sizes_on(self.device, budget, self.source.outputs.n_outputs)
        plan = tile_plan(footprint, sides, budget, arrays, overlap=self.overlap, single=single, sizes=sizes)
        beside = len(self.columns) - (self.n if self.overlap else 0)
        return plan if parts == 1 else replace(plan, columns=min(plan.columns, max(LEAST_PART, -(-beside // parts))))


def separate_job(
    outputs: Outputs,
    rows: AnyRows,
    columns: AnyRows | None,
    blocks: Pattern | None,
) -> Job:
    """Rows against columns, or against themselves.

    Raises:
        UsageError: no examples, or no matching block.
    """
    given = _examples(rows, "rows")
    others = [] if columns is None else _examples(columns, "columns")
    places = range(len(given)) if columns is None else range(len(given), len(given) + len(others))
    source = GradientSource(outputs, given + others, _names(outputs, blocks))
    return Job(source, len(given), places, overlap=columns is None)


def joint_job(
    outputs: Outputs, train: Sequence[Example], evaluation: Sequence[Example], blocks: Pattern | None = None
) -> Job:
    """Training examples against (training, then evaluation) examples.

    Raises:
        UsageError: no examples, or no matching block.
    """
    given, others = _examples(train, "train"), _examples(evaluation, "evaluation")
    source = GradientSource(outputs, given + others, _names(outputs, blocks))
    return Job(source, len(given), range(len(given) + len(others)), overlap=True)


def _examples(rows: AnyRows, what: str) -> list[Example]:
    found = as_examples(rows)
    if not found:
        raise UsageError(f"No examples in {what}; expected at least one.")
    return found


def _names(outputs: Outputs, blocks: Pattern | None) -> list[str]:
    names = list(outputs.parameters())
    if not names:
        raise UsageError("Every parameter of the model is frozen; unfreeze some (requires_grad_) to have a kernel.")
    return names if blocks is None else [names[place] for place in matching(names, blocks)]


def job_description(job: Job) -> dict[str, object]:
    """Everything that determines the values of a job's kernels, but for the formula."""
    return {
        **outputs_identity(job.source.outputs),
        "rows": _tokens_hash(job, range(job.n)),
        "columns": _tokens_hash(job, job.columns),
        "parameters": hashlib.sha256("\n".join(job.source.parameters).encode()).hexdigest(),
        "versions": versions_of("torch", "transformers"),
    }


def _tokens_hash(job: Job, places: Sequence[int]) -> str:
    numbers = [job.source.encoded[place].numbers for place in places]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()
