"""Which weight or which part of a model makes the first infinite or undefined number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foretune.errors import NonFiniteError
from foretune.model.encoding import Batch
from foretune.model.load_report import non_finite_weights
from foretune.model.outputs import Outputs


def non_finite(outputs: Outputs, batch: Batch) -> NonFiniteError:
    """The error for a batch whose outputs or features are not finite, with the weight or the module where it starts."""
    weights = non_finite_weights(outputs.module)
    if weights:
        return NonFiniteError(
            f"The weight {_plain(weights[0])!r} holds infinite or undefined numbers. Load the model again, or train it "
            "with a smaller learning rate."
        )
    found: list[str] = []
    handles = [
        module.register_forward_hook(
            lambda _module, _args, out, name=name: found.append(name) if _breaks(out) else None
        )
        for name, module in outputs.module.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        with outputs.lock, torch.no_grad():
            outputs.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    where = f"The result of module {_plain(found[0])!r}" if found else "The model's output"
    return NonFiniteError(
        f"{where} is infinite or undefined. Try dtype float32 or float64 (--dtype), or check the weights and the inputs "
        "of this module."
    )


def _breaks(result: Any) -> bool:
    """Whether a module's result holds a number that is not finite."""
    tensors = result if isinstance(result, (tuple, list)) else [result]
    return any(isinstance(t, Tensor) and t.is_floating_point() and not torch.isfinite(t).all() for t in tensors)


def _plain(name: str) -> str:
    """A module by its name in the user's model."""
    return name.removeprefix("model.")
