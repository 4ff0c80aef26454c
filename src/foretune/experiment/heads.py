"""Standard fine-tuning: a classification head that starts from the linear-probing solution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from foretune.analysis.probe import head_probe
from foretune.model.batches import pretrained
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel
from foretune.text.split import Split
from foretune.text.task import Task


def probed_head(
    lm: LanguageModel,
    task: Task,
    split: Split,
    pooling: str = "mean",
    difference: bool | None = None,
    max_length: int | None = None,
    done: Callable[[int, int], None] = lambda *_: None,
) -> HeadLogits:
    """A head on pooled features whose weights solve linear probing on the training examples.

    Malladi et al. 2023, Table 7, start standard fine-tuning there. The regularisation strength is chosen on validation.

    Args:
        lm: any language model or encoder.
        task: labels and metric.
        split: training and validation examples are read.
        pooling, difference, max_length: see `HeadLogits`.
        done: called with the number of examples finished and of all.

    Raises:
        UsageError, DataError: see `HeadLogits` and `head_probe`.
    """
    classes = len(task.labels)
    plain = HeadLogits(lm, classes, pooling, difference=difference, max_length=max_length)
    features = pretrained(plain, [*split.train, *split.validation], done=done).features
    y, n = np.array(task.targets([*split.train, *split.validation])), len(split.train)
    probe = head_probe(features[:n], y[:n], features[n:], y[n:], task.metric)
    weight, bias = torch.from_numpy(probe.weight), torch.from_numpy(probe.bias)
    return HeadLogits(lm, classes, pooling, weight=weight, bias=bias, difference=difference, max_length=max_length)
