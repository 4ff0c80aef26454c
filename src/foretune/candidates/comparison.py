"""All candidates with their numbers, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretune.analysis.feature_kernel import FeatureKernel
from foretune.analysis.selection import CorrectedLoss, corrected_loss
from foretune.candidates.candidate import PROBING, Candidate
from foretune.candidates.effort import limits
from foretune.candidates.evidence import Pool
from foretune.candidates.resampling import compared_places, with_spreads
from foretune.candidates.scored import ScoredCandidate
from foretune.candidates.scores import LABEL_ERROR, VALIDATION_LOSS, Criterion


@dataclass(frozen=True)
class Comparison:
    """Candidates, best first.

    Attributes:
        candidates: candidates, the best by the criterion first.
        considered: how many there were, with those that were not simulated.
        limits: what was limited, in words.
        criterion: the label error of a model with a head, else the simulated validation loss.
        smallest_loss: the smallest simulated validation loss of all of them, without the luck of that choice among
            candidates, rates and steps.
    """

    candidates: tuple[ScoredCandidate, ...]
    considered: int
    limits: tuple[str, ...]
    criterion: Criterion
    smallest_loss: CorrectedLoss


def comparison(pool: Pool) -> Comparison:
    """Every candidate of a pool, simulated and compared."""
    criterion, scored = criterion_of(pool), []
    for item in promising(pool):
        scored = sorted([*scored, pool.evidence(item).scored(item)], key=lambda item: sort_key(item, criterion))
        if isinstance(pool.evidence(item).kernel, FeatureKernel):
            _drop_features(pool, scored, criterion)
    ranked = with_spreads(scored, pool, criterion)
    rows, every = pool.inputs.f0.shape[1] * pool.inputs.n_train, len(pool.candidates)
    smallest = corrected_loss([pool.evidence(item).by_fold for item in ranked])
    compared = sum(item.spread is not None for item in ranked)
    return Comparison(tuple(ranked), every, limits(pool.effort, every, rows, compared), criterion, smallest)


def _drop_features(pool: Pool, ranked: Sequence[ScoredCandidate], criterion: Criterion) -> None:
    """Drop the features of candidates that would not be compared by now; if asked again, they are put together anew."""
    kept = [pool.evidence(ranked[place]) for place in compared_places(ranked, pool.effort, criterion)]
    held = {id(each) for own in kept for each in (own, own.in_full, own.head_alone)}
    for item in ranked:
        own = pool.evidence(item)
        for evidence in (own, own.in_full):
            if id(evidence) not in held and isinstance(vars(evidence).get("kernel"), FeatureKernel):
                for name in ("kernel", "spectrum", "space"):
                    vars(evidence).pop(name, None)


def criterion_of(pool: Pool) -> Criterion:
    """What ranks candidates: the label error of a model with a head, else the simulated validation loss."""
    return LABEL_ERROR if pool.sizes.head else VALIDATION_LOSS


def sort_key(candidate: ScoredCandidate, criterion: Criterion) -> tuple[float, float, int, str]:
    """The smaller value first; of equals (the ranks of one set) the smaller simulated loss, then fewer parameters."""
    score = candidate.score
    return criterion.of(score), score.validation_loss, candidate.parameters, candidate.title


def promising(pool: Pool) -> list[Candidate]:
    """Those that are simulated: all, or those of the smallest ridge risk, linear probing always.

    The kernels of the others are dropped as soon as they are out, so that no more are held than are simulated.
    """
    every, most = pool.candidates, pool.effort.simulated
    if most is None or len(every) <= most:
        return every
    baseline = [item for item in every if item.kind == PROBING]
    best: list[tuple[float, int, Candidate]] = []
    for number, item in enumerate(item for item in every if item.kind != PROBING):
        best = sorted([*best, (pool.evidence(item).exact_risk, number, item)], key=lambda found: found[:2])
        for _, _, out in best[most - len(baseline) :]:
            pool.forget(out)
        best = best[: most - len(baseline)]
    return [*baseline, *(item for _, _, item in best)]
