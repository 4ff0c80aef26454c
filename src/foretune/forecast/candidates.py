"""What could be trained: sets of parameter blocks, for full tuning and for LoRA of some ranks.

Kernels of blocks add up, so one pass over the data holds the kernel of every candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foretune.analysis.groups import layers, module_types
from foretune.errors import UsageError
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.formula import Formula
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.shapes import Float64

RANKS = (1, 4, 16, 64)
ALPHA = 16.0
_QUERY_VALUE = {"q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "query_proj", "value_proj", "q", "v"}
_FUSED = {"c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj"}


@dataclass(frozen=True)
class Weights:
    """What a kernel does not say of the parameters.

    Attributes:
        shapes: parameter -> shape.
        norms: parameter -> Frobenius norm before training.
    """

    shapes: Mapping[str, tuple[int, ...]]
    norms: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """A set of blocks and how they would be trained.

    Attributes:
        name: of the set, such as `model.layers.3`.
        kind: `layer`, `module type`, `third`, `all linear`, `query and value`, `greedy` or `whole model`.
        blocks: parameter names.
        rank: of LoRA; None for full tuning.
        parameters: numbers that would be trained.
    """

    name: str
    kind: str
    blocks: tuple[str, ...]
    rank: int | None
    parameters: int

    @property
    def method(self) -> str:
        """`full tuning` or `LoRA rank 4`."""
        return "full tuning" if self.rank is None else f"LoRA rank {self.rank}"

    @property
    def title(self) -> str:
        """Set and method."""
        return f"{self.name}, {self.method}"


def weights_of(parameters: Mapping[str, Tensor]) -> Weights:
    """Shapes and norms of parameters, such as those of `outputs.parameters()`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    return Weights(shapes, {name: float(tensor.detach().float().norm()) for name, tensor in parameters.items()})


def formulas_for(kinds: Mapping[str, str], ranks: Sequence[int] = RANKS) -> list[Formula]:
    """The kernels that candidates need: full tuning, and LoRA where there are linear layers that are no adapters.

    Args:
        kinds: parameters that take part -> what they are, `job.kinds`.
        ranks: of LoRA.
    """
    adaptable = "linear" in kinds.values() and not any("lora_" in name for name in kinds)
    return [SGD(), *(LoRA(rank, ALPHA) for rank in ranks if adaptable)]


def kernel_label(rank: int | None) -> str:
    """The label of a rank's kernel; None for full tuning."""
    return SGD().label if rank is None else LoRA(rank, ALPHA).label


def ranks_of(kernels: Mapping[str, BlockKernel]) -> list[int | None]:
    """Full tuning, then the LoRA ranks whose kernels there are."""
    found = [int(label.removeprefix("lora-r")) for label in kernels if label.startswith("lora-r")]
    return [None, *sorted(found)]


def trained_parameters(blocks: Iterable[str], rank: int | None, weights: Weights) -> int:
    """Numbers trained: entries of the blocks, or rank * (inputs + outputs) of each adapted weight."""
    shapes = [weights.shapes[name] for name in blocks]
    return sum(int(np.prod(shape)) if rank is None else rank * sum(shape) for shape in shapes)


def candidate(name: str, kind: str, blocks: Sequence[str], rank: int | None, weights: Weights) -> Candidate:
    """A candidate with its number of parameters."""
    return Candidate(name, kind, tuple(blocks), rank, trained_parameters(blocks, rank, weights))


def candidate_kernel(kernels: Mapping[str, BlockKernel], wanted: Candidate) -> Float64[np.ndarray, "n c e c"]:
    """The joint kernel of a candidate: the sum of its blocks' kernels.

    Raises:
        UsageError: there is no kernel of its rank, or one of its blocks has none.
    """
    label = kernel_label(wanted.rank)
    if label not in kernels:
        raise UsageError(f"{wanted.title} needs the kernel {label!r}; there are {', '.join(kernels)}.")
    place = {name: number for number, name in enumerate(kernels[label].names)}
    missing = [name for name in wanted.blocks if name not in place]
    if missing or not wanted.blocks:
        raise UsageError(
            f"{wanted.title} has blocks without a kernel {label!r}: {', '.join(missing[:3]) or '(no blocks)'}. Expected "
            f"some of the {len(place)} blocks of that kernel."
        )
    return kernels[label].array[[place[name] for name in wanted.blocks]].sum(0)


def moving_blocks(kernel: BlockKernel) -> list[str]:
    """The blocks whose training moves some training output."""
    n = kernel.array.shape[1]
    return [name for name, array in zip(kernel.names, kernel.array, strict=True) if array[:, :, :n].any()]


def candidates(kernels: Mapping[str, BlockKernel], weights: Weights) -> list[Candidate]:
    """Every set of blocks that has a name, once for each method; of equal sets the first stays.

    Args:
        kernels: by label: `sgd`, and `lora-r4` and so on where there are any.
        weights: shapes of the parameters.
    """
    ranks = ranks_of(kernels)
    linear = next((set(kernels[kernel_label(rank)].names) for rank in ranks if rank is not None), set())
    found: dict[tuple[frozenset[str], int | None], Candidate] = {}
    for rank in ranks:
        moving = moving_blocks(kernels[kernel_label(rank)])
        for name, kind, blocks in _sets(moving, linear, whole=rank is None):
            found.setdefault((frozenset(blocks), rank), candidate(name, kind, blocks, rank, weights))
    return list(found.values())


def _sets(names: list[str], linear: set[str], *, whole: bool) -> list[tuple[str, str, list[str]]]:
    """Name, kind and blocks of each set that is not empty."""
    by_layer, by_type = layers(names), module_types(names)
    found = [(name, "layer", blocks) for name, blocks in by_layer.items()]
    found += [(name, "module type", blocks) for name, blocks in by_type.items()]
    for place, part in zip(("first", "middle", "last"), np.array_split(list(by_layer), 3), strict=True):
        found.append((f"{place} third of the layers", "third", [b for layer in part for b in by_layer[str(layer)]]))
    found.append(("all linear layers", "all linear", [name for name in names if name in linear]))
    found.append(_query_value([name for name in names if name in linear]))
    if whole:
        found.append(("whole model", "whole model", names))
    return [entry for entry in found if entry[2]]


def _query_value(linear: list[str]) -> tuple[str, str, list[str]]:
    """Query and value projections, or the one weight that holds both where a model fuses them."""
    last = {name: name.removesuffix(".weight").rpartition(".")[2] for name in linear}
    apart = [name for name in linear if last[name] in _QUERY_VALUE]
    if apart:
        return "query and value", "query and value", apart
    fused = [name for name in linear if last[name] in _FUSED]
    return "query, key and value (one weight)", "query and value", fused
