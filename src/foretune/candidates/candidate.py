"""What could be trained: sets of parameter blocks, for full tuning and for LoRA of some ranks.

Kernels of blocks add up, so one pass over the data holds the kernel of every candidate. A model with a classification
head trains it in full beside the blocks, whatever the method, as `foretune tune` does; the head alone (linear probing)
is then the candidate that all others have to beat.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from foretune.analysis.groups import Group, trainable_groups
from foretune.finetune.methods import BlockTuning, LinearProbing, LoRATuning, Method
from foretune.kernels.features import Blocked
from foretune.kernels.formula import Formula
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.model.head import HEAD
from foretune.model.outputs import Outputs

RANKS = (1, 4, 16, 64)
ALPHA = 16.0
PROBING = "linear probing"


@dataclass(frozen=True)
class ParameterSizes:
    """What a kernel does not say of the parameters.

    Attributes:
        shapes: parameter -> shape.
        norms: parameter -> Frobenius norm before training.
        widths: weight of a linear layer -> output features.
    """

    shapes: Mapping[str, tuple[int, ...]]
    norms: Mapping[str, float]
    widths: Mapping[str, int]

    @property
    def head(self) -> tuple[str, ...]:
        """The parameters of the classification head, where there is one."""
        return HEAD if set(HEAD) <= set(self.shapes) else ()

    def entries_with_gradient(self, name: str, rank: int | None) -> int:
        """Entries of a trained block with a gradient at the start: all, or of LoRA those of B, rank x output features."""
        return int(np.prod(self.shapes[name])) if rank is None else rank * self.widths[name]

    def norm(self, names: Iterable[str]) -> float:
        """The norm of some parameters together."""
        return math.hypot(*(self.norms[name] for name in names))


@dataclass(frozen=True)
class Candidate:
    """A set of blocks and how they would be trained.

    Attributes:
        name: name of the set, such as `model.layers.3`.
        kind: `layer`, `module type`, `third`, `all linear`, `query and value`, `greedy`, `whole model` or
            `linear probing`.
        blocks: parameter names, without those of a head.
        rank: rank of LoRA; None for full tuning.
        parameters: numbers that would be trained.
        head: parameters of a classification head, trained in full beside the blocks.
    """

    name: str
    kind: str
    blocks: tuple[str, ...]
    rank: int | None
    parameters: int
    head: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def method(self) -> str:
        """`full tuning`, `LoRA rank 4`, either with `+ head`, or `linear probing`."""
        if self.kind == PROBING:
            return PROBING
        found = "full tuning" if self.rank is None else f"LoRA rank {self.rank}"
        return f"{found} + head" if self.head else found

    @property
    def label(self) -> str:
        """The set as tables have room for it: `layer encoder.layer.3`, `first third`, `all linear`."""
        if self.kind == "layer":
            return f"layer {self.name}"
        return self.kind if self.kind == "all linear" else self.name.removesuffix(" of the layers")

    @property
    def tuning(self) -> Method:
        """What really trains it, the head included."""
        if self.kind == PROBING:
            return LinearProbing()
        if self.rank is None:
            return BlockTuning(self.blocks)
        return LoRATuning(self.rank, ALPHA, tuple(name.removesuffix(".weight") for name in self.blocks))

    @property
    def key(self) -> tuple[frozenset[str], int | None]:
        """What makes two candidates the same: their blocks and their rank."""
        return frozenset(self.blocks), self.rank

    @property
    def title(self) -> str:
        """Set and method."""
        return f"{self.name}, {self.method}"


def parameter_sizes(outputs: Outputs) -> ParameterSizes:
    """What is known of a model's parameters before any kernel."""
    parameters = outputs.parameters()
    return ParameterSizes(
        shapes={name: tuple(tensor.shape) for name, tensor in parameters.items()},
        norms={name: float(tensor.detach().float().norm()) for name, tensor in parameters.items()},
        widths=outputs.widths(),
    )


