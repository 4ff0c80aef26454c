"""Slow twins: a reader can believe them at a glance."""

from __future__ import annotations

import numpy as np
import torch


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
