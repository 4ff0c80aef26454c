"""All candidates with their numbers, best first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from foretune.forecast.bootstrap import with_spreads
from foretune.forecast.candidates import (
    PROBING,
    Candidate,
    Weights,
    candidate_kernel,
    candidates,
    head_kernel,
    tangent_kernel,
)
from foretune.forecast.greedy import greedy_candidates
from foretune.forecast.inputs import Inputs
from foretune.forecast.risk import relative_risk
from foretune.forecast.search import Search, limits, search_for
from foretune.forecast.simulation import (
    LABEL_ERROR,
    VALIDATION_LOSS,
    Criterion,
    ScoredCandidate,
    scored_candidate,
    sort_key,
    train_spectrum,
    train_targets,
)
from foretune.kernels.block_kernel import BlockKernel
from foretune.shapes import Float64


@dataclass(frozen=True)
class Comparison:
    """Candidates, best first.

    Attributes:
        candidates: by the criterion.
        considered: how many there were, with those that were not simulated.
        limits: what was limited, in words.
        criterion: the label error of a model with a head, else the simulated validation loss.
    """

    candidates: tuple[ScoredCandidate, ...]
    considered: int
    limits: tuple[str, ...]
    criterion: Criterion


def comparison(
    kernels: Mapping[str, BlockKernel], inputs: Inputs, weights: Weights, search: Search | None = None
) -> Comparison:
    """Every candidate of these kernels, simulated and compared.

    Args:
        kernels: joint kernels by label: `sgd`, and `lora-r4` and so on where there are any.
        inputs: labels and pretrained outputs.
        weights: shapes and norms of the parameters.
        search: how much work; by the size of the kernel without one.
    """
    rows = inputs.f0.shape[1] * inputs.n_train
    search = search or search_for(rows)
    named = candidates(kernels, weights)
    known = {item.key for item in named}
    found = [item for item in greedy_candidates(kernels, inputs, weights, search) if item.key not in known]
    every = [*named, *found]
    scored = [
        scored_candidate(
            item,
            candidate_kernel(kernels, item),
            inputs,
            weights,
            search,
            head_kernel(kernels, item),
            tangent_kernel(kernels, item),
        )
        for item in _promising(every, kernels, inputs, search)
    ]
    criterion = LABEL_ERROR if weights.head else VALIDATION_LOSS
    ranked = sorted(scored, key=lambda item: sort_key(item, criterion))
    ranked = with_spreads(
        ranked, lambda item: candidate_kernel(kernels, item), inputs, search, tangents(kernels, criterion)
    )
    compared = sum(item.spread is not None for item in ranked)
    return Comparison(tuple(ranked), len(every), limits(search, len(every), rows, compared), criterion)


def tangents(
    kernels: Mapping[str, BlockKernel], criterion: Criterion
) -> Callable[[Candidate], Float64[np.ndarray, "n c e c"]] | None:
    """What makes a candidate's tangent kernel where the label error ranks; None elsewhere."""
    return partial(tangent_kernel, kernels) if criterion is LABEL_ERROR else None


def _promising(
    every: list[Candidate], kernels: Mapping[str, BlockKernel], inputs: Inputs, search: Search
) -> list[Candidate]:
    """Those that are simulated: all, or those of the smallest ridge risk, linear probing always."""
    if search.simulated is None or len(every) <= search.simulated:
        return every
    y = train_targets(inputs)
    others = [item for item in every if item.kind != PROBING]
    others.sort(key=lambda item: relative_risk(train_spectrum(candidate_kernel(kernels, item)), y).exact)
    baseline = [item for item in every if item.kind == PROBING]
    return [*baseline, *others[: search.simulated - len(baseline)]]