def formulas_for(
    kinds: Mapping[str, str], ranks: Sequence[int] = RANKS, targets: str | tuple[str, ...] = "all-linear"
) -> list[Formula]:
    """The kernels that candidates need: full tuning, and LoRA where there are linear layers to adapt.

    Args:
        kinds: parameters that take part -> what they are, `job.kinds`.
        ranks: of LoRA.
        targets: what LoRA may adapt, `finetune.lora_config.adaptable(outputs, kinds).targets`.
    """
    able = bool(targets) and "linear" in kinds.values() and not any("lora_" in name for name in kinds)
    return [SGD(), *(LoRA(rank, ALPHA, targets) for rank in ranks if able)]


def kernel_label(rank: int | None) -> str:
    """The label of a rank's kernel; None for full tuning and for heads."""
    return SGD().label if rank is None else LoRA(rank, ALPHA).label


def ranks_of(kernels: Mapping[str, Blocked]) -> list[int | None]:
    """Full tuning, then the LoRA ranks whose kernels there are."""
    found = [int(label.removeprefix("lora-r")) for label in kernels if label.startswith("lora-r")]
    return [None, *sorted(found)]


def trained_head(kernels: Mapping[str, Blocked], sizes: ParameterSizes) -> tuple[str, ...]:
    """The parameters of a classification head that take part in these kernels."""
    return tuple(name for name in sizes.head if name in kernels[kernel_label(None)].names)


def trained_parameters(blocks: Iterable[str], rank: int | None, sizes: ParameterSizes) -> int:
    """Numbers trained: entries of the blocks, or rank * (inputs + outputs) of each adapted weight."""
    shapes = [sizes.shapes[name] for name in blocks]
    return sum(int(np.prod(shape)) if rank is None else rank * sum(shape) for shape in shapes)


def candidate(
    name: str, kind: str, blocks: Sequence[str], rank: int | None, sizes: ParameterSizes, head: Sequence[str] = ()
) -> Candidate:
    """A candidate with its number of parameters.

    Args:
        name, kind: of the set.
        blocks: parameter names, without those of a head.
        rank: of LoRA; None for full tuning.
        sizes: shapes of the parameters.
        head: parameters of a classification head that are trained too, `trained_head(kernels, sizes)`.
    """
    count = trained_parameters(blocks, rank, sizes) + trained_parameters(head, None, sizes)
    return Candidate(name, kind, tuple(blocks), rank, count, head=tuple(head))


def named_candidates(kernels: Mapping[str, Blocked], sizes: ParameterSizes) -> list[Candidate]:
    """Linear probing where there is a head, and each named set of blocks with each method; of equal sets the first.

    Args:
        kernels: by label: `sgd`, and `lora-r4` and so on where there are any.
        sizes: shapes of the parameters.
    """
    head = trained_head(kernels, sizes)
    moving = {rank: kernels[kernel_label(rank)].moving for rank in ranks_of(kernels)}
    linear = next((set(kernels[kernel_label(rank)].names) for rank in moving if rank is not None), set())
    return candidates_among(moving, linear, head, sizes)


def candidates_among(
    moving: Mapping[int | None, Sequence[str]], linear: Collection[str], head: Sequence[str], sizes: ParameterSizes
) -> list[Candidate]:
    """As `named_candidates`, of names alone.

    Args:
        moving: rank, or None for full tuning -> blocks whose training changes some output.
        linear: blocks of linear layers.
        head: parameters of a classification head.
        sizes: shapes of the parameters.
    """
    probing = [candidate("head alone", PROBING, (), None, sizes, head)] if head else []
    found = {item.key: item for item in probing}
    for rank, blocks in moving.items():
        inside = [name for name in blocks if name not in head]
        groups = trainable_groups(inside, linear)
        if rank is None and inside:
            groups.append(Group("whole model", "whole model", tuple(inside)))
        for group in groups:
            made = candidate(group.name, group.kind, group.names, rank, sizes, head)
            found.setdefault(made.key, made)
    return list(found.values())
