r"""Measures of a classification head: the split of its kernel, its row norms, and the features that it reads.

Tomihari and Sato 2024; the arithmetic is in `analysis.singular_values`, `analysis.classifier` and `analysis.features`.
"""

from __future__ import annotations

import numpy as np

from foretune.analysis import classifier, features
from foretune.analysis.singular_values import KernelSplit
from foretune.errors import UsageError
from foretune.kernels.block_kernel import BlockKernel
from foretune.model.batches import Rows, outputs_and_features
from foretune.model.head import HEAD
from foretune.model.outputs import Outputs
from foretune.shapes import Float64, Int

_BATCH = 8
"""Examples per forward pass."""


def kernel_split(kernel: BlockKernel) -> KernelSplit:
    """P, the blocks of the head, and F, all others (Tomihari and Sato 2024).

    Args:
        kernel: of `HeadLogits`, for full fine-tuning or for a peft model whose head is trained.

    Raises:
        UsageError: no block of a head, or no other block.
    """
    return KernelSplit(_head_of(kernel), _body_of(kernel))


def adapter_split(kernel: BlockKernel, adapters: BlockKernel) -> KernelSplit:
    """P of a trained head and F of LoRA adapters at their start (Tomihari and Sato 2024).

    Args:
        kernel: SGD kernel of `HeadLogits`, with at least the blocks of the head (`blocks="head.*"`).
        adapters: LoRA kernel of the same examples.

    Raises:
        UsageError: no block of a head, or kernels of different examples.
    """
    of_head, of_adapters = _head_of(kernel), _body_of(adapters)
    if of_head.shape != of_adapters.shape:
        raise UsageError(
            f"The head's kernel has shape {of_head.shape} and the adapters' {of_adapters.shape}; expected the same "
            "examples and outputs."
        )
    return KernelSplit(of_head, of_adapters)


def _head_of(kernel: BlockKernel) -> Float64[np.ndarray, "n c m d"]:
    if not set(HEAD) & set(kernel.names):
        raise UsageError(
            f"There is no block of a head among {len(kernel.names)} ({kernel.names[0]!r} is the first); expected "
            f"{' and '.join(HEAD)}. Compute the kernel of ft.HeadLogits, with the head among its blocks."
        )
    return kernel.select(lambda name: name in HEAD).total()


def _body_of(kernel: BlockKernel) -> Float64[np.ndarray, "n c m d"]:
    if set(kernel.names) <= set(HEAD):
        raise UsageError("The kernel has only blocks of the head, so no FT-effective part. Add blocks of the body.")
    return kernel.select(lambda name: name not in HEAD).total()


def change_of_features(before: Outputs, after: Outputs, rows: Rows, y: Int[np.ndarray, " n"]) -> features.FeatureChange:
    """How features changed in fine-tuning (Tomihari and Sato 2024, feature table). See `analysis.features`.

    Args:
        before, after: two models with features of one size.
        rows: n examples.
        y: class numbers.

    Raises:
        UsageError: features of different sizes, fewer than two examples or classes.
    """
    start, end = (outputs_and_features(outputs, rows, _BATCH).features for outputs in (before, after))
    if start.shape != end.shape:
        raise UsageError(
            f"Features of shapes {start.shape} before and {end.shape} after; expected the same architecture."
        )
    return features.feature_change(start, end, y)


def head_row_norms(outputs: Outputs) -> Float64[np.ndarray, " k"]:
    """The norm of the head's row of each class; see `analysis.classifier.norm_of_rows` for Norm(C).

    Raises:
        UsageError: the outputs have no head.
    """
    return classifier.row_norms(_head_parameters(outputs)[0])


def head_norm_slopes(outputs: Outputs, rows: Rows, y: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " k"]:
    """dL / d||v_k|| of the summed cross-entropy; negative where training makes the row longer.

    Args and errors as in `analysis.classifier.norm_slopes`; the outputs are `HeadLogits`.
    """
    weight, bias = _head_parameters(outputs)
    return classifier.norm_slopes(outputs_and_features(outputs, rows, _BATCH).features, weight, bias, y)


def _head_parameters(outputs: Outputs) -> tuple[Float64[np.ndarray, "k i"], Float64[np.ndarray, " k"]]:
    found = dict(outputs.module.named_parameters())
    if not set(HEAD) <= set(found):
        raise UsageError(f"{type(outputs).__name__} has no classification head. Use ft.HeadLogits.")
    weight, bias = (found[name].detach().double().cpu().numpy() for name in HEAD)
    return weight, bias
