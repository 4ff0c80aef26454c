"""The module that a trainer sees: a batch with labels in, loss and logits out, its state the trained parameters alone.

The linearized one computes `f(theta) = f(theta0) + <df(theta0), theta - theta0>`: forward is one Jacobian-vector
product, backward one vector-Jacobian product with `chi = dl/df`, both at theta0, so that the gradient is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foretune.finetune.copies import copy_with_own, outputs_on
from foretune.finetune.losses import Loss
from foretune.model.encoding import Batch
from foretune.model.outputs import Outputs
from foretune.shapes import Float


class LoadReport(NamedTuple):
    """What torch reports of a loaded state."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Tuned(nn.Module):
    """A model in training.

    Args:
        outputs: the function, on a model of its own.
        names: what is trained.
        loss: what is minimised.
        dropout: as the model is configured; never when False.

    Attributes:
        trained: name -> parameter.
        start: name -> its value at the start.
        losses: loss of every training batch since `take_losses`.
        accepts_loss_kwargs: says to a Trainer that a batch is all that `forward` takes.
    """

    accepts_loss_kwargs = False

    def __init__(self, outputs: Outputs, names: Sequence[str], loss: Loss, *, dropout: bool) -> None:
        super().__init__()
        self.outputs, self.loss, self.dropout = outputs, loss, dropout
        self.module: nn.Module = outputs.module
        parameters: Any = outputs.parameters()
        self.trained: dict[str, nn.Parameter] = {name: parameters[name] for name in names}
        for parameter in self.trained.values():
            parameter.requires_grad_()
        self.start = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.losses: list[Tensor] = []

    @property
    def n_trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.trained.values())

    def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """Mean loss and logits of a batch."""
        logits = self.values(batch)
        loss = self.loss.mean(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)
        if torch.is_grad_enabled():
            self.losses.append(loss.detach())
        return {"loss": loss, "logits": logits}

    def values(self, batch: Batch) -> Float[Tensor, "n c"]:
        """f(theta, batch), the model's outputs."""
        return self.module(batch)

    def train(self, mode: bool = True) -> Tuned:
        """Training mode, in which dropout acts, unless this run is without."""
        return super().train(mode and self.dropout)

    def take_losses(self) -> float:
        """The mean loss of the training batches since the last call, over all processes that train together."""
        mean = torch.stack(self.losses).mean()
        self.losses.clear()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean /= torch.distributed.get_world_size()
        return mean.item()

    @torch.no_grad()
    def distance(self) -> float:
        """`||theta - theta0||` over the trained parameters."""
        squares = [(p - self.start[name].to(p)).double().square().sum() for name, p in self.trained.items()]
        return torch.stack([square.cpu() for square in squares]).sum().sqrt().item()

    @torch.no_grad()
    def classifier_norms(self) -> list[float]:
        """The norm of each class's row in the output layer."""
        layer: Any = self.outputs.module.output_layer
        rows = layer.weight if getattr(layer, "ids", None) is None else layer.weight[layer.ids]
        return rows.double().norm(dim=1).tolist()

    def state_dict(self, *_args: object, **_kwargs: object) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The trained parameters by name, nothing frozen."""
        return {name: parameter.detach().contiguous() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> LoadReport:
        """Put values into the trained parameters, in place."""
        for name, parameter in self.trained.items():
            parameter.copy_(state_dict[name])
        return LoadReport([], [])


class LinearTuned(Tuned):
    """The Taylor model of first order around the start. See `Tuned`."""

    def __init__(self, outputs: Outputs, names: Sequence[str], loss: Loss) -> None:
        super().__init__(outputs, names, loss, dropout=False)
        frozen = outputs_on(copy_with_own(outputs.lm, names), outputs)
        model: Any = frozen.module.model
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if hasattr(inner, "set_attn_implementation"):
            inner.set_attn_implementation("eager")  # fused attention has no rule for forward mode
        self.base: nn.Module = frozen.module
        self._frozen = frozen

    def values(self, batch: Batch) -> Float[Tensor, "n c"]:
        """f(theta0, batch) + <df(theta0, batch), theta - theta0>."""
        names = list(self.trained)
        at = self._frozen.parameters()

        def f(*theta: Tensor) -> Tensor:
            return self._frozen.logits(dict(zip(names, theta, strict=True)), batch)

        start = tuple(at[name].detach() for name in names)
        values: Any = _Taylor.apply(f, start, *self.trained.values())
        return values


class _Taylor(torch.autograd.Function):
    """`f(start) + <df(start), theta - start>`, and the pull-back of its derivative."""

    @staticmethod
    def forward(ctx: Any, f: Callable[..., Tensor], start: tuple[Tensor, ...], *theta: Tensor) -> Tensor:
        ctx.f, ctx.start = f, start
        tangents = tuple(moved - at for moved, at in zip(theta, start, strict=True))
        pair: Any = torch.func.jvp(f, start, tangents)
        return pair[0] + pair[1]

    @staticmethod
    def backward(ctx: Any, *chi: Tensor) -> Any:
        at_start: Any = torch.func.vjp(ctx.f, *ctx.start)
        pull_back = at_start[1]
        return (None, None, *pull_back(chi[0]))
