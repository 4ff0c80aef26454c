"""Whether to train at all, as one word for programs and a sentence for readers.

help          the simulated run gains on validation and test examples, and that is more than chance: the interval of the
              gain lies above zero, or that of the fall of the loss, row by row and below that of the outputs before at
              their best temperature; the predicted score (with a prompt that of the simulated run) lies above that before
              training
may           it gains, or that score lies above that before training, and the rest is missing
no            no simulated step lowers the validation loss; or nothing is gained, and the interval excludes `WORTH`
cannot tell   nothing is gained, and the examples are too few to exclude `WORTH`

Validation examples chose the rate and the step, by their loss. Where labels are drawn from the outputs before training, so
that nothing can be gained, `help` comes up in less than 1% of the draws all the same (docs/results/verdict.md).

A program that has to decide reads three words: `go` after help, `no-go` after no, and `cannot tell` after the other two,
in which the data do not carry a decision. `foretune validate` counts how often each is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from foretune.candidates.prediction import Prediction

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

WORTH = 0.01
"""The smallest gain that is worth a run, in units of the score."""

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


def verdict(predicted: Prediction) -> Verdict:
    """The word.

    Args:
        predicted: what training would reach.
    """
    gain, higher = predicted.gain, predicted.higher
    if not predicted.moves:
        return "no"
    if higher and (gain.low > 0 or predicted.by_loss):
        return "help"
    if gain.value > 0 or higher:
        return "may"
    return "no" if gain.high < WORTH else "cannot tell"


def claim(word: Verdict, *, beats_probing: bool | None) -> str:
    """The beginning of a sentence that says so.

    Args:
        word: the verdict on what would be trained.
        beats_probing: false where that is linear probing, since nothing else beats it.
    """
    if beats_probing is False:
        return f"Adapting is not expected to beat linear probing, {_OF_PROBING[word]}"
    return _OF[word]
