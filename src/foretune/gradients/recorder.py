r"""Which operation each parameter goes into, seen from inside the forward pass.

A `TorchFunctionMode` sees every torch call with its actual arguments. A call that takes a watched parameter, or a
simple view of one, is a *use*; each known operation has a rule that turns its input and the derivative `g` of an
output with respect to its result into a gradient factor:

    F.linear(x, W, b)                Products(x, g), Dense(sum_t g)
    F.linear(x, W[rows], b[rows])    Rows(rows, sum_t g x)            label words of an output matrix
    F.linear(x, W[e], ...)           Products(x, g, group=e)          expert e of a 3-D expert weight
    torch.addmm(b, x, W)             Products(x, g)                   GPT-2's Conv1D
    F.embedding(ids, W)              Rows(ids, g)
    F.layer_norm, F.rms_norm         Dense(sum_t g * normalised x), Dense(sum_t g)
    F.layer_norm(W), F.dropout(W)    Rows(all rows, g)                a table as data: DeBERTa's relative positions
    w * u + b                        Dense(sum_t g * u), Dense(sum_t g)   norms written out; (1 + w) * u too

Reading calls rather than module types covers tied weights, modules called several times, adapters and models that
reach for a weight from outside its module. A parameter that enters any other operation is reported in
`unruled`, never missed: the caller then takes its gradient directly from autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foretune.gradients.factors import Dense, Factor, Products, Rows
from foretune.shapes import Float

Derivatives = tuple[Float[Tensor, "n t o"], ...]
"""Of each output with respect to the result of a call."""
Rule = Callable[[Derivatives], list[tuple[str, Factor]]]

_SAME_VALUES = {"float", "double", "half", "bfloat16", "to", "type_as", "contiguous"}


class NotPerExampleError(Exception):
    """An operation mixed or flattened the examples of a batch; one example at a time is needed."""


@dataclass(frozen=True)
class Watched:
    """A tensor that stands for a parameter: itself (`rows`, `slice` None), some rows of it, or one slice of it."""

    name: str
    rows: Tensor | None = None
    slice: int | None = None


class Use:
    """One call that takes a parameter, and the derivatives of the outputs with respect to its result.

    Attributes:
        name: the parameter.
        rule: turns the derivatives into factors.
        result: what the call returned, kept only until the forward pass is known to be finite.
    """

    def __init__(self, name: str, rule: Rule, result: Tensor) -> None:
        self.name, self.rule, self.result = name, rule, result
        self.received: dict[int, Tensor] = {}
        self.output, self.outputs = 0, 1

    def receive(self, g: Float[Tensor, "n t o"]) -> None:
        """Take the derivative of the output whose backward pass is running, as it is: a copy would touch fresh memory."""
        self.received[self.output] = g

    def derivatives(self) -> Derivatives | None:
        """All derivatives, after the last backward pass; None if no output depends on this call."""
        received, self.received = self.received, {}
        if not received:
            return None
        some = next(iter(received.values()))
        zero = some.new_zeros(()).expand(some.shape)  # of an output that does not depend on this call
        return tuple(received.get(output, zero) for output in range(self.outputs))


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
        found = [self.watched[id(a)] for a in _tensors((*args, *kwargs.values())) if id(a) in self.watched]
        if not found:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        rule = _RULES.get(name)
        if rule is not None:
            result = rule(self, func, args, kwargs)
            if result is not None:
                return result
        result = func(*args, **kwargs)
        if not list(_tensors((result,))):
            return result  # shape, dtype, device: nothing flows
        if not self._view(name, found, args, kwargs, result):
            self.unruled |= {watched.name for watched in found if watched.name not in self.skip}
        return result

    def _view(self, name: str, found: list[Watched], args: tuple, kwargs: dict, result: object) -> bool:
        """Note that `result` stands for a parameter too; False when it does not."""
        if len(found) != 1 or not args or id(args[0]) not in self.watched or not isinstance(result, Tensor):
            return False
        watched = found[0]
        if watched.name in self.skip:
            return True
        if name in _SAME_VALUES or (name in {"add", "__radd__"} and _adds_constant(args, kwargs)):
            derived = watched  # the derivative with respect to the parameter is one
        elif watched.rows is not None or watched.slice is not None:
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


def _tensors(values: tuple) -> Iterator[Tensor]:
    """The tensors among arguments or results, also those in lists and tuples."""
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                yield item


def _adds_constant(args: tuple, kwargs: dict) -> bool:
    return len(args) == 2 and isinstance(args[1], (int, float)) and kwargs.get("alpha", 1) == 1


def _is_index(index: object) -> bool:
    return isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0 and not index.is_floating_point())


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _name(*watched: Watched | None) -> str:
    return next(item.name for item in watched if item is not None)


def _products(recorder: Recorder, weight: Watched | None, bias: Watched | None, x: Tensor) -> Rule:
    held = recorder.held(x)  # (n, t, i)

    def factors(g: Derivatives) -> list[tuple[str, Factor]]:
        found: list[tuple[str, Factor]] = []
        if weight is not None and weight.rows is not None:
            values = torch.stack([each.mT @ held for each in g], dim=1)  # (n, c, w, i)
            found.append((weight.name, Rows(weight.rows.expand(len(values), -1), values)))
        elif weight is not None:
            group = None if weight.slice is None else torch.full(held.shape[:2], weight.slice, device=held.device)
            found.append((weight.name, Products(held, g, group)))
        if bias is not None and bias.rows is not None:
            found.append(
                (
                    bias.name,
                    Rows(bias.rows.expand(len(held), -1), torch.stack([each.sum(1) for each in g], 1).unsqueeze(-1)),
                )
            )
        elif bias is not None and bias.slice is None:
            found.append((bias.name, Dense.summed(g)))
        return found

    return factors


def _table(recorder: Recorder, w: Tensor) -> Tensor | None:
    """A parameter that an operation takes as data: all of its rows, looked up; None where this is not what it is."""
    watched = recorder.watched[id(w)]
    if watched.name in recorder.skip:
        return w
    if watched.rows is not None or watched.slice is not None or w.dim() != 2:
        return None
    if recorder.n > 1:
        raise NotPerExampleError(f"{watched.name} is data that all {recorder.n} examples share")
    ids = torch.arange(len(w), device=w.device)[None]  # (1, t)
    if id(w) not in recorder.tables:
        recorder.tables[id(w)] = recorder.note(
            w.clone(), lambda g: [(watched.name, Rows(ids, torch.stack(g, 1)))], watched.name
        )
    return recorder.tables[id(w)]


def _linear(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    x, w, b = args[0], _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 2, "bias")
    if id(x) in recorder.watched:
        return None  # the parameter is the data of this layer
    weight, bias = recorder.lookup(w), recorder.lookup(b)
    if weight is None and bias is None:
        return func(*args, **kwargs)
    if bias is not None and bias.slice is not None:
        return None
    if recorder.n > 1 and weight is not None and weight.slice is not None:
        raise NotPerExampleError(f"{weight.name} sees the tokens routed to it, in an order of its own")
    rule = _products(recorder, weight, bias, x)
    return recorder.note(func(*args, **kwargs), rule, _name(weight, bias))


def _addmm(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    if kwargs or id(args[1]) in recorder.watched:
        return None
    bias, weight = recorder.lookup(args[0]), recorder.lookup(args[2])
    if weight is None and bias is None:
        return func(*args)
    rule = _products(recorder, weight, bias, args[1])
    return recorder.note(func(*args), rule, _name(weight, bias))


def _embedding(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    ids, w, padding = args[0], _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 2, "padding_idx")
    if func is not torch.nn.functional.embedding:
        return None  # torch.embedding takes the weight first
    weight = recorder.lookup(w)
    if weight is None:
        return func(*args, **kwargs)
    if weight.rows is not None or weight.slice is not None or _argument(args, kwargs, 5, "scale_grad_by_freq", False):
        return None
    if recorder.n > 1 and (ids.dim() == 1 or (ids.dim() == 2 and ids.shape[0] == 1)):
        ids = ids.reshape(1, -1).expand(recorder.n, -1)  # positions need one copy per example
    if recorder.n > 1 and (ids.dim() != 2 or ids.shape[0] != recorder.n):
        raise NotPerExampleError(f"token ids of shape {tuple(ids.shape)} in a batch of {recorder.n} examples")
    looked_up = ids.reshape(recorder.n, -1)  # (n, t); T5 looks up a table of (query, key)
    dead = None if padding is None else looked_up == (padding if padding >= 0 else len(w) + padding)  # (n, t)

    def factors(g: Derivatives) -> list[tuple[str, Factor]]:
        values = torch.stack(g, dim=1)  # (n, c, t, o)
        return [
            (weight.name, Rows(looked_up, values if dead is None else values.masked_fill(dead[:, None, :, None], 0)))
        ]

    return recorder.note(func(ids, *args[1:], **kwargs), factors, weight.name)


def _scaled(recorder: Recorder, pairs: list[tuple[Watched | None, Tensor | None]], result: Tensor, name: str) -> Tensor:
    """A use `result = w * u + b` with `w`, `b` along the last dimension; `u` None stands for one."""

    def factors(g: Derivatives) -> list[tuple[str, Factor]]:
        return [
            (watched.name, Dense.summed([each if u is None else each * u for each in g]))
            for watched, u in pairs
            if watched is not None
        ]

    return recorder.note(result, factors, name)


def _layer_norm(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    data, shape = args[0], _argument(args, kwargs, 1, "normalized_shape")
    has_bias = func.__name__ == "layer_norm"
    weight = recorder.lookup(_argument(args, kwargs, 2, "weight"))
    bias = recorder.lookup(_argument(args, kwargs, 3, "bias")) if has_bias else None
    x = _table(recorder, data) if id(data) in recorder.watched else data
    if x is None or len(shape) != 1:
        return None
    if weight is None and bias is None:
        return func(x, *args[1:], **kwargs)
    eps = _argument(args, kwargs, 4 if has_bias else 3, "eps", 1e-5 if has_bias else None)
    u = recorder.tokens(func(x.detach(), shape, eps=eps))  # (n, t, p)
    return _scaled(recorder, [(weight, u), (bias, None)], func(x, *args[1:], **kwargs), _name(weight, bias))


def _dropout(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    x = _table(recorder, args[0]) if id(args[0]) in recorder.watched else None
    return None if x is None else func(x, *args[1:], **kwargs)


def _multiply(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    if kwargs or not _along_features(recorder, args):
        return None
    w, u = args if id(args[0]) in recorder.watched else args[::-1]
    weight = recorder.lookup(w)
    if weight is None:
        return func(*args)
    return _scaled(recorder, [(weight, recorder.tokens(u.detach()))], func(*args), weight.name)


def _add(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    if kwargs or not _along_features(recorder, args):
        return None
    bias = recorder.lookup(args[0]) or recorder.lookup(args[1])
    return func(*args) if bias is None else _scaled(recorder, [(bias, None)], func(*args), bias.name)


def _along_features(recorder: Recorder, args: tuple) -> bool:
    """Whether one of two tensors stands for a vector parameter, and the other is data whose last dimension it fits."""
    if len(args) != 2 or not all(isinstance(a, Tensor) for a in args):
        return False
    w, u = args if id(args[0]) in recorder.watched else args[::-1]
    if id(w) not in recorder.watched or id(u) in recorder.watched or recorder.watched[id(w)].rows is not None:
        return False
    return w.dim() == 1 and u.dim() >= 2 and u.shape[-1] == w.shape[0]


_RULES: dict[str, Callable[[Recorder, Callable, tuple, dict], Tensor | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "dropout": _dropout,
    "mul": _multiply,
    "__rmul__": _multiply,
    "add": _add,
    "__radd__": _add,
}
