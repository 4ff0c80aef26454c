"""What to train, why, and what the kernel alone cannot promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.analysis.selection import CorrectedLoss, corrected_loss
from foretune.candidates.baseline import ClassRule
from foretune.candidates.candidate import PROBING
from foretune.candidates.comparison import Comparison
from foretune.candidates.evidence import Pool
from foretune.candidates.prediction import Prediction, prediction
from foretune.candidates.scored import RATES_ARE_FOR, ScoredCandidate
from foretune.candidates.scores import VALIDATION_LOSS, Criterion
from foretune.candidates.verdict import Verdict, verdict
from foretune.experiment.inputs import Inputs

LARGE_CHANGE = 0.05
"""A predicted change of the weights, over their norm, that is worth a warning: a rule of thumb, not a measurement."""
MINIMUM_PER_LABEL = 8


@dataclass(frozen=True)
class Advice:
    """The candidate that comes first, and whether to train it.

    Attributes:
        candidate: with learning rate and steps.
        verdict: `help`, `may`, `no` or `cannot tell`; with a `no` nothing is recommended.
        predicted: predicted score with an interval, and what predicts it.
        adapter: the best LoRA candidate: the recommended one if that is LoRA; None without linear layers.
        probing: linear probing, the head alone; None without a head.
        beats_probing: whether some compared candidate beats it beyond the spread; None where there is nothing to compare.
        expected_loss: its simulated validation loss as it was chosen, and without the luck of the choices behind it.
        reason: why this is advised, in one sentence.
        ties: titles of the compared candidates that the resamples cannot tell from the best.
        regime: what may take the real run out of the linear regime, or make the forecast worthless.
    """

    candidate: ScoredCandidate
    verdict: Verdict
    predicted: Prediction
    adapter: ScoredCandidate | None
    probing: ScoredCandidate | None
    beats_probing: bool | None
    expected_loss: CorrectedLoss
    reason: str
    ties: tuple[str, ...]
    regime: tuple[str, ...]


def advice(compared: Comparison, pool: Pool, rule: ClassRule | None = None) -> Advice:
    """The candidate to train.

    It comes first by the criterion. Where that is full tuning, and a LoRA candidate of fewer parameters
    cannot be told from it, LoRA goes first. Where there is a head, only what beats linear probing beyond the spread is
    worth adapting, and linear probing is recommended where nothing does.

    Args:
        compared: candidates, best first, with spreads.
        pool: their kernels.
        rule: how outputs become classes, `rule_for(inputs)`; without a threshold when left out.
    """
    candidates, criterion, inputs = compared.candidates, compared.criterion, pool.inputs
    probing = next((item for item in candidates if item.kind == PROBING), None)
    spread = [item for item in candidates if item.spread is not None]
    tied = _tied(spread)
    worthy = [item for item in candidates if probing is None or (item.spread is not None and item.spread.beats_probing)]
    adapters = [item for item in (*worthy, *candidates) if item.rank is not None]
    chosen = _chosen(worthy, tied, candidates[0]) if worthy or probing is None else probing
    others = [item for item in tied if item is not chosen]
    predicted = prediction(chosen, pool, criterion, rule)
    expected = _expected_loss(chosen, compared, pool)
    return Advice(
        candidate=chosen,
        verdict=verdict(predicted),
        predicted=predicted,
        adapter=chosen if chosen.rank is not None else next(iter(adapters), None),
        probing=probing,
        beats_probing=None if probing is None or len(candidates) == 1 else bool(worthy),
        expected_loss=expected,
        reason=_reason(chosen, candidates[0], others, len(spread), criterion, expected),
        ties=tuple(item.title for item in others),
        regime=regime(chosen, predicted, inputs),
    )


def _tied(compared: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Those that the resamples cannot tell from the first."""
    return [item for item in compared if item.spread is not None and not item.spread.apart]


def _chosen(
    worthy: Sequence[ScoredCandidate], tied: Sequence[ScoredCandidate], first: ScoredCandidate
) -> ScoredCandidate:
    """The first that is worth it, or the LoRA candidate that goes first in its place: ties are with the first of all."""
    best = worthy[0]
    if best is not first:
        return best
    cheaper = [item for item in tied if item in worthy and item.rank is not None and item.parameters < best.parameters]
    return cheaper[0] if best.rank is None and cheaper else best


