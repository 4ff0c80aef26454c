"""The `nngeometry` package on a transformer's linear and norm layers.

Version 0.4 knows no embedding, and its linear and layer-norm rules take one vector per example, not a sequence. The
two subclasses below add the missing sum over tokens in the package's own way (flat per-example gradients, then a
product); its double loop over batches, its hooks and its Gram matrix run as they are. Embeddings enter as inputs, so
they are left out. Install it without its dependencies: `pip install --no-deps nngeometry==0.4`.
"""

from __future__ import annotations

import time

import torch
from nngeometry import GramMatrix
from nngeometry.backend.torch_hooks import grads
from nngeometry.layercollection import LayerCollection, LayerNormLayer, LinearLayer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.case import Case, Measured
from foretune.progress import peak_memory


class _TokenLinear(grads.JacobianFactory):
    """A linear layer over tokens: flat per-example gradients by one batched product."""

    @classmethod
    def flat_grad(cls, buffer: Tensor, mod: torch.nn.Module, layer: LinearLayer, x: Tensor, gy: Tensor) -> None:
        """Add the per-example gradients (n, p)."""
        n, size = len(x), layer.weight.numel()
        buffer[:, :size].add_(
            torch.bmm(gy.reshape(n, -1, gy.shape[-1]).transpose(1, 2), x.reshape(n, -1, x.shape[-1])).view(n, -1)
        )
        if layer.bias is not None:
            buffer[:, size:].add_(gy.reshape(n, -1, gy.shape[-1]).sum(1))


class _TokenNorm(grads.JacobianFactory):
    """A layer norm over tokens."""

    @classmethod
    def flat_grad(cls, buffer: Tensor, mod: torch.nn.Module, layer: LayerNormLayer, x: Tensor, gy: Tensor) -> None:
        """Add the per-example gradients (n, p)."""
        size = layer.weight.numel()
        normalised = torch.nn.functional.layer_norm(x, mod.normalized_shape, eps=mod.eps)
        buffer[:, :size].add_((gy * normalised).sum(1))
        buffer[:, size:].add_(gy.sum(1))


def measured(case: Case) -> Measured:
    """The Gram matrix of all linear and norm layers of MiniLM with its head."""
    outputs, examples = case.outputs()
    grads.FactoryMap[LinearLayer], grads.FactoryMap[LayerNormLayer] = _TokenLinear, _TokenNorm
    module = outputs.module
    batch = outputs.batch(examples)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    layers = LayerCollection.from_model(module, ignore_unsupported_layers=True)
    embedded = outputs.lm.module.get_input_embeddings()(batch["input_ids"]).detach()
    loader = DataLoader(TensorDataset(embedded, batch["attention_mask"], batch["position"]), batch_size=16)
    body = module.body
    plain = body.forward
    with peak_memory() as peak:
        start = time.perf_counter()

        def function(embeddings: Tensor, mask: Tensor, position: Tensor) -> Tensor:
            body.forward = lambda input_ids=None, **options: plain(inputs_embeds=embeddings, **options)
            return module({"input_ids": embeddings, "attention_mask": mask, "position": position})

        gram = GramMatrix(model=module, loader=loader, function=function, layer_collection=layers)
        seconds = time.perf_counter() - start
    c, n = gram.to_torch().shape[:2]
    return Measured(
        seconds, peak.peak - peak.before, float(gram.to_torch().reshape(c * n, c * n).trace()), "no embeddings"
    )
