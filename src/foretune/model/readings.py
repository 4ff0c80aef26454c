"""What a model says of examples as it stands: outputs and features, kept from whichever forward pass comes first.

A head that is probed, a forecast, and the pass of a kernel run the same examples forward. Each hands what it has read to
the next, so that an example goes through the model once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foretune.model.encoding import Batch
from foretune.model.finite import non_finite
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.shapes import Float, Float64
from foretune.text.example import Example


class Readings:
    """Outputs and features by example.

    Args:
        outputs: the model as a function; it must not change while these are used.

    Attributes:
        seconds, passed: how long forward passes took, and how many examples went through them.
    """

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.seconds, self.passed = 0.0, 0
        self._read: dict[Example, tuple[np.ndarray, np.ndarray]] = {}

    def __contains__(self, example: Example) -> bool:
        """Whether an example has been read."""
        return example in self._read

    @property
    def forward_seconds(self) -> float:
        """Seconds that a forward pass takes for an example; not a number before the first."""
        return self.seconds / self.passed if self.passed else float("nan")

    def forward(self, batch: Batch, examples: Sequence[Example]) -> Float[Tensor, "n c"]:
        """`outputs.forward`, and what it says is kept.

        Args:
            batch: the examples, encoded.
            examples: those of the batch.

        Raises:
            NonFiniteError: infinite or undefined outputs or features, with the module where they start.
        """
        begun = time.perf_counter()
        logits, features = self.outputs.forward_with_features(batch)
        said, read = (tensor.detach().cpu().double().numpy() for tensor in (logits, features))
        self.seconds += time.perf_counter() - begun
        self.passed += len(examples)
        if not (np.isfinite(said).all() and np.isfinite(read).all()):
            raise non_finite(self.outputs, batch)
        self._read.update(zip(examples, zip(said, read, strict=True), strict=True))
        return logits

    def of(self, examples: Sequence[Example]) -> tuple[Float64[np.ndarray, "e c"], Float64[np.ndarray, "e i"]]:
        """The outputs and the features of examples that have been read."""
        said, read = zip(*(self._read[example] for example in examples), strict=True)
        return np.stack(said), np.stack(read)

    def under(self, outputs: Outputs) -> Readings:
        """The same for other outputs: of another head on the same features nothing has to be read again.

        Args:
            outputs: of the same language model.
        """
        before = self.outputs
        if outputs is before:
            return self
        found = Readings(outputs)
        if not (isinstance(outputs, HeadLogits) and isinstance(before, HeadLogits) and outputs.reads_as(before)):
            return found
        if self._read:
            found.seconds, found.passed = self.seconds, self.passed
            examples = list(self._read)
            read = self.of(examples)[1]
            said = outputs.of_features(torch.from_numpy(read)).cpu().double().numpy()
            found._read.update(zip(examples, zip(said, read, strict=True), strict=True))
        return found
