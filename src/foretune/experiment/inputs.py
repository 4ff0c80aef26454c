"""What a forecast needs besides the kernel: labels, pretrained outputs and features of every example of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foretune.errors import DataError
from foretune.model.batches import outputs_and_features
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.shapes import Float64, Int
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
    outputs: Outputs,
    task: Task,
    split: Split,
    batch: int | None = None,
    done: Callable[[int, int], None] = lambda *_: None,
) -> Inputs:
    """Run the model forward over a split.

    Args:
        outputs: the model as a function.
        task: labels and metric.
        split: few-shot data.
        batch: examples per forward pass; as many as suit the device when left out.
        done: called with the number of examples finished and of all.

    Raises:
        DataError: there are no test examples.
    """
    if not split.test:
        raise DataError(
            "No test examples are left beside training and validation. Use a smaller --k or --n, or add rows."
        )
    examples = [*split.train, *split.validation, *split.test]
    found = outputs_and_features(outputs, examples, batch, done)
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
    )
