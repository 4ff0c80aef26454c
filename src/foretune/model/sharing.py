"""A second module tree on the same weights.

Computing gradient factors needs a model in evaluation mode, with frozen weights and a different output layer. None of
that may happen to the user's own module, so it happens to a structural copy whose parameters share their memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn


def shared_copy(module: nn.Module) -> nn.Module:
    """A structural copy of `module` in evaluation mode: new modules, the same memory, no gradient required.

    An in-place change of a weight, an optimiser step for example, is seen by both.
    """
    return _copied(module, lambda tensor: tensor.detach())


def precise_copy(module: nn.Module) -> nn.Module:
    """A structural copy of `module` with its weights in float32; what is not a floating-point number stays as it is."""
    return _copied(module, lambda tensor: tensor.detach().float() if tensor.is_floating_point() else tensor.detach())


def weightless_copy(module: nn.Module) -> nn.Module:
    """A structural copy of `module` whose parameters have shapes and no values: it costs no memory."""
    return _copied(module, lambda tensor: tensor.detach().to("meta"))


def _copied(module: nn.Module, value: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy in evaluation mode with other parameters; those that are one stay one. Buffers are the same."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(value(parameter), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(module, memo).eval()
