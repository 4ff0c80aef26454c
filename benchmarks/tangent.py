r"""What a change of the weights does to the features of a BERT, to first order, from activations that are kept.

    dphi(x) = J(W) dW,    each linear layer y = W x + b:  dy = W dx + dW x

The activations of a frozen model never change: one pass over all rows keeps them, token by token and without pads. Then
dphi is a linear network in dW, half the work of forward mode, which passes the activations again, and the gradient by dW
goes back through it. With the scores S = q k' / sqrt(size of a head):

    attention     P = softmax(S),  dP = P (dS - sum(P dS)),  dc = dP v + P dv
    layer norm    dy = gain / sigma (dx - mean(dx) - x^ mean(x^ dx)),  x^ = (x - mean(x)) / sigma
    gelu          dy = (Phi(x) + x phi(x)) dx

For models whose layers are those of BERT, with gelu and a head on mean features.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foretune.model.batches import batches
from foretune.model.encoding import Batch
from foretune.model.outputs import Outputs, base_of, body_of
from foretune.shapes import Float
from foretune.text.example import Example

Change = Callable[[Tensor], Tensor]
"""What a change of a layer's weight adds to its outputs: x -> dW x."""
QUERY, KEY, VALUE = (f"attention.self.{name}" for name in ("query", "key", "value"))
DENSE, NORM, WIDE, OUT, LAST = (
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
"""The modules of a layer, in their order."""


@dataclass(frozen=True)
class _Places:
    """Where the tokens of a batch are: `kept` among all that are kept, `padded` in the batch; tokens of each row."""

    kept: Tensor
    padded: Tensor
    lengths: Tensor

    def pad(self, x: Float[Tensor, "s i"]) -> Float[Tensor, "n t i"]:
        """The tokens as a padded batch."""
        n, t = len(self.lengths), int(self.lengths.max())
        return x.new_zeros(n * t, x.shape[1]).index_copy(0, self.padded, x).view(n, t, -1)

    def heads(self, x: Float[Tensor, "s i"], count: int) -> Float[Tensor, "n h t k"]:
        """The tokens as a padded batch, head by head."""
        return self.pad(x).unflatten(2, (count, -1)).transpose(1, 2)

    def tokens(self, x: Float[Tensor, "n h t k"]) -> Float[Tensor, "s i"]:
        """The tokens of a padded batch of heads."""
        return x.transpose(1, 2).flatten(2).flatten(0, 1)[self.padded]


class KeptBert:
    """A frozen BERT with its activations on some rows; see the module.

    Args:
        outputs: a head on mean features; adapters of the model belong to its weights.
        rows: all that will be asked for.
    """

    @torch.no_grad()
    def __init__(self, outputs: Outputs, rows: Sequence[Example]) -> None:
        body: Any = body_of(base_of(outputs.module.model))
        self.count, self.layers = body.config.num_attention_heads, len(body.encoder.layer)
        modules = {name: body.get_submodule(name) for i in range(self.layers) for name in names_of(i)}
        self.weights = {name: _weight(module) for name, module in modules.items()}
        self.x: dict[str, Tensor] = {}
        self.y: dict[str, Tensor] = {}
        self.places: dict[tuple[int, ...], tuple[int, int]] = {}
        self.features = self._passed(outputs, modules, rows)
        for name, module in modules.items():
            x, y = self.x[name], self.y[name]
            if "LayerNorm" in name:  # the normed inputs, and what they were divided by
                self.y[name] = (x.var(1, correction=0, keepdim=True) + module.eps).rsqrt()
                self.x[name] = (x - x.mean(1, keepdim=True)) * self.y[name]
            elif name.endswith(WIDE):  # the slope of gelu
                self.y[name] = torch.special.ndtr(y) + y * torch.exp(-y * y / 2) / math.sqrt(2 * math.pi)
            elif not name.endswith((QUERY, KEY, VALUE)):
                del self.y[name]

    def _passed(self, outputs: Outputs, modules: Mapping[str, nn.Module], rows: Sequence[Example]) -> Tensor:
        """The features of all rows; inputs and outputs of every module are kept."""
        seen: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        mask, found, count = torch.zeros(0, dtype=torch.bool), [], 0
        parts = [batch for _, batch in batches(outputs, rows, 32)]  # before any hook: it tries the model

        def watching(name: str) -> Callable[..., None]:
            return lambda _module, args, out: seen[name].append((args[0][mask], out[mask]))

        handles = [module.register_forward_hook(watching(name)) for name, module in modules.items()]
        for batch in parts:
            mask = batch["attention_mask"].bool()
            found.append(outputs.logits_and_features(batch)[1])
            for ids in _ids(batch):
                self.places[ids] = (len(self.places), count)
                count += len(ids)
        for handle in handles:
            handle.remove()
        for name in modules:
            self.x[name], self.y[name] = (torch.cat(each) for each in zip(*seen.pop(name), strict=True))
        return torch.cat(found)

    def of(self, batch: Batch, changes: Mapping[str, Change]) -> tuple[Float[Tensor, "n i"], Float[Tensor, "n i"]]:
        """The features of a batch of the rows, and their change.

        Args:
            batch: of rows that are kept.
            changes: module -> the change of its weight.
        """
        rows = [self.places[ids] for ids in _ids(batch)]
        lengths = batch["attention_mask"].sum(1)
        most = int(lengths.max())
        spans = [(start, int(length)) for (_, start), length in zip(rows, lengths, strict=True)]
        at = _Places(
            torch.cat([torch.arange(start, start + length) for start, length in spans]),
            torch.cat([torch.arange(row * most, row * most + length) for row, (_, length) in enumerate(spans)]),
            lengths,
        )
        moved: Tensor | None = None
        for number in range(self.layers):
            moved = self._through(number, moved, changes, at)
        phi = self.features[[row for row, _ in rows]]
        return phi, torch.zeros_like(phi) if moved is None else at.pad(moved).sum(1) / lengths[:, None]

    def _through(self, number: int, moved: Tensor | None, changes: Mapping[str, Change], at: _Places) -> Tensor | None:
        """The change of a layer's outputs; None for none."""
        query, key, value, dense, norm, wide, out, last = names_of(number)

        def linear(name: str, dx: Tensor | None) -> Tensor | None:
            own = changes.get(name)
            passed = None if dx is None else dx @ self.weights[name].T
            return _sum(passed, None if own is None else own(self.x[name][at.kept]))

        def normed(name: str, dx: Tensor | None) -> Tensor | None:
            if dx is None:
                return None
            x, by = self.x[name][at.kept], self.y[name][at.kept]
            return self.weights[name] * by * (dx - dx.mean(1, keepdim=True) - x * (x * dx).mean(1, keepdim=True))

        heads = [self.y[name] for name in (query, key, value)]
        moved_heads = [linear(name, moved) for name in (query, key, value)]
        between = normed(norm, _sum(moved, linear(dense, self._attended(heads, moved_heads, at))))
        widened = linear(wide, between)
        widened = None if widened is None else self.y[wide][at.kept] * widened
        return normed(last, _sum(between, linear(out, widened)))

    def _attended(self, kept: Sequence[Tensor], moved: Sequence[Tensor | None], at: _Places) -> Tensor | None:
        """The change of what the heads read."""
        if all(each is None for each in moved):
            return None
        q, k, v = (at.heads(each[at.kept], self.count) for each in kept)
        dq, dk, dv = (None if each is None else at.heads(each, self.count) for each in moved)
        by, pads = 1 / math.sqrt(q.shape[-1]), torch.arange(q.shape[2]) >= at.lengths[:, None]
        share = torch.softmax((by * q @ k.mT).masked_fill(pads[:, None, None], -math.inf), -1)
        ds = _sum(None if dq is None else by * dq @ k.mT, None if dk is None else by * q @ dk.mT)
        found = None if ds is None else (share * (ds - (share * ds).sum(-1, keepdim=True))) @ v
        found = _sum(found, None if dv is None else share @ dv)
        return None if found is None else at.tokens(found)


def names_of(number: int) -> list[str]:
    """The modules of a layer by their names in the body."""
    return [f"encoder.layer.{number}.{name}" for name in (QUERY, KEY, VALUE, DENSE, NORM, WIDE, OUT, LAST)]


def _weight(module: Any) -> Tensor:
    """The weight of a module, with that of its adapter."""
    found = module.weight.detach()
    return found + module.get_delta_weight("default").detach() if hasattr(module, "lora_A") else found


def _ids(batch: Batch) -> list[tuple[int, ...]]:
    """The tokens of every row."""
    return [
        tuple(ids[: int(length)].tolist())
        for ids, length in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
    ]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what there is."""
    return b if a is None else a if b is None else a + b
