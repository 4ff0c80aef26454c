"""Slow twins: a reader can believe them at a glance."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def jacobian_kernel(outputs, rows, columns=None) -> dict[str, np.ndarray]:
    """Block kernels (n, c, m, c) from whole Jacobians, one example at a time: no padding, no factors."""
    left = jacobians(outputs, rows)
    right = left if columns is None else jacobians(outputs, columns)
    return {name: torch.einsum("ncp,mdp->ncmd", left[name].double(), right[name].double()).numpy() for name in left}


def jacobians(outputs, rows) -> dict[str, torch.Tensor]:
    """Whole Jacobians (n, c, p) by parameter, one example at a time."""
    parameters = {name: tensor.detach().clone() for name, tensor in outputs.parameters().items()}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in parameters}
    for row in rows:
        batch = outputs.batch([row])
        leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
        logits, pull = torch.func.vjp(lambda p, batch=batch: outputs.logits(p, batch)[0], leaves)
        grads = [pull(unit)[0] for unit in torch.eye(len(logits), dtype=logits.dtype)]
        for name in parameters:
            found[name].append(torch.stack([grad[name].detach().reshape(-1) for grad in grads]))
    return {name: torch.stack(rows_of) for name, rows_of in found.items()}


def untouched(folder, outputs, rows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Outputs (n, c) and Jacobians (n, c, *shape) of the model as transformers loads it, one unpadded example at a time."""
    module = outputs.lm.module
    model = type(module).from_pretrained(folder, config=module.config, dtype=outputs.lm.dtype).eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    head, parameters = getattr(outputs.module, "head", None), dict(model.named_parameters())
    body = (
        model.get_decoder() if model.base_model is model and head and outputs.lm.kind != "encoder" else model.base_model
    )
    values, found = [], {name: [] for name in parameters}
    for row in rows:
        batch = outputs.batch([row])
        inputs = {name: tensor for name, tensor in batch.items() if name != "position"}
        if head is None:
            logits = model(**inputs).logits[0, batch["position"][0]][outputs.module.output_layer.ids]
        else:
            logits = body(**inputs)[0].mean(1)[0] @ head.weight.T + head.bias
        logits = logits[1:] - logits[:1] if outputs.difference else logits
        values.append(logits.detach())
        for name, parameter in parameters.items():
            found[name].append(torch.zeros(len(logits), *parameter.shape, dtype=parameter.dtype))
        for c, logit in enumerate(logits):
            grads = torch.autograd.grad(logit, list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, grad in zip(parameters, grads, strict=True):
                found[name][-1][c] = 0 if grad is None else grad
    return torch.stack(values), {name: torch.stack(of_rows) for name, of_rows in found.items()}


def left_out_one_by_one(n: int, fit) -> np.ndarray:
    """What `fit(kept, row)` predicts for each of n rows, from all the others."""
    return np.array([fit(np.delete(np.arange(n), row), row) for row in range(n)])


def head_on_first_order_features(outputs, started, batch) -> torch.Tensor:
    """head(phi(W0) + J(W0) s B A), W0 of `outputs`, the rest of `started`: a product of the whole model in forward mode."""
    layers = started.module.model.get_base_model().named_modules()
    step = {f"{name}.weight": layer.get_delta_weight("default") for name, layer in layers if hasattr(layer, "lora_A")}
    start = {name: outputs.parameters()[name].detach() for name in step}
    head = {name: started.parameters()[name] for name in ("head.weight", "head.bias")}
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no forward-mode rule
        value, moved = torch.func.jvp(lambda at: outputs.logits({**at, **head}, batch), (start,), (step,))
    return value + moved
