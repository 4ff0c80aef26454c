"""What to train: of the choices that cannot be told apart, the smallest.

The criterion ranks; where the first cannot be told from others, which of them is first is chance, and the fewest
parameters are the better reason. Training and validation examples choose, test examples have no say.
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.candidates.adam import AdamRate
from foretune.candidates.baseline import ClassRule
from foretune.candidates.candidate import PROBING
from foretune.candidates.comparison import Comparison
from foretune.candidates.evidence import Pool
from foretune.candidates.prediction import Prediction, prediction
from foretune.candidates.scored import ScoredCandidate
from foretune.candidates.verdict import Verdict, verdict
from foretune.forecasting.advice import Advice, regime


@dataclass(frozen=True)
class Recommendation:
    """What to train and how.

    Attributes:
        candidate: the smallest of the choices that tie, or the first where none ties with it.
        ties: how many choices tie, this one among them; 1 where it stands alone.
        verdict: `help`, `may`, `no` or `cannot tell`: on training this.
        predicted: the score that training it would reach, and what predicts it.
        adamw: learning rate, batch and steps to begin with.
        regime: what may take the real run out of the linear regime, or make the forecast worthless.
    """

    candidate: ScoredCandidate
    ties: int
    verdict: Verdict
    predicted: Prediction
    adamw: AdamRate
    regime: tuple[str, ...]


def recommendation(advised: Advice, compared: Comparison, pool: Pool, rule: ClassRule) -> Recommendation | None:
    """What to train; nothing after a no.

    Args:
        advised: the candidate that comes first, and the verdict on it.
        compared: all of them.
        pool: their kernels.
        rule: how outputs become classes.
    """
    if advised.verdict == "no":
        return None
    equals = _equals(advised, compared)
    for item in (*sorted(equals, key=lambda item: item.parameters), advised.candidate):
        predicted, rate = prediction(item, pool, compared.criterion, rule), pool.evidence(item).adam_rate
        trains = predicted.moves and predicted.validation_gain > 0
        if trains or item is advised.candidate:
            notes = regime(item, predicted, pool.inputs)
            return Recommendation(item, len(equals), verdict(predicted), predicted, rate, notes)
    return None


def _equals(advised: Advice, compared: Comparison) -> list[ScoredCandidate]:
    """The first and those that tie with it; where there is a head, only what beats linear probing as the first does."""
    first = advised.candidate
    if first.kind == PROBING or first.spread is None or first.spread.apart:
        return [first]
    return [
        item
        for item in compared.candidates
        if item is first
        or (
            item.title in advised.ties
            and item.kind != PROBING
            and (advised.probing is None or (item.spread is not None and item.spread.beats_probing))
        )
    ]
