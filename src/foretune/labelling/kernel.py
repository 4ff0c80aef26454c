r"""The kernel between all rows that asks about their labels: of features, or of gradients.

    K_ij = sum_l cos(g_li - mean g_l, g_lj - mean g_l)        g_li the gradient of row i in the weights of layer l

Labels are asked of the last linear layer of each attention and feed-forward part (`analysis.groups.closing_weights`), each
with the same weight. The plain sum over all linear layers, which explains predictions, is for the most part that of the
last layers, whose gradients hardly know more than the features.

Nothing in it has seen a label. A head is drawn at random, with one output whatever the classes are: a head that was fitted
to the labels would pass them on to the gradients of everything below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from foretune.analysis.example_kernel import (
    Factors,
    cosine_sum,
    cosines,
    feature_factors,
    gaussian,
    kernel_factors,
)
from foretune.analysis.groups import closing_weights
from foretune.errors import UsageError
from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import EXPERIMENT, KERNELS
from foretune.experiment.function import single_output
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import kernels_of
from foretune.kernels.job import separate_job
from foretune.kernels.sgd import SGD
from foretune.model.batches import outputs_and_features
from foretune.model.outputs import Outputs
from foretune.shapes import Float64
from foretune.store.tensors import read_tensors, write_tensors
from foretune.text.example import Example

How = Literal["features", "gradients"]
MOST_SQUARE = 4000
"""Rows up to which a square kernel is decomposed."""
MOST_UNASKED = 5e11
"""Tokens times parameters times outputs up to which gradients are computed unasked: about two minutes of one core."""


@dataclass(frozen=True)
class RowKernel:
    """A kernel between rows.

    Attributes:
        factors: factors of the kernel.
        how: `gradients` or `features`.
        features: what the output layer reads of each row.
        notes: notes on how the texts were read.
    """

    factors: Factors
    how: str
    features: Float64[np.ndarray, "n i"]
    notes: tuple[str, ...]


def usual_kernel(experiment: Experiment, examples: Sequence[Example]) -> How:
    """What labels are asked with where nothing else is said: gradients for more than two labels, unless that takes long.

    Args:
        experiment: the model, and the labels.
        examples: the rows.
    """
    if len(experiment.task.labels) == 2 or len(examples) > MOST_SQUARE:
        return "features"
    outputs = single_output(experiment.outputs, experiment.setting.seed)
    parameters = sum(each.numel() for each in outputs.parameters().values())
    tokens = sum(len(outputs.encode(each).ids) for each in examples)
    return "gradients" if tokens * parameters * outputs.n_outputs <= MOST_UNASKED else "features"


def label_kernel(experiment: Experiment, examples: Sequence[Example], how: How = "features") -> RowKernel:
    """The kernel that asks about labels; what takes long is kept in the experiment's folder, if it has one.

    Args:
        experiment: the model, and the folder.
        examples: the rows.
        how: from features, which takes a forward pass, or from the gradients of each attention's and feed-forward part's
            last layer, which takes a fraction of a minute for some hundred rows of a small model.

    Raises:
        UsageError: too many rows for gradients.
        NonFiniteError: infinite or undefined outputs, features or gradients.
    """
    return _kernel(experiment, examples, how, _layer_by_layer)


def row_kernel(experiment: Experiment, examples: Sequence[Example], how: How = "features") -> RowKernel:
    """The kernel that explains predictions; what takes long is kept in the experiment's folder, if it has one.

    Args:
        experiment: the model, and the folder.
        examples: the rows.
        how: from features, which takes a forward pass, or from the gradients of all linear layers, which takes minutes for
            some hundred rows.

    Raises:
        UsageError: too many rows for gradients.
        NonFiniteError: infinite or undefined outputs, features or gradients.
    """
    return _kernel(experiment, examples, how, _all_layers)


def kernel_with_others(experiment: Experiment, known: RowKernel, others: Sequence[Example]) -> Factors:
    """The kernel of features between the rows of a kernel and then other ones.

    Raises:
        NonFiniteError: infinite or undefined features.
    """
    outputs, report = single_output(experiment.outputs, experiment.setting.seed), experiment.work.progress
    done = (lambda *_: None) if report is None else lambda done, total: report("features", done, total)
    found = outputs_and_features(outputs, others, done=done)
    return feature_kernel(np.concatenate([known.features, found.features]))


def feature_kernel(features: Float64[np.ndarray, "n i"]) -> Factors:
    """The kernel of features: Gaussian, or of inner products for more rows than a square kernel suits.

    Raises:
        UsageError: all rows have the same features.
    """
    return kernel_factors(gaussian(features)) if len(features) <= MOST_SQUARE else feature_factors(features)


_Gradients = Callable[[Experiment, Outputs, Sequence[Example]], Float64[np.ndarray, "n n"]]
"""From a model and rows to a kernel of gradients between these."""


def _kernel(experiment: Experiment, examples: Sequence[Example], how: How, gradients: _Gradients) -> RowKernel:
    outputs = single_output(experiment.outputs, experiment.setting.seed)
    n = len(examples)
    if how == "gradients" and n > MOST_SQUARE:
        raise UsageError(f"{n:,} rows are too many for --kernel gradients ({MOST_SQUARE:,} at most). Leave it out.")
    features, notes = _features(experiment, outputs, examples)
    if how == "features":
        return RowKernel(feature_kernel(features), "features", features, notes)
    return RowKernel(kernel_factors(gradients(experiment, outputs, examples)), "gradients", features, notes)


def _layer_by_layer(
    experiment: Experiment, outputs: Outputs, examples: Sequence[Example]
) -> Float64[np.ndarray, "n n"]:
    """The cosines of each closing layer, added up."""
    found = _gradients(experiment, outputs, examples, closing_weights(_linear(outputs)), "layers")
    return cosine_sum(np.einsum("iaja->ij", block) for block in found.array)


def _all_layers(experiment: Experiment, outputs: Outputs, examples: Sequence[Example]) -> Float64[np.ndarray, "n n"]:
    """The cosines of the gradients of all linear layers together."""
    found = _gradients(experiment, outputs, examples, _linear(outputs), "rows")
    return cosines(np.einsum("iaja->ij", found.total()))


def _linear(outputs: Outputs) -> list[str]:
    """The weights of linear layers, in the model's order."""
    return [name for name, kind in outputs.kinds().items() if kind in ("linear", "bypassed")]


