"""Whether to train at all, as one word for programs and a sentence for readers.

help          the predicted score lies above that before training, and so does its interval
may           the predicted score lies above, its interval does not
no            no simulated step lowers the validation loss, or there is no gain on validation or test examples
cannot tell   a gain on validation examples, none on test examples

A program that has to decide reads three words: `go` after help, `no-go` after no, and `cannot tell` after the other two,
in which the data do not carry a decision. `foretune validate` counts how often each is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from foretune.analysis.scores import Score

Verdict = Literal["help", "may", "no", "cannot tell"]
Decision = Literal["go", "no-go", "cannot tell"]
DECISIONS: Mapping[Verdict, Decision] = {
    "help": "go",
    "may": "cannot tell",
    "no": "no-go",
    "cannot tell": "cannot tell",
}
EXIT_CODES: Mapping[Decision, int] = {"go": 0, "no-go": 3, "cannot tell": 4}
"""What `foretune forecast --exit-code` ends with; 1 and 2 are errors."""

_OF: dict[Verdict, str] = {
    "help": "Fine-tuning should help",
    "may": "Fine-tuning may help",
    "no": "Fine-tuning is not expected to help",
    "cannot tell": "Whether fine-tuning helps cannot be told",
}
_OF_PROBING: dict[Verdict, str] = {
    "help": "which should help",
    "may": "which may help",
    "no": "which is not expected to help",
    "cannot tell": "and whether that helps cannot be told",
}


def verdict(steps: int, predicted: Score, before: Score, validation_gain: float) -> Verdict:
    """The word.

    Args:
        steps: of the simulated run; none lowers the validation loss where it has none.
        predicted, before: test scores with and without training, by one rule.
        validation_gain: of the simulated run, by that rule.
    """
    if steps == 0:
        return "no"
    if predicted.low > before.value:
        return "help"
    if predicted.value > before.value:
        return "may"
    return "cannot tell" if validation_gain > 0 else "no"


def claim(word: Verdict, *, beats_probing: bool | None) -> str:
    """The beginning of a sentence that says so.

    Args:
        word: the verdict on what would be trained.
        beats_probing: false where that is linear probing, since nothing else beats it.
    """
    if beats_probing is False:
        return f"Adapting is not expected to beat linear probing, {_OF_PROBING[word]}"
    return _OF[word]
