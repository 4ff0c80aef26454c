r"""A candidate's numbers: its spectrum, its risk, and its fine-tuning simulated in function space.

What is scored at the candidate's own scale ranks candidates: a ridge in units of its own lambda_max, a learning rate of
its own. The learning rate and the number of steps are those of the smallest validation loss; test examples have no say.

    ||theta_T - theta0||^2 = a' K a           a: coefficients of the run, K: training kernel of the candidate

Kernels of blocks add up, and so do the squares of their changes: those of adapters and of a head are told apart by them.

For LoRA the parameters are B, and the weights change by s B A. The rows of A are nearly orthogonal for ranks far below
the number of inputs, with E ||row||^2 = 1/3 (kaiming), so that ||s B A|| is about s ||B|| / sqrt(3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foretune.analysis.bounds import Bracket
from foretune.analysis.dynamics import CrossEntropy, Curves, FunctionSpace, GradientDescent, best_run, curves
from foretune.analysis.label_regression import label_regression
from foretune.analysis.scores import Score, predicted_classes, scored
from foretune.analysis.solvers import targets
from foretune.analysis.spectrum import Spectrum, spectrum
from foretune.forecast.candidates import ALPHA, Candidate, Weights
from foretune.forecast.inputs import Inputs
from foretune.forecast.risk import RELATIVE_SIGMA, relative_risk
from foretune.forecast.search import Search
from foretune.kernels.lora import LoRA
from foretune.shapes import Float64, Int

RATES_ARE_FOR = "full-batch gradient descent on the mean cross-entropy, without momentum"
"""What the learning rates of candidates and of kernels are for.

Of AdamW a kernel says less: its first step moves each parameter by the learning rate in the direction of a sign, and so
the loss by lr ||g||_1, of which a' K a = ||g||_2^2 tells no more than a factor of sqrt(parameters). `forecast.adam` takes
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
        validation_loss: smallest of the simulated runs, nats.
        validation_score: there.
        test_loss: there, nats.
        score: on test examples there, with a 95% interval.
        learning_rate: there, for what `RATES_ARE_FOR` says.
        steps: there; 0 says that validation prefers the pretrained outputs.
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
class Criterion:
    """What ranks candidates; smaller is better.

    Attributes:
        name, short: in words, and as the head of a column.
        field: of `CandidateScore`.
    """

    name: str
    short: str
    field: str

    def of(self, score: CandidateScore) -> float:
        """Its value."""
        return float(getattr(score, self.field))


VALIDATION_LOSS = Criterion("simulated validation loss", "valid. loss", "validation_loss")
LABEL_ERROR = Criterion("label error", "label error", "label_error")
"""Of models with a head. One that starts from the linear-probing solution has been fitted to the training examples, so
that their residuals, from which every simulated run starts, say little (measured in docs/results/README.md)."""


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


def function_space(joint: Float64[np.ndarray, "n c e c"], inputs: Inputs) -> FunctionSpace:
    """The linear regime of a joint kernel: training, validation, then test examples."""
    return FunctionSpace(
        joint.transpose(2, 3, 0, 1), inputs.f0, inputs.y, CrossEntropy(), inputs.n_validation, inputs.metric
    )


def held_out(
    joint: Float64[np.ndarray, "n c e c"], inputs: Inputs
) -> tuple[Float64[np.ndarray, "n c v c"], Int[np.ndarray, "v"]]:
    """The columns of training and validation examples of a joint kernel, and their class numbers."""
    count = inputs.n_train + inputs.n_validation
    return joint[:, :, :count], inputs.y[:count]


def train_spectrum(joint: Float64[np.ndarray, "n c e c"]) -> Spectrum:
    """The spectrum of the training part of a joint kernel."""
    n, c = joint.shape[:2]
    return spectrum(joint[:, :, :n].reshape(n * c, n * c))


def train_targets(inputs: Inputs) -> Float64[np.ndarray, "k"]:
    """Targets of the training examples, example i's output a at `i * c + a`."""
    return targets(inputs.y[: inputs.n_train], inputs.f0.shape[1]).reshape(-1)


