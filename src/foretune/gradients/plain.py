"""Gradients as autograd gives them, one parameter at a time: what every faster way is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from foretune.model.encoding import Encoded
from foretune.model.outputs import Outputs
from foretune.shapes import Float


def visit_gradients(
    outputs: Outputs,
    parameters: Mapping[str, Tensor],
    weighted: Sequence[tuple[Encoded, Float[Tensor, " c"]]],
    visit: Callable[[str, Tensor], None],
) -> None:
    """Run one backward pass of `sum_k <v_k, f(x_k)>`, each example by itself, unpadded.

    Args:
        outputs: the model as a function.
        parameters: name -> the very tensors that the model holds.
        weighted: examples x_k and the weights v_k of their outputs.
        visit: called with each parameter's name and gradient, which is freed afterwards; not for one without influence.
    """
    with outputs.lock, torch.inference_mode(False), torch.enable_grad(), _requiring(parameters, visit):
        total = torch.zeros((), dtype=torch.float64, device=outputs.lm.device)
        for encoded, weights in weighted:
            logits = outputs.forward(outputs.collate([encoded]))[0]  # (c,)
            total = total + (logits.double() * weights.to(logits.device)).sum()
        if total.requires_grad:
            with torch.autocast(logits.device.type, enabled=False):
                torch.autograd.backward(total, inputs=list(parameters.values()))


@contextmanager
def _requiring(parameters: Mapping[str, Tensor], visit: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Let gradients flow to the parameters and hand them out; everything is as before afterwards."""
    before = {name: (tensor.requires_grad, tensor.grad) for name, tensor in parameters.items()}
    handles = []

    def hand_out(name: str, tensor: Tensor) -> None:
        if tensor.grad is not None:
            visit(name, tensor.grad)
            tensor.grad = None

    try:
        for name, tensor in parameters.items():
            tensor.grad = None
            tensor.requires_grad_()
            handles.append(tensor.register_post_accumulate_grad_hook(partial(hand_out, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, tensor in parameters.items():
            required, gradient = before[name]
            tensor.grad = gradient
            tensor.requires_grad_(required)
