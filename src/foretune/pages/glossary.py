"""Words of the pages that not every reader knows, each in a sentence or two."""

from __future__ import annotations

import re

_WORDS = {
    "AdamW": "An optimiser: it scales the step of each weight by the size of its recent gradients.",
    "alignment": "How well a kernel agrees with the labels: 1 is perfect, 0 is none.",
    "batch": "The training examples that one step looks at.",
    "eigenvalue": "The strength of a direction in which training changes the predictions; large ones are learned first.",
    "full tuning": "Training the weights themselves, not adapters beside them.",
    "GD rate": "Learning rate of full-batch gradient descent. It is not the learning rate of AdamW.",
    "gradient": "How the loss would change with each weight.",
    "interval": "The range that holds the true value with the probability that is given, 95% as a rule.",
    "kappa": "Condition number: the largest eigenvalue over the smallest, a small constant added to both. Large means slow "
    "directions.",
    "kernel": "The neural tangent kernel: how much a training step on one example moves the prediction for another.",
    "label error": "Share of the variation of the validation labels that regression on the gradients leaves; smaller is "
    "better.",
    "linear probe": "A linear classifier on the features of the pretrained model, which stays as it is.",
    "linear regime": "As long as the weights move little, a run is described by the kernel before training. The forecast "
    "assumes this.",
    "LoRA": "Low-rank adaptation: two small matrices are trained beside a weight, which stays as it is.",
    "majority label": "Always answering with the most frequent label.",
    "nats": "The unit of the loss: 0.69 is guessing between two labels.",
    "rank": "The size of the small matrices of LoRA: more means more trained parameters.",
    "resampl": "Drawing the examples again, with repetition, to see how far chance could change a number.",
    "risk": "How much of the training labels a kernel cannot fit: 0 is a perfect fit, 1 is none.",
    "validation": "Examples that choose among options. They are neither trained on nor used for the test score.",
    "zero-shot": "The model before any training.",
}
_NAMES = {"resampl": "resampling"}


def glossary(text: str) -> list[tuple[str, str]]:
    """The words that a text uses, with what they mean, in alphabetical order.

    Args:
        text: of a page.
    """
    found = [word for word in _WORDS if re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE)]
    return [(_NAMES.get(word, word), _WORDS[word]) for word in sorted(found, key=str.lower)]
