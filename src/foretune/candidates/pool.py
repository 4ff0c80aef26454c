"""The pool of a cell: kernels, labels and sizes as a forecast reads them, without test examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from foretune.candidates.candidate import ALPHA, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.experiment.experiment import Experiment
from foretune.finetune.training import Training
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD

PARTS = ("validation",)
"""Examples beside the training ones that scores may see; test examples have no say."""


def pool_of(cell: Experiment, rank: int | None, grid: Sequence[Training] = ()) -> Pool:
    """The pool of a cell for one method; kernels are read or computed.

    Args:
        cell: model and data.
        rank: of LoRA; None for full tuning.
        grid: settings of the runs.
    """
    kinds, count = cell.outputs.kinds(), cell.inputs.n_train + cell.inputs.n_validation
    sizes = parameter_sizes(cell.outputs)
    if rank is None:
        kernels = cell.kernels([SGD()], PARTS)
    else:  # of the weights that adapters stand on, and of the head: no other block is asked for
        blocks = [name for name, kind in kinds.items() if kind == "linear" or name in sizes.head]
        kernels = cell.kernels([SGD(), LoRA(rank, ALPHA)], PARTS, blocks)
    inputs = replace(cell.inputs, **{name: getattr(cell.inputs, name)[:count] for name in ("y", "f0", "features")})
    return Pool.sized(kernels, inputs, sizes, grid=grid)
