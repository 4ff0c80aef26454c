"""LoRA runs of a model that is linear around some weights: what a trainer trains instead of the real model.

`Replayed` is linear in the weights and bilinear in A and B, `AroundEnd` linear in A, B and the head. Both are functions of
the parameters of a real run, so that its trainer, optimiser and batches train them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.tangent import Change, KeptBert
from foretune.finetune.losses import CrossEntropy
from foretune.finetune.methods import Method
from foretune.finetune.tuned import Tuned
from foretune.model.encoding import Batch
from foretune.model.outputs import Outputs, base_of, body_of
from foretune.shapes import Float


def real_start(outputs: Outputs, method: Method) -> Tuned:
    """The real model at the start of a run."""
    started = method.start(outputs)
    return Tuned(started, method.names(started), CrossEntropy(), dropout=False)


class _Adapter:
    """s B A of an adapter as a change of its layer, and what its first-order change is around other matrices."""

    def __init__(self, layer: Any) -> None:
        self.a, self.b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        self.scale: float = layer.scaling["default"]

    def __call__(self, x: Float[Tensor, "s i"]) -> Float[Tensor, "s o"]:
        return self.scale * (x @ self.a.mT @ self.b.mT)

    def since(self, there: _Adapter) -> Change:
        """x -> s (B A - B_T A_T) x."""
        a, b = there.a.detach().clone(), there.b.detach().clone()
        return lambda x: self(x) - self.scale * (x @ a.mT @ b.mT)

    def around(self, a: Tensor, b: Tensor) -> Change:
        """x -> s (dB A + B dA) x."""
        return lambda x: self.scale * (x @ a.mT @ (self.b - b).mT + x @ (self.a - a).mT @ b.mT)


def adapters_of(outputs: Outputs) -> dict[str, _Adapter]:
    """The adapters by the names of their layers in the body."""
    layers = body_of(base_of(outputs.module.model)).named_modules()
    return {name: _Adapter(layer) for name, layer in layers if hasattr(layer, "lora_A")}


class Replayed(Tuned):
    """head(phi(W0) + J(W0) s B A): the body is linear in its weights, which are bilinear in A and B.

    Args:
        outputs: a head on a model without adapters, W0.
        method: LoRA.
        kept: the same model with its activations.
    """

    def __init__(self, outputs: Outputs, method: Method, kept: KeptBert) -> None:
        started = method.start(outputs)
        super().__init__(started, method.names(started), CrossEntropy(), dropout=False)
        self.kept = kept
        self.changes: dict[str, Change] = {**adapters_of(started)}

    def values(self, batch: Batch) -> Float[Tensor, "n c"]:
        """The head of this step on the features and their change."""
        phi, moved = self.kept.of(batch, self.changes)
        return self.answered(self.module.output_layer(phi + moved))

    def answered(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """The outputs, of two classes their difference."""
        return logits[:, 1:] - logits[:, :1] if self.outputs.difference else logits


class AroundWeights(Replayed):
    """head(phi(W_T) + J(W_T) (s B A - s B_T A_T)): the replay around the weights of a real run at its end.

    Args:
        outputs, method: as in `Replayed`.
        end: the real run at its end, which stays there.
        kept: the model there with its activations.
    """

    def __init__(self, outputs: Outputs, method: Method, end: Tuned, kept: KeptBert) -> None:
        super().__init__(outputs, method, kept)
        there = adapters_of(end.outputs)
        self.changes = {name: adapter.since(there[name]) for name, adapter in adapters_of(self.outputs).items()}


class AroundEnd(Replayed):
    """The Taylor model of first order in A, B and the head around theta_T; training begins where the real run began.

    Args:
        outputs, method: as in `Replayed`.
        end: the real run at theta_T.
        kept: the model there with its activations.
    """

    def __init__(self, outputs: Outputs, method: Method, end: Tuned, kept: KeptBert) -> None:
        super().__init__(outputs, method, kept)
        there = adapters_of(end.outputs)
        self.changes = {
            name: adapter.around(there[name].a.detach().clone(), there[name].b.detach().clone())
            for name, adapter in adapters_of(self.outputs).items()
        }
        self.head: Tensor = end.outputs.module.output_layer.weight.detach().clone()

    def values(self, batch: Batch) -> Float[Tensor, "n c"]:
        """(H + dH) phi + H dphi, and the bias."""
        phi, moved = self.kept.of(batch, self.changes)
        return self.answered(self.module.output_layer(phi) + moved @ self.head.mT)
