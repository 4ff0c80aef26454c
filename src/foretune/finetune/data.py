"""Labelled examples as a trainer reads them: encoded once, padded by batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.utils.data import Dataset

from foretune.errors import DataError
from foretune.model.encoding import Batch, Encoded
from foretune.model.fingerprint import versions_of
from foretune.model.outputs import Outputs
from foretune.text.example import Example
from foretune.text.task import Split, Task


@dataclass(frozen=True)
class LabelledText:
    """One example as token ids, and its class number."""

    encoded: Encoded
    label: int


class Encodings(Dataset[LabelledText]):
    """Examples of a task as a model reads them."""

    def __init__(self, outputs: Outputs, task: Task, examples: Sequence[Example]) -> None:
        self.labels = task.targets(examples)
        self.encoded = [outputs.encode(example) for example in examples]

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.labels)

    @property
    def rows(self) -> list[list[object]]:
        """What is read of each example, and its label, in one list."""
        return [[*item.numbers, label] for item, label in zip(self.encoded, self.labels, strict=True)]

    def __getitem__(self, place: int) -> LabelledText:
        """One of them."""
        return LabelledText(self.encoded[place], self.labels[place])


@dataclass(frozen=True)
class EncodedSplit:
    """The three parts of a split."""

    train: Encodings
    validation: Encodings
    test: Encodings


def encoded_split(outputs: Outputs, task: Task, split: Split) -> EncodedSplit:
    """A split as a model reads it.

    Raises:
        DataError: nothing to train on, or to choose a checkpoint by.
    """
    for name in ("train", "validation"):
        if not getattr(split, name):
            raise DataError(f"The split has no {name} examples; fine-tuning needs some. Use task.few_shot(rows, k=16).")
    return EncodedSplit(*(Encodings(outputs, task, part) for part in (split.train, split.validation, split.test)))


class Collator:
    """Pads labelled texts to one batch."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def __call__(self, items: Sequence[LabelledText]) -> Batch:
        """`input_ids`, `attention_mask` and the like, `position` and `labels`."""
        batch = self._outputs.collate([item.encoded for item in items])
        labels = torch.tensor([item.label for item in items], device=batch["position"].device)
        return {**batch, "labels": labels}


def data_hash(rows: Sequence[object]) -> str:
    """A hash of examples, each as plain values that JSON holds."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def split_identity(task: Task, split: Split) -> dict[str, object]:
    """Everything of a task's data that determines results: labels, metric, every text, and versions."""
    parts = {
        name: data_hash([asdict(example) for example in getattr(split, name)])
        for name in ("train", "validation", "test")
    }
    versions = versions_of("torch", "transformers", "peft")
    return {"labels": list(task.labels), "metric": task.metric, **parts, "versions": versions}
