r"""The operations that a parameter can go into, and the gradient factor of each.

    F.linear(x, W, b)                Products(x, g), Dense(sum_t g)
    x @ W, torch.einsum              Products(x, g)                   Falcon's layers
    torch.addmm(b, x, W)             Products(x, g)                   GPT-2's Conv1D
    F.linear(x, W[rows], b[rows])    RowFactor(rows, sum_t g x)       label words of an output matrix
    F.linear(x, W[e]), x @ W[e]      Products(x, g, group=e)          expert e of a 3-D expert weight
    F.embedding(ids, W)              RowFactor(ids, g)
    F.layer_norm, F.rms_norm         Dense(sum_t g * normalised x), Dense(sum_t g)
    F.layer_norm(W), F.dropout(W)    RowFactor(all rows, g)           a table as data: DeBERTa's relative positions
    w * u + b                        Dense(sum_t g * u), Dense(sum_t g)   norms written out; (1 + w) * u too

A rule runs the call and returns its result, or None when it does not cover the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foretune.gradients.factors import Dense, Factor, Products, RowFactor
from foretune.gradients.uses import Derivatives, NotPerExampleError, Rule, Watched

if TYPE_CHECKING:
    from foretune.gradients.recorder import Recorder


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _name(*watched: Watched | None) -> str:
    return next(item.name for item in watched if item is not None)


def _products(
    recorder: Recorder, weight: Watched | None, bias: Watched | None, x: Tensor, *, turned: bool = False
) -> Rule:
    """Of `y = x W^T + b`; with `turned`, of `y = x W + b`."""
    held = recorder.held(x)  # (n, t, i)

    def factors(g: Derivatives) -> list[tuple[str, Factor]]:
        found: list[tuple[str, Factor]] = []
        dtype = torch.promote_types(held.dtype, g[0].dtype)  # autocast, or a layer in a precision of its own
        if weight is not None and weight.rows is not None:
            values = torch.stack([each.mT.to(dtype) @ held.to(dtype) for each in g], dim=1)  # (n, c, w, i)
            found.append((weight.name, RowFactor(weight.rows.expand(len(values), -1), values)))
        elif weight is not None:
            group = None if weight.slice is None else torch.full(held.shape[:2], weight.slice, device=held.device)
            x, derivatives = held.to(dtype), tuple(each.to(dtype) for each in g)
            found.append((weight.name, Products(x, derivatives, group, turned=turned != weight.turned)))
        if bias is not None and bias.rows is not None:
            values = torch.stack([each.sum(1) for each in g], 1).unsqueeze(-1)  # (n, c, w, 1)
            found.append((bias.name, RowFactor(bias.rows.expand(len(held), -1), values)))
        elif bias is not None:
            found.append((bias.name, Dense.summed(g)))
        return found

    return factors


def _table(recorder: Recorder, w: Tensor) -> Tensor | None:
    """A parameter that an operation takes as data: all of its rows, looked up; None where this is not what it is."""
    watched = recorder.watched[id(w)]
    if watched.name in recorder.skip:
        return w
    if not watched.is_whole or w.dim() != 2:
        return None
    if recorder.n > 1:
        raise NotPerExampleError(f"{watched.name} is data that all {recorder.n} examples share")
    ids = torch.arange(len(w), device=w.device)[None]  # (1, t)
    if id(w) not in recorder.tables:
        recorder.tables[id(w)] = recorder.note(
            w.clone(), lambda g: [(watched.name, RowFactor(ids, torch.stack(g, 1)))], watched.name
        )
    return recorder.tables[id(w)]


def _linear(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    x, w, b = (_argument(args, kwargs, place, name) for place, name in enumerate(("input", "weight", "bias")))
    return _linear_use(recorder, lambda: func(*args, **kwargs), (x, w, b), turned=False)


def _addmm(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    if kwargs or len(args) != 3:
        return None
    return _linear_use(recorder, lambda: func(*args), (args[1], args[2], args[0]), turned=True)


def _matmul(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    if kwargs or len(args) != 2:
        return None
    return _linear_use(recorder, lambda: func(*args), (args[0], args[1], None), turned=True)


def _einsum(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    """Of two operands `x[..., i]` and `W[o, i]` or `W[i, o]`, with the result `[..., o]`."""
    if kwargs or not isinstance(args[0], str):
        return None
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    inputs, _, result = args[0].replace(" ", "").partition("->")
    specs = dict(zip(inputs.split(","), operands, strict=False))
    if len(operands) != 2 or len(specs) != 2:
        return None
    w_spec = next((spec for spec, tensor in specs.items() if id(tensor) in recorder.watched), "")
    x_spec = next(spec for spec in specs if spec != w_spec)
    shared = x_spec[-1:]
    free = w_spec.replace(shared, "")
    if len(w_spec) != 2 or len(free) != 1 or free in x_spec or result != x_spec[:-1] + free:
        return None
    turned = w_spec[0] == shared
    return _linear_use(recorder, lambda: func(*args), (specs[x_spec], specs[w_spec], None), turned=turned)


def _linear_use(
    recorder: Recorder, call: Callable[[], Tensor], given: tuple[Tensor, Tensor, Tensor | None], *, turned: bool
) -> Tensor | None:
    """A use of a weight, and perhaps of a bias, by a linear layer."""
    x, w, b = given
    if id(x) in recorder.watched or w.dim() != 2 or x.dim() < 2:
        return None  # the parameter is the data of this layer
    weight, bias = recorder.lookup(w), recorder.lookup(b)
    if weight is None and bias is None:
        return call()
    if bias is not None and (bias.slice is not None or b is None or b.dim() != 1):
        return None
    if weight is not None and weight.rows is not None and turned:
        return None
    if recorder.n > 1 and weight is not None and weight.slice is not None:
        raise NotPerExampleError(f"{weight.name} sees the tokens routed to it, in an order of its own")
    rule = _products(recorder, weight, bias, x, turned=turned)
    return recorder.note(call(), rule, _name(weight, bias))


def _embedding(recorder: Recorder, func: Callable, args: tuple, kwargs: dict) -> Tensor | None:
    ids, w, padding = args[0], _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 2, "padding_idx")
    if func is not torch.nn.functional.embedding:
        return None  # torch.embedding takes the weight first
    weight = recorder.lookup(w)
    if weight is None:
        return func(*args, **kwargs)
    if not weight.is_whole or _argument(args, kwargs, 5, "scale_grad_by_freq", False):
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
            (
                weight.name,
                RowFactor(looked_up, values if dead is None else values.masked_fill(dead[:, None, :, None], 0)),
            )
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


RULES: dict[str, Callable[[Recorder, Callable, tuple, dict], Tensor | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "einsum": _einsum,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "dropout": _dropout,
    "mul": _multiply,
    "__rmul__": _multiply,
    "add": _add,
    "__radd__": _add,
}
