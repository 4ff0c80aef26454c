"""What a forecast needs besides the kernel: labels, pretrained outputs and features of every example of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foretune.errors import DataError
from foretune.experiment.seen import SeenOutputs, kept_seen
from foretune.model.batches import outputs_and_features
from foretune.model.head import HeadLogits
from foretune.model.readings import Readings
from foretune.shapes import Float64, Int
from foretune.text.example import Example
from foretune.text.split import Split
from foretune.text.task import Task

_STARTS = {
    "": ("without training", "zero-shot"),
    "probed": ("for the head of linear probing that it starts from", "head of linear probing, as it starts"),
    "drawn": ("for the random head that it starts from", "random head, as it starts"),
}
"""What the outputs before the simulated training are called: in a sentence, and as a row."""


@dataclass(frozen=True)
class Inputs:
    """Labels, outputs and features; examples are ordered train, validation, test.

    Attributes:
        y: class numbers of the examples.
        f0: pretrained outputs of the examples.
        features: what the output layer reads.
        n_train, n_validation: how many examples of each come first.
        n_classes: number of labels.
        sizes: parameter name -> number of entries.
        metric: `accuracy`, `f1` or `matthews`.
        warnings: about the data.
        warm_up: steps of real training (`finetune.warm_up`) before outputs, features and kernels were taken.
        head: start of a classification head, `probed`, or `drawn` at random; empty where words answer.
        forward_seconds: seconds that a forward pass took for an example; not a number where nobody knows.
    """

    y: Int[np.ndarray, " e"]
    f0: Float64[np.ndarray, "e c"]
    features: Float64[np.ndarray, "e i"]
    n_train: int
    n_validation: int
    n_classes: int
    sizes: dict[str, int]
    metric: str
    warnings: tuple[str, ...] = ()
    warm_up: int = 0
    head: str = ""
    forward_seconds: float = float("nan")

    @property
    def start(self) -> str:
        """What the model is before the simulated training: `without training`, or after what came before it."""
        if self.warm_up:
            return f"after the {self.warm_up} warm-up steps alone"
        return _STARTS[self.head][0]

    @property
    def started(self) -> str:
        """A name for the outputs before the simulated training."""
        if self.warm_up:
            return f"after {self.warm_up} warm-up steps"
        return _STARTS[self.head][1]


def forecast_inputs(
    known: Readings,
    task: Task,
    split: Split,
    done: Callable[[int, int], None] = lambda *_: None,
    file: Path | None = None,
) -> Inputs:
    """What the model says of a split; it runs forward over what nobody has read before.

    Args:
        known: what the model has said before, and what it says now.
        task: labels and metric.
        split: few-shot data.
        done: called with the number of examples finished and of all.
        file: keeps outputs and features, and is read where it is there.

    Raises:
        DataError: there are no test examples.
        StorageError: the file is damaged or cannot be written.
    """
    refuse_untested(split)
    examples, outputs = [*split.train, *split.validation, *split.test], known.outputs
    found = kept_seen(file, lambda: _seen(known, examples, done))
    return Inputs(
        y=np.array(task.targets(examples)),
        f0=found.outputs,
        features=found.features,
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_classes=len(task.labels),
        sizes={name: tensor.numel() for name, tensor in outputs.parameters().items()},
        metric=task.metric,
        warnings=found.notes,
        head=("drawn" if outputs.drawn else "probed") if isinstance(outputs, HeadLogits) else "",
        forward_seconds=found.forward_seconds,
    )


def refuse_untested(split: Split) -> None:
    """See that there are examples for the test.

    Raises:
        DataError: there are none.
    """
    if not split.test:
        raise DataError(
            "No test examples are left beside training and validation. Use a smaller --k or --n, or add rows."
        )


def _seen(known: Readings, examples: list[Example], done: Callable[[int, int], None]) -> SeenOutputs:
    found = outputs_and_features(known.outputs, examples, done=done, known=known)
    return SeenOutputs(found.outputs, found.features, found.notes, known.forward_seconds)
