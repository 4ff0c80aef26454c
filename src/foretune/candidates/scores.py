"""Every score of a candidate by name: ours, and those that people choose by today.

A new score is one function of `Evidence` and one row of `SCORES`; the forecast ranks by one of these rows. None of them
looks at test examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.dynamics.learning_rates import GRID
from foretune.analysis.label_regression import STRENGTHS
from foretune.analysis.losses import targets
from foretune.analysis.scores import predicted_classes
from foretune.analysis.solvers import named_solver
from foretune.analysis.solvers.estimator import class_probabilities
from foretune.analysis.transferability import (
    kernel_target_alignment,
    leep,
    log_evidence,
    negative_conditional_entropy,
)
from foretune.candidates.adam import best_predicted
from foretune.candidates.effort import effort_for
from foretune.candidates.evidence import Evidence
from foretune.candidates.risk import RELATIVE_SIGMA
from foretune.candidates.rules import adapts_everything, feed_forward_share, shallowness
from foretune.candidates.scored import CandidateScore


@dataclass(frozen=True)
class Criterion:
    """A score of candidates.

    Attributes:
        key: name of the score in `SCORES`.
        measure: what it says of a candidate.
        larger: whether larger is better.
        name: the score in sentences.
        short: the score as the heading of a column.
        field: field of `CandidateScore` that holds it, where one does.
        data_free: whether it looks at no example.
    """

    key: str
    measure: Callable[[Evidence], float]
    larger: bool = True
    name: str = ""
    short: str = ""
    field: str | None = None
    data_free: bool = False

    def oriented(self, seen: Evidence) -> float:
        """The score's value, signed so that larger is better."""
        value = float(self.measure(seen))
        return value if self.larger else -value

    def of(self, score: CandidateScore) -> float:
        """Its value among the numbers of a candidate that has been scored; only for a criterion with a `field`."""
        return float(getattr(score, self.field or ""))


def gradient_norm(seen: Evidence) -> float:
    """||dL/dtheta_S|| = (chi' K chi)^1/2 / n of the training loss over the candidate's parameters."""
    derivative, n = seen.derivative.reshape(-1), seen.inputs.n_train
    return float(np.sqrt(max(derivative @ (seen.space.train_matrix @ derivative), 0.0))) / n


def target_alignment(seen: Evidence) -> float:
    """Alignment of the training kernel with the labels."""
    n = seen.inputs.n_train
    return kernel_target_alignment(seen.kernel[:, :, :n], targets(seen.inputs.y[:n], seen.inputs.f0.shape[1]))


def residual_alignment(seen: Evidence) -> float:
    """Alignment of the training kernel with what the pretrained outputs leave of the labels."""
    return kernel_target_alignment(seen.kernel[:, :, : seen.inputs.n_train], -seen.derivative)


def model_log_evidence(seen: Evidence) -> float:
    """LogME of the features of the training examples."""
    n = seen.inputs.n_train
    return log_evidence(seen.inputs.features[:n].astype(np.float64), seen.inputs.y[:n])


def model_leep(seen: Evidence) -> float:
    """LEEP of the outputs before training, on validation examples: their head has seen the others."""
    validation = _validation(seen)
    return leep(class_probabilities(seen.inputs.f0[validation]), seen.inputs.y[validation])


def model_nce(seen: Evidence) -> float:
    """NCE of the classes predicted before training, on validation examples."""
    validation = _validation(seen)
    return negative_conditional_entropy(predicted_classes(seen.inputs.f0[validation]), seen.inputs.y[validation])


def _validation(seen: Evidence) -> slice:
    return slice(seen.inputs.n_train, seen.inputs.n_train + seen.inputs.n_validation)


def _kappa(seen: Evidence) -> float:
    return seen.spectrum.condition_number(RELATIVE_SIGMA * seen.pool.largest_of_all(seen.rank))


def _largest_ratio(seen: Evidence) -> float:
    return seen.spectrum.largest / seen.pool.largest_of_all(seen.rank)


LABEL_ERROR = Criterion(
    "label regression, tangent kernel",
    lambda seen: seen.labels.error,
    larger=False,
    name="label error",
    short="label error",
    field="label_error",
)
"""Ranks the candidates of models with a head. One that starts from the linear-probing solution has been fitted to the
training examples, so that their residuals, from which every simulated run starts, say little (docs/results/README.md)."""

VALIDATION_LOSS = Criterion(
    "simulated validation loss",
    lambda seen: seen.lowest.loss,
    larger=False,
    name="simulated validation loss",
    short="valid. loss",
    field="validation_loss",
)
"""Ranks the candidates of models that answer a prompt."""

_ALL: Sequence[Criterion] = (
    LABEL_ERROR,
    Criterion("label regression, own kernel", lambda seen: seen.own_labels.error, larger=False),
    VALIDATION_LOSS,
    Criterion("simulated validation score", lambda seen: seen.descent.validation_score),
    Criterion("simulated Adam, validation loss", lambda seen: best_predicted(seen.adam).lowest, larger=False),
    Criterion("kernel regression, validation score", lambda seen: seen.ridge.validation),
    Criterion("kernel regression, validation loss", lambda seen: seen.ridge.validation_loss, larger=False),
    Criterion("exact risk", lambda seen: seen.risk.exact, larger=False),
    Criterion("kappa", _kappa, larger=False),
    Criterion("lambda_max (ratio)", _largest_ratio),
    Criterion("trace", lambda seen: seen.spectrum.trace),
    Criterion("kernel-target alignment", target_alignment),
    Criterion("kernel-residual alignment", residual_alignment),
    Criterion("gradient norm", gradient_norm),
    Criterion("LogME", model_log_evidence),
    Criterion("LEEP", model_leep),
    Criterion("NCE", model_nce),
    Criterion("parameter count", lambda seen: float(seen.trained), data_free=True),
    Criterion("shallow layers first", shallowness, data_free=True),
    Criterion("feed-forward first", feed_forward_share, data_free=True),
    Criterion("all linear", adapts_everything, data_free=True),
    Criterion("random choice", lambda _: 0.0),
)
SCORES: Mapping[str, Criterion] = {criterion.key: criterion for criterion in _ALL}
"""Name -> criterion; under the last every candidate has the same chance, since all have the same score."""

DATA_FREE = tuple(name for name, criterion in SCORES.items() if criterion.data_free)
"""Rules that look at no data: what every other score has to beat."""

LOSSES = ("simulated validation loss", "simulated Adam, validation loss", "kernel regression, validation loss")
"""Scores that are a predicted validation loss in nats: they say how low it gets, not only where."""

AFTER_WARM_UP = (LABEL_ERROR.key, *LOSSES)
"""Scores that are taken again on the kernel after a warm-up."""


def warmed_name(score: str, steps: int) -> str:
    """The name of a score after a warm-up of some steps, or its own where there are none."""
    return f"{score}, warm-up {steps}" if steps else score


def determinants(rows: int) -> dict[str, object]:
    """The constants that the scores rest on, as text; what is kept of a score is kept for these.

    Args:
        rows: of the training kernel, examples times outputs.
    """
    ridge = named_solver("ridge")
    return {
        "effort": repr(effort_for(rows)),
        "rates": repr(GRID),
        "strengths": repr(STRENGTHS),
        "sigma": RELATIVE_SIGMA,
        "ridge": f"{ridge!r} {ridge.default_grid}",
    }
