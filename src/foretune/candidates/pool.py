"""The pool of a cell: kernels, labels and sizes as a forecast reads them, without test examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from foretune.candidates.candidate import ALPHA, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.candidates.sketched import Features, chosen_sketch
from foretune.experiment.experiment import Experiment
from foretune.finetune.training import Training
from foretune.kernels.features import Blocked
from foretune.kernels.formula import Formula
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.kernels.sketch import Sketch

PARTS = ("validation",)
"""Examples beside the training ones that scores may see; test examples have no say."""


def pool_formulas(rank: int | None) -> list[Formula]:
    """The kernels of a pool: None stands for full tuning."""
    return [SGD()] if rank is None else [SGD(), LoRA(rank, ALPHA)]


def pool_blocks(cell: Experiment, rank: int | None) -> list[str] | None:
    """The blocks that a pool asks for: None for all; with LoRA the weights that adapters stand on, and the head."""
    if rank is None:
        return None
    head = parameter_sizes(cell.outputs).head
    return [name for name, kind in cell.outputs.kinds().items() if kind == "linear" or name in head]


def pool_sketch(cell: Experiment, rank: int | None, features: Features) -> Sketch | None:
    """How the kernels of a pool are sketched; None where they are exact.

    Args:
        cell, rank: see `pool_of`.
        features: see `chosen_sketch`.
    """
    if features == "exact":
        return None
    job = cell.kernel_job(PARTS, pool_blocks(cell, rank))
    return chosen_sketch(job, pool_formulas(rank), cell.work.memory, features, on_disk=cell.folder is not None)


def pool_kernels(
    cell: Experiment, rank: int | None, sketch: Sketch | None, parts: Sequence[str] = PARTS
) -> Mapping[str, Blocked]:
    """The kernels of a pool, with the examples of some parts; read or computed."""
    formulas, blocks = pool_formulas(rank), pool_blocks(cell, rank)
    if sketch is None:
        return cell.kernels(formulas, parts, blocks)
    return cell.features(formulas, sketch, parts, blocks)


def pool_of(cell: Experiment, rank: int | None, grid: Sequence[Training] = (), sketch: Sketch | None = None) -> Pool:
    """The pool of a cell for one method; kernels are read or computed.

    Args:
        cell: model and data.
        rank: of LoRA; None for full tuning.
        grid: settings of the runs.
        sketch: how kernels are sketched; None for exact ones.
    """
    sizes = parameter_sizes(cell.outputs)
    kernels = pool_kernels(cell, rank, sketch)  # first: their pass reads the examples
    count = cell.inputs.n_train + cell.inputs.n_validation
    inputs = replace(cell.inputs, **{name: getattr(cell.inputs, name)[:count] for name in ("y", "f0", "features")})
    return Pool.sized(kernels, inputs, sizes, grid=grid)
