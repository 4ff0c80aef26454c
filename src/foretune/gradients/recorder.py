r"""Which operation each parameter goes into, seen from inside the forward pass.

A `TorchFunctionMode` sees every torch call with its actual arguments. A call that takes a watched parameter, or a
simple view of one, is a *use*; each known operation has a rule (`rules.py`) that turns its input and the derivative `g`
of an output with respect to its result into a gradient factor.

Reading calls rather than module types covers tied weights, modules called several times, adapters and models that
reach for a weight from outside its module. A parameter that enters any other operation, also one that writes it into
another tensor (`b[:] = p`, `b.copy_(p)`, `out=b`), is reported in `unruled`: the caller then takes its gradient directly
from autograd. What hides from torch's calls (compiled code, functions with a backward pass of their own) is found by
`kernels.law`, which holds every kernel against a plain gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foretune.gradients.rules import RULES
from foretune.gradients.uses import NotPerExampleError, Rule, Use, Watched

_SAME_VALUES = {"float", "double", "half", "bfloat16", "to", "type_as", "contiguous", "clone"}
_RESHAPED = {"t", "transpose", "permute", "swapaxes", "swapdims", "adjoint", "view", "reshape"}
_TURNED_ATTRIBUTES = {"T", "mT", "H", "mH"}


class Recorder(TorchFunctionMode):
    """Records the uses of parameters during one forward pass of `n` examples with `t` tokens each.

    Args:
        parameters: name -> the very tensors that the model holds.
        n: examples in the batch.
        t: tokens per example, for models that flatten a batch to (n * t, features).
        skip: names whose uses need no factor.
    """

    def __init__(self, parameters: Mapping[str, Tensor], n: int, t: int, skip: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.n, self.t = n, t
        self.skip = skip
        self.watched = {id(tensor): Watched(name) for name, tensor in parameters.items()}
        self.kept: list[Tensor] = list(parameters.values())  # ids stay valid while the tensors live
        self.uses: list[Use] = []
        self.leaves: list[Tensor] = []
        self.unruled: set[str] = set()
        self.tables: dict[int, Tensor] = {}  # parameters as data, one copy for all that read it
        self._inputs: dict[int, Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        """Run the call; record it when a watched parameter takes part."""
        kwargs = kwargs or {}
        found = [self.watched[id(a)] for a in tensors_in((*args, *kwargs.values())) if id(a) in self.watched]
        if not found or not torch.is_grad_enabled():  # under no_grad nothing flows back
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        rule = RULES.get(name)
        if rule is not None:
            result = rule(self, func, args, kwargs)
            if result is not None:
                return result
        before = _versions((*args, *kwargs.values()))
        result = func(*args, **kwargs)
        written = any(tensor._version != version for tensor, version in before)
        if not written and not any(True for _ in tensors_in((result,))):
            return result  # shape, dtype, device: nothing flows
        if written or not self._view(func, found, args, kwargs, result):
            self.unruled |= {watched.name for watched in found if watched.name not in self.skip}
        return result

    def _view(self, func: object, found: list[Watched], args: tuple, kwargs: dict, result: object) -> bool:
        """Note that `result` stands for a parameter too; False when it does not."""
        if len(found) != 1 or not args or id(args[0]) not in self.watched or not isinstance(result, Tensor):
            return False
        watched, name = found[0], getattr(func, "__name__", "")
        if watched.name in self.skip:
            return True
        if name in _SAME_VALUES or (name in {"add", "__radd__"} and _adds_constant(args, kwargs)):
            derived = watched  # the derivative with respect to the parameter is one
        elif _is_transpose(func, args[0], result):
            derived = replace(watched, turned=not watched.turned)
        elif not watched.is_whole:
            return False
        elif name == "index_select" and args[1] == 0:
            derived = Watched(watched.name, rows=args[2])
        elif name == "__getitem__" and _is_index(args[1]) and args[0].dim() == 3:
            derived = Watched(watched.name, slice=int(args[1]))
        else:
            return False
        self.watched[id(result)] = derived
        self.kept.append(result)
        return True

    def release(self) -> None:
        """Drop everything held; the rules refer back here, and a cycle would keep the memory until the next sweep."""
        self.uses.clear()
        self.leaves.clear()
        self.kept.clear()
        self.watched.clear()
        self.tables.clear()
        self._inputs.clear()

    def lookup(self, tensor: object) -> Watched | None:
        """The parameter that `tensor` stands for, unless it needs no factor."""
        watched = self.watched.get(id(tensor)) if isinstance(tensor, Tensor) else None
        return None if watched is None or watched.name in self.skip else watched

    def note(self, result: Tensor, rule: Rule, name: str) -> Tensor:
        """Remember a use; the graph starts here when nothing before it needs a gradient."""
        if not result.requires_grad:
            leaf = result.requires_grad_()
            self.leaves.append(leaf)
            result = leaf.clone()  # a leaf itself must not be modified in place by the model
        elif result._is_view():  # a hook on a view is lost when the model modifies the view in place
            result = torch.ops.aten._unsafe_view(result, result.shape)
        use = Use(name, rule, result=result.detach())
        result.register_hook(lambda g: use.receive(self.tokens(g)))  # before any in-place change by the model
        self.uses.append(use)
        return result

    def held(self, x: Tensor) -> Tensor:
        """`x` without its graph; the same tensor each time, so that q, k and v share one copy."""
        if id(x) not in self._inputs:
            self.kept.append(x)
            self._inputs[id(x)] = self.tokens(x.detach())
        return self._inputs[id(x)]

    def tokens(self, tensor: Tensor) -> Tensor:
        """`tensor` as (n, tokens, features).

        Raises:
            NotPerExampleError: the leading dimension is not one entry per example.
        """
        features = tensor.shape[-1]
        per_example = tensor.shape[0] == self.n and tensor.dim() >= 3
        flattened = tensor.dim() == 2 and tensor.shape[0] == self.n * self.t
        if self.n == 1 or per_example or flattened:
            return tensor.reshape(self.n, -1, features)  # (n, t, features)
        raise NotPerExampleError(f"shape {tuple(tensor.shape)} in a batch of {self.n} examples")


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among arguments or results, also those in lists, tuples and dictionaries."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def _versions(values: Iterable[object]) -> list[tuple[Tensor, int]]:
    """How often each tensor has been written to, so that a call which writes shows."""
    return [(tensor, tensor._version) for tensor in tensors_in(values) if not tensor.is_inference()]


def _adds_constant(args: tuple, kwargs: dict) -> bool:
    return len(args) == 2 and isinstance(args[1], (int, float)) and kwargs.get("alpha", 1) == 1


def _is_index(index: object) -> bool:
    return isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0 and not index.is_floating_point())


def _is_transpose(func: object, tensor: Tensor, result: Tensor) -> bool:
    """Whether a call returned its matrix with rows and columns exchanged."""
    owner = getattr(getattr(func, "__self__", None), "__name__", "")  # of a property such as .T
    named = getattr(func, "__name__", "") in _RESHAPED or owner in _TURNED_ATTRIBUTES
    return (
        named
        and tensor.dim() == result.dim() == 2
        and result.data_ptr() == tensor.data_ptr()
        and result.shape == tensor.shape[::-1]
        and result.stride() == tensor.stride()[::-1]
    )
