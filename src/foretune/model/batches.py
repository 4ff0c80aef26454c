"""A model's outputs and features over many examples, in padded batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foretune.errors import UsageError
from foretune.model.device import examples_a_pass
from foretune.model.encoding import Batch, Encoded
from foretune.model.lost_text import lost_piece
from foretune.model.outputs import Outputs
from foretune.model.padding import one_at_a_time
from foretune.model.readings import Readings
from foretune.shapes import Float64
from foretune.text.example import Example, as_examples

Rows = Sequence[Example | str | Mapping[str, object]]


def batches(outputs: Outputs, rows: Rows, size: int) -> Iterator[tuple[list[int], Batch]]:
    """The rows in batches, the longest first.

    Yields:
        The places of the batch's examples among the rows, and the batch.

    Raises:
        UsageError: no rows, or a size below one.
    """
    yield from _batches(outputs, _encoded(outputs, rows), size)


def _encoded(outputs: Outputs, rows: Rows) -> list[Encoded]:
    return [outputs.encode(example) for example in as_examples(rows)]


def _batches(outputs: Outputs, encoded: Sequence[Encoded], size: int) -> Iterator[tuple[list[int], Batch]]:
    if not encoded or size < 1:
        raise UsageError(
            f"{len(encoded)} examples in batches of {size}; expected at least one, in batches of at least one."
        )
    order = sorted(range(len(encoded)), key=lambda place: -len(encoded[place].ids))
    size = 1 if size > 1 and one_at_a_time(outputs, encoded) else size
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, outputs.collate([encoded[place] for place in places])


@dataclass(frozen=True)
class OutputsAndFeatures:
    """What a model says of some examples as it stands.

    Attributes:
        outputs: pretrained outputs f0.
        features: what the output layer reads: pooled features of a head, the hidden state at an answer's place.
        cut: how many texts were cut to fit.
        unknown: how many texts are mostly tokens that the tokenizer does not know.
        dropped: how many texts have no token of their own.
        same: whether different texts all have the same tokens.
        find_lost: finds, of the texts that the tokenizer reads only in part, the first piece that is lost in each.
        alike: whether different tokens all have the same features, up to rounding.
    """

    outputs: Float64[np.ndarray, "e c"]
    features: Float64[np.ndarray, "e i"]
    cut: int
    unknown: int
    dropped: int = 0
    same: bool = False
    find_lost: Callable[[], tuple[str, ...]] = tuple
    alike: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know of how the texts were read."""
        texts, found = len(self.outputs), []
        if self.cut:
            found.append(f"{self.cut} of {texts} texts were cut to fit; the prompt was kept whole.")
        if self.unknown:
            found.append(
                f"{self.unknown} of {texts} texts are mostly tokens that the tokenizer does not know, so the model cannot "
                "tell them apart. Check that tokenizer, model and language of the texts belong together."
            )
        if self.dropped:
            found.append(
                f"{self.dropped} of {texts} texts have no token of their own: the tokenizer drops all of their characters, "
                "so the model cannot tell them apart. Check that tokenizer, model and language of the texts belong "
                "together."
            )
        elif self.same:
            found.append(
                f"All {texts} texts have the same tokens, though they differ: the tokenizer drops what tells them apart. "
                "Check that tokenizer, model and language of the texts belong together, and that no text is cut too short."
            )
        lost = self.find_lost()
        if lost:
            found.append(
                f"{len(lost)} of {texts} texts hold pieces that the tokenizer does not know or drops, such as "
                f"{lost[0]!r}, so the model does not read these pieces."
            )
        if self.alike:
            zero = "" if self.features.any() else ", all zero"
            found.append(
                f"All {texts} texts have the same features{zero}, so the output layer cannot tell them apart. Check "
                "that the weights are those of a trained model."
            )
        return tuple(found)


_ROUNDING = 1e-5
"""The share of the largest number by which equal features may differ."""


def constant(values: Float64[np.ndarray, "e i"]) -> bool:
    """Whether all rows are the same, up to rounding."""
    return bool(np.ptp(values, axis=0).max() <= _ROUNDING * np.abs(values).max())


def outputs_and_features(
    outputs: Outputs,
    rows: Rows,
    batch: int | None = None,
    done: Callable[[int, int], None] = lambda *_: None,
    known: Readings | None = None,
) -> OutputsAndFeatures:
    """The model's outputs and features.

    Args:
        outputs: the model as a function.
        rows: examples in any order.
        batch: examples per forward pass; as many as suit the device when left out.
        done: called with the number of examples finished and of all.
        known: what the model has said before; it runs on the other rows only, which are added.

    Raises:
        UsageError: no rows, or a batch size below one.
        NonFiniteError: infinite or undefined outputs or features, with the module where they start.
    """
    examples = as_examples(rows)
    encoded = _encoded(outputs, examples)
    known = known or Readings(outputs)
    new = [place for place, example in enumerate(examples) if example not in known]
    finished = len(examples) - len(new)
    size = examples_a_pass(outputs.lm.device) if batch is None else batch
    for places, part in _batches(outputs, [encoded[place] for place in new], size) if new or not examples else ():
        with torch.no_grad():
            known.forward(part, [examples[new[place]] for place in places])
        finished += len(places)
        done(finished, len(encoded))
    texts = {(example.text, example.text2) for example in examples}
    read = [
        f"{example.text} {example.text2 or ''}"
        for example, item in zip(examples, encoded, strict=True)
        if not (item.dropped or item.mostly_unknown)
    ]
    f0, hidden = known.of(examples)
    return OutputsAndFeatures(
        f0,
        hidden,
        cut=sum(item.cut for item in encoded),
        unknown=sum(item.mostly_unknown for item in encoded),
        dropped=sum(item.dropped for item in encoded),
        same=len(texts) > 1 and len({item.ids for item in encoded}) == 1,
        find_lost=lambda: tuple(filter(None, (lost_piece(outputs.lm.tokenizer, text) for text in read))),
        alike=len({item.ids for item in encoded}) > 1 and constant(hidden),
    )
