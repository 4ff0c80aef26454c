"""Whether numbers can be forecast from at all: finite, and of something that training moves and that texts differ in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foretune.errors import ModelError, NonFiniteError
from foretune.experiment.inputs import Inputs
from foretune.kernels.features import Blocked
from foretune.model.batches import constant

_HINT = "Compute in a wider range of numbers (--dtype float32 or float64), and look for such numbers in the weights."


def refuse_useless(inputs: Inputs, kernels: Mapping[str, Blocked]) -> None:
    """See that a forecast can be made.

    Raises:
        NonFiniteError: a kernel, an output or a feature is infinite or undefined.
        ModelError: every gradient is zero, or outputs and gradients are the same for all examples.
    """
    for name, values in (("outputs", inputs.f0), ("features", inputs.features)):
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(1))
            raise NonFiniteError(
                f"The {name} of {len(rows)} of {len(values)} examples have infinite or undefined entries "
                f"(the first is number {rows[0]}, counted from 0); expected numbers. {_HINT}"
            )
    for label, kernel in kernels.items():
        if kernel.unsound is not None:
            raise NonFiniteError(
                f"The {label} kernel of {kernel.unsound} has infinite or undefined entries; expected numbers. {_HINT}"
            )
    if not any(kernel.moving for kernel in kernels.values()):
        count = max(len(kernel.names) for kernel in kernels.values())
        raise ModelError(
            f"There is nothing to train: the gradients of all {count} parameters that take part are zero on every training "
            "example, so that no training moves the outputs. Expected a pretrained model with weights that are not zero: "
            "load another one, or choose other parameters (--blocks, --layers)."
        )
    if len(inputs.y) > 1 and constant(inputs.f0) and not any(each.tells_apart for each in kernels.values()):
        raise ModelError(
            f"There is nothing to learn: all {len(inputs.y)} examples have the same output and the same gradients, so that "
            "after any training every text gets the same answer. Expected a pretrained model that reads these texts: check "
            "that weights, tokenizer and the language of the texts belong together."
        )


def silent_adapters(kernels: Mapping[str, Blocked]) -> tuple[str, ...]:
    """A note where weights that full tuning moves have a LoRA kernel of zeros, so that no candidate adapts them."""
    moving = set(kernels["sgd"].moving)
    labels = [label for label in kernels if label != "sgd"]
    silent = [
        name
        for name in dict.fromkeys(name for label in labels for name in kernels[label].names)
        if name in moving and not any(name in kernels[label].moving for label in labels)
    ]
    if not silent:
        return ()
    return (
        f"LoRA candidates leave out {len(silent)} weights, such as {silent[0]}: the model uses them in a way for which "
        "foretune has no LoRA kernel.",
    )
