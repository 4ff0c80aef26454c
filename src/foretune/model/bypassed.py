"""Linear layers that an adapter of peft cannot serve, found by running the model.

peft wraps the forward pass of a module: `W x + s B A x` where the module is called with one tensor and gives one. A
weight that the code of a model reads itself (`self.dt_proj.weight @ x` in Jamba, the transposed tables of MobileBERT's
output layer) never meets its adapter, whose gradient is zero; and a layer whose answer is something else (routers of
Llama 4 and PhiMoE, which give tuples) fails with one.

What uses a weight is seen at every operation on it (`TorchDispatchMode`), so that no name and no class is listed here.
A layer that no token has reached, such as an expert, is judged by those at its place in other layers and experts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foretune.model.parameters import holds_outputs_in_columns

BYPASSED = "the model reads its weight itself, or the layer does not map one tensor to one by this weight alone"
"""Why a linear layer is bypassed, for readers."""

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def bypassed(module: nn.Module, weights: Sequence[str], run: Callable[[], object]) -> frozenset[str]:
    """Those of some linear layers that cannot be adapted by wrapping their forward pass.

    Args:
        module: the model.
        weights: of linear layers, as `module` names them.
        run: runs the model on a short text.
    """
    parts = dict(module.named_modules())
    layers = {name: layer for name in weights if (layer := parts.get(name.removesuffix(".weight"))) is not None}
    watch = _Watch(layers)
    handles = [handle for name, layer in layers.items() for handle in watch.hooks(name, layer)]
    try:
        with torch.no_grad(), watch:
            run()
    finally:
        for handle in handles:
            handle.remove()
    alike = {_place(name) for name in watch.faulty}
    reached = watch.served - watch.faulty
    strangers = set(weights) - set(layers)  # named by a module that is not their layer
    return frozenset(
        name
        for name in weights
        if name in strangers or name in watch.faulty or (_place(name) in alike and name not in reached)
    )


def _place(name: str) -> str:
    """A parameter's name without the numbers of its layer and expert."""
    return _NUMBER.sub("#", name)


class _Watch(TorchDispatchMode):
    """Which weights are used in the forward pass of their layer, and which are used otherwise.

    Attributes:
        served: used by a layer that an adapter can wrap.
        faulty: used outside of their layer, or by one that an adapter cannot wrap.
    """

    _READ: ClassVar[set[object]] = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.served: set[str] = set()
        self.faulty: set[str] = set()
        self._names = {id(layer.weight): name for name, layer in layers.items()}
        self._inside: list[str] = []

    def hooks(self, name: str, layer: nn.Module) -> list[Any]:
        """Note when a layer runs, and whether what it takes and gives is one tensor."""

        def enter(_layer: nn.Module, _args: object) -> None:
            self._inside.append(name)

        def leave(layer: nn.Module, args: tuple, output: object) -> None:
            whole = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            (self.served if whole and _is_linear(layer, args[0], output) else self.faulty).add(name)
            self._inside.pop()

        return [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation; a weight among its arguments is used."""
        if func not in self._READ:
            for item in (*args, *(kwargs or {}).values()):
                for tensor in item if isinstance(item, (list, tuple)) else (item,):
                    name = self._names.get(id(tensor))
                    if name is not None and name not in self._inside[-1:]:
                        self.faulty.add(name)
        return func(*args, **(kwargs or {}))


def _is_linear(layer: Any, x: Tensor, output: Any) -> bool:
    """Whether a layer gives W x + b and nothing more: a class of its own may do something with it."""
    if type(layer).forward is nn.Linear.forward or holds_outputs_in_columns(layer):
        return True
    expected = nn.functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
    return output.shape == expected.shape and torch.allclose(
        output.to(expected.dtype), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())
    )
