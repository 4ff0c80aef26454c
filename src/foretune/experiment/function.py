"""A language model as the function that answers a question: label words after a prompt, or a classification head.

A head starts at random, or from the linear-probing solution: Malladi et al. 2023, Table 7, start standard fine-tuning
there.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from foretune.analysis.probe import head_probe
from foretune.experiment.setting import Question
from foretune.model.answer import AnswerLogits
from foretune.model.batches import outputs_and_features
from foretune.model.head import HeadLogits
from foretune.model.load import LanguageModel
from foretune.model.outputs import Outputs
from foretune.model.readings import Readings
from foretune.text.split import Split
from foretune.text.task import Task


def asked_outputs(question: Question, lm: LanguageModel, task: Task, seed: int) -> Outputs:
    """The model as a function of its parameters that answers a question; a head's weights are random.

    Args:
        question: what answers.
        lm: the model.
        task: labels, prompt and words.
        seed: of a head that stays random.

    Raises:
        ModelError, DataError, UsageError: the model, the task and the question do not fit.
    """
    difference = question.difference and len(task.labels) == 2
    if question.output == "prompt" or (question.output == "auto" and lm.kind != "encoder"):
        return AnswerLogits(
            lm, task, difference=difference, max_length=question.max_length, first_piece=question.first_piece
        )
    question.refuse_prompt(f"{lm.name} has no words to answer with")
    usual = "last" if lm.left_to_right else "mean"
    if question.pooling is None and lm.pooling not in (None, usual):
        warnings.warn(
            f"{lm.name} was trained with {lm.pooling} pooling (modules.json), but its head reads {usual} here. Use "
            f"--pooling {lm.pooling} to read it as it was trained, or --pooling {usual} to keep this without the note.",
            stacklevel=2,
        )
    return HeadLogits(
        lm,
        len(task.labels),
        question.pooling or usual,
        seed=0 if question.head == "probe" else seed,
        difference=difference,
        max_length=task.max_length if question.max_length is None else question.max_length,
    )


def probed(head: HeadLogits, task: Task, split: Split, known: Readings | None = None) -> HeadLogits:
    """The same with the head that solves linear probing on the training examples.

    The regularisation strength is chosen on validation.

    Args:
        head: any head of the task's classes.
        task: labels and metric.
        split: training and validation examples are read.
        known: what the model has said before, and what it says now.

    Raises:
        DataError, NonFiniteError: see `head_probe`.
    """
    examples = [*split.train, *split.validation]
    features = outputs_and_features(head, examples, known=known).features
    y, n = np.array(task.targets(examples)), len(split.train)
    probe = head_probe(features[:n], y[:n], features[n:], y[n:], task.metric)
    return with_weights(head, torch.from_numpy(probe.weight), torch.from_numpy(probe.bias))


def with_weights(head: HeadLogits, weight: Tensor, bias: Tensor) -> HeadLogits:
    """The same with these weights of the head."""
    return HeadLogits(
        head.lm,
        head.n_classes,
        head.pooling,
        weight=weight,
        bias=bias,
        difference=head.difference,
        max_length=head.encode.limit,
    )


def single_output(outputs: Outputs, seed: int) -> Outputs:
    """The same with one random output instead of a head of several classes: its gradients know no class.

    Args:
        outputs: the model as a function; label words answer as they do.
        seed: of the head's weights.
    """
    if not isinstance(outputs, HeadLogits) or outputs.n_outputs == 1:
        return outputs
    limit = outputs.encode.limit
    return HeadLogits(outputs.lm, 2, outputs.pooling, seed=seed, difference=True, max_length=limit)