@dataclass(frozen=True)
class LowestLoss:
    """The smallest validation loss of some runs, and where it was.

    Attributes:
        loss: nats.
        steps, learning_rate: there.
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


def scored_candidate(
    candidate: Candidate,
    joint: Float64[np.ndarray, "n c e c"],
    inputs: Inputs,
    weights: Weights,
    search: Search,
    of_head: Float64[np.ndarray, "n c e c"] | None = None,
    tangent: Float64[np.ndarray, "n c e c"] | None = None,
) -> ScoredCandidate:
    """A candidate with its numbers.

    Args:
        candidate: blocks and method.
        joint: its kernel, `candidate_kernel`.
        inputs: labels and pretrained outputs.
        weights: norms of the parameters.
        search: steps of a run.
        of_head: the part of the kernel that a head makes, `head_kernel`; none without it.
        tangent: the kernel of the same blocks tuned in full, `tangent_kernel`; `joint` itself without it.
    """
    eigen, space = train_spectrum(joint), function_space(joint, inputs)
    lowest = lowest_loss(best_run(space, GradientDescent(1.0), search.steps, search.every).curves)
    run = _run_of(space, lowest.learning_rate, lowest.steps)
    first_test = inputs.n_train + inputs.n_validation
    predictions = predicted_classes(run.outputs[first_test:])
    a = run.coefficients.reshape(-1)
    part = np.zeros_like(space.train_matrix) if of_head is None else function_space(of_head, inputs).train_matrix
    moved, head_moved = (math.sqrt(max(float(a @ of @ a), 0.0)) for of in (space.train_matrix - part, part))
    return ScoredCandidate(
        **{name: getattr(candidate, name) for name in ("name", "kind", "blocks", "rank", "parameters", "head")},
        score=CandidateScore(
            largest=eigen.largest,
            condition_number=eigen.condition_number(RELATIVE_SIGMA * eigen.largest),
            risk=relative_risk(eigen, train_targets(inputs)),
            label_error=label_regression(*held_out(joint if tangent is None else tangent, inputs)).error,
            validation_loss=lowest.loss,
            validation_score=float(run.validation_score[-1]),
            test_loss=float(run.test_loss[-1]),
            score=scored(inputs.y[first_test:], predictions, inputs.metric),
            learning_rate=lowest.learning_rate,
            steps=lowest.steps,
            change=_relative_change(candidate, moved, head_moved, weights),
        ),
    )


def simulated_outputs(
    candidate: ScoredCandidate, joint: Float64[np.ndarray, "n c e c"], inputs: Inputs
) -> Float64[np.ndarray, "w c"]:
    """The outputs of validation, then test examples at the end of a candidate's simulated run.

    Args:
        candidate: with its learning rate and steps.
        joint: its kernel, `candidate_kernel`.
        inputs: labels and pretrained outputs.
    """
    run = _run_of(function_space(joint, inputs), candidate.score.learning_rate, candidate.score.steps)
    return run.outputs[inputs.n_train :]


def _run_of(space: FunctionSpace, learning_rate: float, steps: int) -> Curves:
    (run,) = curves(space, GradientDescent(learning_rate), steps, max(steps, 1))
    return run


def _relative_change(candidate: Candidate, moved: float, head_moved: float, weights: Weights) -> float:
    """The change of blocks and head over their norm; infinite for weights that start at zero."""
    norm = weights.norm((*candidate.blocks, *candidate.head))
    if candidate.rank is not None:
        moved *= LoRA(candidate.rank, ALPHA).scaling / math.sqrt(3)
    return math.hypot(moved, head_moved) / norm if norm else float("inf")


def sort_key(candidate: ScoredCandidate, criterion: Criterion) -> tuple[float, float, int, str]:
    """The smaller value first; of equals (the ranks of one placement) the smaller simulated loss, then fewer parameters."""
    score = candidate.score
    return criterion.of(score), score.validation_loss, candidate.parameters, candidate.title
