"""Examples in, gradient factors out: batching by length, one example at a time where a model needs it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from foretune.errors import NonFiniteError, UsageError
from foretune.gradients.capture import Pass, UnruledError, capture
from foretune.gradients.factors import FactorBatch
from foretune.gradients.footprint import footprint
from foretune.gradients.prefix import PrefixError, prefix_of
from foretune.gradients.uses import NotPerExampleError
from foretune.model.encoding import Batch, Encoded
from foretune.model.outputs import Outputs
from foretune.model.padding import one_at_a_time
from foretune.model.readings import Readings
from foretune.shapes import Float
from foretune.text.example import Example

Found = TypeVar("Found")


class GradientSource:
    """The gradient factors of a list of examples, captured on demand.

    Args:
        outputs: the model as a function.
        examples: all examples that will be asked for, by their place in this list.
        names: the parameters wanted, in order.

    Attributes:
        lengths: tokens of each example.
        matrices: weights of linear layers -> whether they are (inputs, outputs).
        single: one example per forward pass, because the model mixes examples, reads padding, or has parameters without
            a rule.
        readings: keeps what the model says of the examples on the way; None where nobody asks.
    """

    readings: Readings | None = None

    def __init__(self, outputs: Outputs, examples: Sequence[Example], names: Sequence[str]) -> None:
        self.outputs = outputs
        parameters = outputs.parameters()
        self.parameters: dict[str, Tensor] = {name: parameters[name] for name in names}
        if any(not tensor.is_floating_point() for tensor in self.parameters.values()):
            raise UsageError("A quantised parameter has no gradient. Load the model in float32 or bfloat16.")
        if any(tensor.is_inference() for tensor in self.parameters.values()):
            raise UsageError(
                "The model's weights were made inside torch.inference_mode(), where tensors have no gradient. Load the "
                "model outside of it."
            )
        self.examples = examples
        self.encoded: list[Encoded] = [outputs.encode(example) for example in examples]
        self.lengths = [len(encoded.ids) for encoded in self.encoded]
        self.direct: frozenset[str] = frozenset()
        self.single = False
        self.matrices = outputs.matrices()
        self._begun: FactorBatch | None = None
        self._prefix = prefix_of(outputs.module, list(self.parameters.values()))

    def capture(
        self, positions: Iterable[int], batch: int, done: Callable[[int], None] = lambda _: None
    ) -> list[FactorBatch]:
        """The factors of the examples at `positions`, in batches of similar length.

        Args:
            positions: places in the list of examples.
            batch: examples per forward pass at most.
            done: called with the number of examples finished, for progress bars.

        Raises:
            NonFiniteError: see `capture`.
            UsageError: a weight of the outputs requires a gradient.
        """
        self._refuse_thawed()
        begun, self._begun = self._begun, None
        ordered = self._ordered(positions)
        batches: list[FactorBatch] = []
        finite: list[tuple[tuple[int, ...], Tensor]] = []
        start = 0
        while start < len(ordered):
            part = self._part(ordered[start:], batch)
            direct = self.direct
            if begun is not None and begun.positions == part:
                batches.append(begun)
            elif (found := self._attempt(part, self._captured)) is not None:
                batches.append(found[0])
                finite.append((part, found[1]))
            else:  # again, one example at a time or with gradients from autograd
                if direct != self.direct:
                    batches, finite, start, begun = [], [], 0, None  # factors of one parameter are of one kind
                continue
            start += len(part)
            done(len(part))
        self._refuse_non_finite(finite, batches)
        return batches

    def first_batch(self, positions: Iterable[int], batch: int) -> FactorBatch:
        """The first batch of `capture(positions, batch)`, which takes it up if it comes next."""
        self._refuse_thawed()
        ordered = self._ordered(positions)
        found = None
        while found is None:
            found = self._attempt(self._part(ordered, batch), self._captured)
        begun, finite = found
        self._refuse_non_finite([(begun.positions, finite)], [])
        self._begun = begun
        return begun

    def one_by_one(self) -> None:
        """Take examples through the model one at a time from now on."""
        self.single, self._begun = True, None

    def _ordered(self, positions: Iterable[int]) -> list[int]:
        """Places, the longest example first."""
        self.single = self.single or one_at_a_time(self.outputs, self.encoded)
        return sorted(positions, key=lambda place: (-self.lengths[place], place))

    def _part(self, ordered: Sequence[int], batch: int) -> tuple[int, ...]:
        """The places that make the next batch."""
        count = 1 if self.single else _batch_that_shapes_can_tell(min(batch, len(ordered)), self.lengths[ordered[0]])
        return tuple(ordered[:count])

    def keep(self, room: int) -> None:
        """Keep what enters the first wanted layer, so that a batch that comes again begins there; the bits are the same.

        Args:
            room: bytes for it; batches for which there is none left are run whole each time. None is kept with 0.
        """
        if self._prefix is not None:
            self._prefix.limit(room)

    @contextmanager
    def keeping(self, room: int) -> Iterator[None]:
        """`keep` for a while."""
        self.keep(room)
        try:
            yield
        finally:
            self.keep(0)

    def kept(self, place: int) -> int:
        """Bytes that are kept of one example by `keeping`; 0 where nothing can be."""
        if self._prefix is None:
            return 0
        with self.keeping(sys.maxsize):
            for _ in range(2):  # where the layers in front cannot be passed by, nothing is kept
                self._attempt((place,), self._captured)
            return self._prefix.used

    @property
    def held_in_front(self) -> int:
        """Bytes that `keeping` holds now."""
        return 0 if self._prefix is None else self._prefix.used

    def footprint(self, place: int) -> tuple[int, int]:
        """Bytes of the factors of one example, and of what lives besides them while they are being computed."""
        self._refuse_thawed()
        self.single = self.single or one_at_a_time(self.outputs, self.encoded)
        weights = self.outputs.module.state_dict()
        found = None
        while found is None:
            found = self._attempt((place,), lambda run: footprint(run, self.parameters, self.direct, weights))
        return found

    def _captured(self, run: Pass) -> tuple[FactorBatch, Tensor]:
        return capture(run, self.parameters, self.direct, self.matrices)

    def _refuse_non_finite(self, finite: Sequence[tuple[tuple[int, ...], Tensor]], held: list[FactorBatch]) -> None:
        """See that batches are finite: asked once for all of them, so that a GPU runs ahead of Python until then.

        Args:
            finite: places, and whether what was captured of them is finite.
            held: what was captured; emptied before a batch runs again, for want of memory.

        Raises:
            NonFiniteError: one is not; with the module where it starts.
        """
        if not finite or torch.stack([found for _, found in finite]).all():
            return
        held.clear()
        self.keep(0)  # the whole model is searched
        places = next(places for places, found in finite if not found)
        self._attempt(places, lambda run: capture(run, self.parameters, self.direct, self.matrices, searching=True))
        raise NonFiniteError(
            "The model's outputs or gradients were infinite or undefined, and are not when they are computed again. Set "
            "the model to evaluation (model.eval()), or try dtype float32 or float64."
        )

    def _refuse_thawed(self) -> None:
        """See that no weight requires a gradient: the graph would start there, and what is captured begins behind it.

        Raises:
            UsageError: one does.
        """
        with self.outputs.lock:  # a capture elsewhere may take gradients from autograd just now
            thawed = [name for name, each in self.outputs.module.named_parameters() if each.requires_grad]
        if thawed:
            raise UsageError(
                f"The weight {thawed[0]!r} of outputs.module requires a gradient, and a kernel is computed with frozen "
                "weights, as they were when the outputs were made. Type outputs.module.requires_grad_(False). The "
                "kernel takes what the model itself trains; choose parameters there, or with blocks=."
            )

    def _attempt(self, positions: tuple[int, ...], what: Callable[[Pass], Found]) -> Found | None:
        """What comes of one batch, or None after changing how batches are run."""
        try:
            with torch.inference_mode(False), self.outputs.lock:
                encoded = self.outputs.collate([self.encoded[place] for place in positions])
                return what(Pass(lambda: self._forward(encoded, positions), positions, encoded["input_ids"].shape[1]))
        except NotPerExampleError:
            if self.single:
                raise
            self.single = True
        except PrefixError:
            pass  # the layers in front are run from now on
        except UnruledError as error:
            if error.names <= self.direct:
                raise
            self.single = True
            self.direct |= error.names
            warnings.warn(
                f"No factor rule covers {', '.join(sorted(error.names))}: their gradients come from autograd, exactly, "
                "one example at a time. This is slower.",
                stacklevel=2,
            )
        return None

    def _forward(self, batch: Batch, positions: tuple[int, ...]) -> Float[Tensor, "n c"]:
        if self._prefix is not None and positions in self._prefix:
            return self._prefix.past(positions, lambda: self.outputs.forward(batch))
        if self._prefix is not None:
            return self._prefix.through(positions, lambda: self._read(batch, positions))
        return self._read(batch, positions)

    def _read(self, batch: Batch, positions: Sequence[int]) -> Float[Tensor, "n c"]:
        if self.readings is None:
            return self.outputs.forward(batch)
        return self.readings.forward(batch, [self.examples[place] for place in positions])


def _batch_that_shapes_can_tell(examples: int, tokens: int) -> int:
    """At most `examples`, but never as many as tokens: shapes tell (n, t) from a (query, key) table that examples share."""
    if tokens == 1:
        return 1
    return examples - 1 if examples == tokens else examples
