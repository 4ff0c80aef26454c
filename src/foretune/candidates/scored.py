"""A candidate's numbers, as they are reported: what the kernel says of it, and how far that can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from foretune.analysis.bounds import Bracket
from foretune.analysis.dynamics import Curves
from foretune.analysis.scores import Score
from foretune.candidates.candidate import Candidate

RATES_ARE_FOR = "full-batch gradient descent on the mean cross-entropy, without momentum"
"""What the learning rates of candidates and of kernels are for.

Of AdamW a kernel says less: its first step moves each parameter by the learning rate in the direction of a sign, and so
the loss by lr ||g||_1, of which a' K a = ||g||_2^2 tells no more than a factor of sqrt(parameters). `candidates.adam` takes
the entries of a block for equally large, where the two agree.
"""


@dataclass(frozen=True)
class CandidateScore:
    """What the kernel says of a candidate.

    Attributes:
        largest: lambda_max of its training kernel.
        condition_number: kappa(K_S + sigma I), sigma = 0.01 lambda_max(K_S).
        risk: ridge risk with this sigma, 0 to 1, between its bounds.
        label_error: share of the variance of the validation labels that regression on the tangent features of the
            blocks leaves (`analysis.label_regression`); of adapters the features of the weights that they stand on.
        validation_loss: smallest validation loss of the simulated runs, nats.
        validation_score: validation score at that point.
        test_loss: test loss at that point, nats.
        score: score on test examples at that point, with a 95% interval.
        learning_rate: learning rate of that run, for what `RATES_ARE_FOR` says.
        steps: number of steps of that run; 0 says that validation prefers the pretrained outputs.
        change: predicted change of the weights over their norm before training.
    """

    largest: float
    condition_number: float
    risk: Bracket
    label_error: float
    validation_loss: float
    validation_score: float
    test_loss: float
    score: Score
    learning_rate: float
    steps: int
    change: float


@dataclass(frozen=True)
class Spread:
    """How much a candidate's criterion varies when the examples are drawn again.

    Attributes:
        low, high: 95% interval of the criterion.
        behind_low, behind_high: 95% interval of how far it lies behind the best candidate on the same resamples.
        over_probing: 95% interval of how far its simulated validation loss lies below that of linear probing there,
            nats; None without a head.
    """

    low: float
    high: float
    behind_low: float
    behind_high: float
    over_probing: tuple[float, float] | None = None

    @property
    def beats_probing(self) -> bool:
        """Whether the candidate is better than linear probing beyond the spread."""
        return self.over_probing is not None and self.over_probing[0] > 0

    @property
    def apart(self) -> bool:
        """Whether the candidate is worse than the best beyond the spread."""
        return self.behind_low > 0


@dataclass(frozen=True)
class ScoredCandidate(Candidate):
    """A candidate with its numbers.

    Attributes:
        score: what the kernel says of it.
        spread: over bootstrap resamples, for the best candidates only.
    """

    score: CandidateScore
    spread: Spread | None = field(default=None)


@dataclass(frozen=True)
class LowestLoss:
    """The smallest validation loss of some runs, and where it was.

    Attributes:
        loss: lowest simulated validation loss, nats.
        steps: step at which the lowest loss was reached.
        learning_rate: learning rate of the run that reached it.
    """

    loss: float
    steps: int
    learning_rate: float


def lowest_loss(runs: Sequence[Curves]) -> LowestLoss:
    """The smallest validation loss; ties go to fewer steps, then to the smaller rate.

    By loss, not by score as in `best_run`: with a few validation examples many runs score the same.
    """
    return LowestLoss(
        *min(
            (float(loss), int(step), run.learning_rate)
            for run in runs
            for loss, step in zip(run.validation_loss, run.steps, strict=True)
        )
    )
