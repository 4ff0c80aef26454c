"""Whether numbers can be forecast from at all: finite, and of something that training moves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foretune.candidates.candidate import moving_blocks
from foretune.errors import ModelError, NonFiniteError
from foretune.experiment.inputs import Inputs
from foretune.kernels.block_kernel import BlockKernel

_HINT = "Compute in a wider range of numbers (--dtype float32 or float64), and look for such numbers in the weights."


def refuse_useless(inputs: Inputs, kernels: Mapping[str, BlockKernel]) -> None:
    """See that a forecast can be made.

    Raises:
        NonFiniteError: a kernel, an output or a feature is infinite or undefined.
        ModelError: every gradient is zero.
    """
    for name, values in (("outputs", inputs.f0), ("features", inputs.features)):
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(1))
            raise NonFiniteError(
                f"The {name} of {len(rows)} of {len(values)} examples, number {rows[0]} the first of them, have infinite "
                f"or undefined entries; expected numbers. {_HINT}"
            )
    for label, kernel in kernels.items():
        for name, block in zip(kernel.names, kernel.array, strict=True):
            if not np.isfinite(block).all():
                raise NonFiniteError(
                    f"The {label} kernel of {name} has infinite or undefined entries; expected numbers. {_HINT}"
                )
    if not any(moving_blocks(kernel) for kernel in kernels.values()):
        count = max(len(kernel.names) for kernel in kernels.values())
        raise ModelError(
            f"There is nothing to train: the gradients of all {count} parameters that take part are zero on every training "
            "example, so that no training moves the outputs. Expected a pretrained model with weights that are not zero: "
            "load another one, or choose other parameters (--blocks, --layers)."
        )


def silent_adapters(kernels: Mapping[str, BlockKernel]) -> tuple[str, ...]:
    """A note where weights that full tuning moves have a LoRA kernel of zeros, so that no candidate adapts them."""
    moving = set(moving_blocks(kernels["sgd"]))
    labels = [label for label in kernels if label != "sgd"]
    silent = [
        name
        for name in dict.fromkeys(name for label in labels for name in kernels[label].names)
        if name in moving and not any(name in moving_blocks(kernels[label]) for label in labels)
    ]
    if not silent:
        return ()
    return (
        f"LoRA candidates are without {len(silent)} weights, {silent[0]} among them: their gradients are not known as "
        "products of inputs and output gradients, from which the kernel of LoRA is made.",
    )