def _expected_loss(chosen: ScoredCandidate, compared: Comparison, pool: Pool) -> CorrectedLoss:
    """The validation loss to expect of a candidate.

    Where it ranked the candidates, it was chosen among all of them with their rates and steps: the optimism of the smallest
    of all is taken from it. Else it was chosen among its own.
    """
    own = corrected_loss([pool.evidence(chosen).by_fold])
    if compared.criterion is not VALIDATION_LOSS:
        return own
    every = compared.smallest_loss
    return CorrectedLoss(own.chosen, own.chosen + max(own.optimism, every.optimism), every.options)


def _reason(
    chosen: ScoredCandidate,
    best: ScoredCandidate,
    others: Sequence[ScoredCandidate],
    compared: int,
    criterion: Criterion,
    expected: CorrectedLoss,
) -> str:
    if chosen.kind == PROBING and compared == 1:
        return "there is nothing else to train."
    if chosen.kind == PROBING:
        return (
            f"none of the {compared - 1} others compared beats its simulated validation loss, "
            f"{expected.corrected:.3f} expected, beyond the spread over resamples, so there is no gain to rank blocks by."
        )
    value, smallest_value = (f"{criterion.of(item.score):.3f}" for item in (chosen, best))
    if criterion is VALIDATION_LOSS:
        value = (
            f"{expected.corrected:.3f} expected ({value} as chosen: the smallest of {expected.options:,} choices on the "
            "same examples is too low)"
        )
    if chosen is best:
        reason = f"it has the smallest {criterion.name}, {value}"
    elif chosen.rank is not None and best.rank is None and best.kind != PROBING and chosen in _tied([chosen]):
        reason = (
            f"its {criterion.name}, {value}, cannot be told from the smallest ({best.title}, {smallest_value}), and it "
            "trains fewer parameters"
        )
    else:
        reason = (
            f"its {criterion.name}, {value}, is the smallest of those that beat linear probing ({best.title} has "
            f"{smallest_value})"
        )
    if chosen.spread is not None and chosen.spread.over_probing is not None:
        low, high = chosen.spread.over_probing
        reason += f"; its simulated validation loss beats that of linear probing by {low:.3f} to {high:.3f} nats"
    if not others:
        return f"{reason}; over resampled examples it differs from every other candidate compared."
    smallest = min(others, key=lambda item: item.parameters)
    return (
        f"{reason}; {len(others)} of the {compared - 1} other candidates compared are tied with the best. The smallest of "
        f"them is {smallest.title} ({smallest.parameters:,} parameters)."
    )


def regime(chosen: ScoredCandidate, predicted: Prediction, inputs: Inputs) -> tuple[str, ...]:
    """What the kernel alone says against trusting the forecast of a candidate.

    Args:
        chosen: the candidate.
        predicted: what it would reach.
        inputs: labels and how many examples there are.
    """
    score, gain, found = chosen.score, predicted.gain, []
    if not predicted.moves:
        found.append("No simulated step lowers the validation loss: training is not expected to help.")
    if math.isinf(score.change) and chosen.kind != PROBING:
        found.append(
            "The trained weights start at zero: every change of them is large, and may leave the linear regime."
        )
    elif score.change > LARGE_CHANGE and chosen.kind != PROBING:
        found.append(
            f"The simulated run changes the trained weights by {score.change:.1%} of their norm, above the "
            f"{LARGE_CHANGE:.0%} at which this forecast warns (a rule of thumb): a real run may leave the linear regime."
        )
    if predicted.moves and gain.low <= 0:
        loss = predicted.loss_gain
        meant = (
            f"their loss falls by {loss.value:.3f} ({loss.low:.3f} to {loss.high:.3f}) nats below what the best "
            "temperature gives without training, which is more than chance."
            if predicted.by_loss
            else "it may be nothing."
        )
        found.append(
            f"The simulated run gains {gain.value:+.3f} over the outputs before it, with an interval of {gain.low:+.3f} to "
            f"{gain.high:+.3f} on {gain.examples} validation and test examples: {meant}"
        )
    if inputs.n_validation < MINIMUM_PER_LABEL * inputs.n_classes:
        found.append(
            f"{inputs.n_validation} validation examples choose among the candidates, fewer than {MINIMUM_PER_LABEL} "
            "per label: the choice may be chance."
        )
    if chosen.kind == PROBING:
        found.append(
            "For linear probing the simulation is exact. For everything else it keeps the features as they are, so a "
            "real run that changes them may gain more than this forecast sees."
        )
    found.append(
        f"Simulated with a kernel that stays as it is; the candidates' learning rates are for {RATES_ARE_FOR}. The rate of "
        "AdamW comes from a rougher model of its steps: use it as the start of a search. `foretune behaviour` measures "
        "whether a real run stays in the linear regime."
    )
    return tuple(found)
