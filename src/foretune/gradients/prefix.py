"""The layers in front of all wanted parameters: what they make of a batch is kept, so that a batch runs through them once.

A kernel whose factors do not fit into memory captures columns again for every tile of rows. Where only the last layers
are wanted, most of each of these passes is the same as before: the hidden states that enter the first wanted layer. With
them at hand the layers in front are passed by. All the rest of the model runs as ever (masks and positions are made anew,
which is cheap), on the same batch, so that the numbers are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foretune.gradients.recorder import tensors_in
from foretune.gradients.uses import NotPerExampleError
from foretune.shapes import Float

LEAST = 0.5
"""Share of a list's layers that must stand in front: for fewer, the memory is worth more than the time."""


class PrefixError(Exception):
    """A model whose layers in front cannot be passed by: outputs differ from those of the whole model."""


def prefix_of(module: nn.Module, wanted: Collection[Tensor]) -> Prefix | None:
    """The layers of a model that stand in front of all wanted parameters, if these are half of its layers or more.

    Args:
        module: the model.
        wanted: some of its parameters.
    """
    ids = {id(tensor) for tensor in wanted}
    best: Prefix | None = None
    for layers in _outermost_lists(module):
        first = next((k for k, layer in enumerate(layers) if any(id(p) in ids for p in layer.parameters())), 0)
        found = Prefix(layers[:first], layers[first])
        if first >= LEAST * len(layers) and (best is None or found.weight > best.weight):
            best = found
    return best


def _outermost_lists(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The lists of layers of a model, none inside of another's layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            if len(child):
                yield list(child)
        else:
            yield from _outermost_lists(child)


@dataclass(frozen=True)
class _Kept:
    """What enters the first wanted layer in each run of the module, and the outputs in the end."""

    hidden: Sequence[Tensor]
    outputs: Tensor


class Prefix:
    """Layers in front, and the hidden states behind them of batches that have been seen.

    Args:
        layers: in front, in order.
        first: the layer behind them, the first with a wanted parameter.

    Attributes:
        room: bytes that may be kept.
        used: bytes that are kept.
        usable: False once it has turned out that the layers cannot be passed by.
    """

    def __init__(self, layers: Sequence[nn.Module], first: nn.Module) -> None:
        self.layers, self.first = layers, first
        self.room, self.used, self.usable = 0, 0, True
        self._kept: dict[tuple[int, ...], _Kept] = {}
        self._forms: list[int | None] = [None] * len(layers)

    @property
    def weight(self) -> int:
        """Numbers in the layers in front."""
        return sum(parameter.numel() for layer in self.layers for parameter in layer.parameters())

    def __contains__(self, batch: tuple[int, ...]) -> bool:
        """Whether the hidden states of a batch are kept."""
        return batch in self._kept

    def limit(self, room: int) -> None:
        """Keep no more than some bytes; more than that is forgotten."""
        self.room = room
        if self.used > room:
            self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self.used = 0

    def through(self, batch: tuple[int, ...], run: Callable[[], Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
        """The model's outputs for a whole batch; the hidden states are kept if there is room.

        Args:
            batch: names it.
            run: the forward pass.
        """
        if not self.usable or self.used >= self.room:
            return run()
        hidden: list[Tensor] = []
        with ExitStack() as hooks:
            for number, layer in enumerate(self.layers):
                hooks.callback(layer.register_forward_hook(partial(self._note_form, number)).remove)
            hooks.callback(self.first.register_forward_pre_hook(partial(self._keep, hidden), with_kwargs=True).remove)
            outputs = run()
        size = sum(each.numel() * each.element_size() for each in hidden)
        if self.usable and hidden and self.used + size <= self.room:
            self._kept[batch] = _Kept(hidden, outputs.detach().clone())
            self.used += size
        return outputs

    def past(self, batch: tuple[int, ...], run: Callable[[], Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
        """The model's outputs for a batch that is kept, without its layers in front.

        Args:
            batch, run: see `through`; the pass is on the same batch.

        Raises:
            PrefixError: the outputs are not those of the whole model; nothing is kept from then on.
        """
        kept = self._kept[batch]
        with ExitStack() as changed:
            for layer, form in zip(self.layers, self._forms, strict=True):
                changed.enter_context(_passing(layer, form))
            given = iter(kept.hidden)
            hook = self.first.register_forward_pre_hook(
                lambda _, a, k: _with_hidden(next(given), a, k), with_kwargs=True
            )
            changed.callback(hook.remove)
            outputs = self._tried(run)
        if not torch.allclose(outputs.detach(), kept.outputs, rtol=0, atol=0, equal_nan=True):
            self._give_up()
            raise PrefixError
        return outputs

    def _tried(self, run: Callable[[], Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
        """The outputs; a model that cannot compute them so is run whole, where an error of its own comes again."""
        try:
            return run()
        except (torch.OutOfMemoryError, NotPerExampleError):
            raise
        except Exception as error:  # it misses what a layer in front leaves elsewhere
            self._give_up()
            raise PrefixError from error

    def _keep(self, hidden: list[Tensor], _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first wanted layer: keep what enters it, unless the graph has begun already."""
        enters = args[0] if args else kwargs.get("hidden_states")
        begun = any(tensor.requires_grad for tensor in tensors_in((args, kwargs)))
        if begun or not isinstance(enters, Tensor):
            self._give_up()
        else:
            hidden.append(enters.detach().clone())

    def _note_form(self, number: int, _layer: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        """What a layer in front returns: hidden states alone, or first in a tuple, whose others are left out later."""
        if isinstance(output, Tensor):
            self._forms[number] = None
        elif isinstance(output, tuple) and isinstance(output[0], Tensor):
            self._forms[number] = len(output)
        else:
            self._give_up()

    def _give_up(self) -> None:
        self.usable = False
        self._forget()


def _with_hidden(
    hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments with other hidden states, which it may overwrite."""
    return ((hidden.clone(), *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden.clone()})


@contextmanager
def _passing(layer: nn.Module, form: int | None) -> Iterator[None]:
    """Let a layer return what enters it."""

    def forward(*args: Any, **kwargs: Any) -> object:
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if form is None else (hidden, *[None] * (form - 1))

    own = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own