def _gradients(
    experiment: Experiment, outputs: Outputs, examples: Sequence[Example], weights: Sequence[str], name: str
) -> BlockKernel:
    """The kernel of some weights; of all where a model has no linear layer."""
    job = separate_job(outputs, examples, None, list(weights) or None)
    work, folder = experiment.work, experiment.folder
    job.refuse_too_large([SGD()], work.memory)
    where = None if folder is None else folder / KERNELS / name
    return kernels_of(job, [SGD()], work.memory, where, work.progress)["sgd"]


def _features(
    experiment: Experiment, outputs: Outputs, examples: Sequence[Example]
) -> tuple[Float64[np.ndarray, "n i"], tuple[str, ...]]:
    """What the output layer reads of each row, and notes on how the texts were read."""
    report = experiment.work.progress or (lambda *_: None)
    file = None if experiment.folder is None else experiment.folder / "features.safetensors"
    if file is not None and file.exists():
        kept = EXPERIMENT.whole(file.parent, lambda: read_tensors(file))
        notes = bytes(kept["notes"].tolist()).decode()
        return kept["features"].double().numpy(), tuple(filter(None, notes.split("\n")))
    known = experiment.readings.under(outputs)
    found = outputs_and_features(
        outputs, examples, done=lambda done, total: report("features", done, total), known=known
    )
    if file is not None:
        notes = torch.tensor(list("\n".join(found.notes).encode()), dtype=torch.uint8)
        write_tensors(file, {"features": torch.from_numpy(found.features), "notes": notes})
    return found.features, found.notes
