"""What a warm-up changes: the same scores before and after it, how they rank, and how close they come to the real loss.

Some scores are a predicted validation loss (`LOSSES`). They are set against what the best run of each candidate really
reached on the same examples, nats:

    off = mean_{task, seed, p} |predicted_p - real_p|
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.rank_statistics import BootstrapEstimate, correlation_difference, mean_over_candidates
from foretune.candidates.scores import AFTER_WARM_UP, LOSSES, warmed_name
from foretune.finetune.warm_up import warm_up_training
from foretune.page import Quantity, Table
from foretune.shapes import Float64
from foretune.validation.rankings import LOSS, Ranking, interval_cell, number_cell, results_of, scores_of
from foretune.validation.runs import Measured, ValidationStudy


@dataclass(frozen=True)
class Best:
    """The best score of one kernel by one criterion.

    Attributes:
        steps: number of steps of the warm-up; 0 for the plain kernel.
        score: name of the score before any warm-up.
        value: the criterion's value.
    """

    steps: int
    score: str
    value: float

    @property
    def name(self) -> str:
        """The score's name after the warm-up."""
        return warmed_name(self.score, self.steps)

    @property
    def kernel(self) -> str:
        """The kernel in words."""
        return f"the kernel after {self.steps} steps" if self.steps else "the plain kernel"


@dataclass(frozen=True)
class Verdict:
    """Which kernel is better by one criterion.

    Attributes:
        winner, other: the best of both; the plain kernel wins a tie.
        steps: number of steps of the better warm-up.
        scores: how many scores were taken after the warm-up.
        better, worse: how many of them are so than on the plain kernel.
    """

    winner: Best
    other: Best
    steps: int
    scores: int
    better: int
    worse: int

    @property
    def verb(self) -> str:
        """What the winner is than the other."""
        return "no better than" if self.winner.value == self.other.value else "better than"


def loss_errors(cells: Sequence[Measured], score: str) -> Float64[np.ndarray, "s k"]:
    """How far a predicted validation loss is from the real one, nats; not a number where every run failed.

    Args:
        cells: of all seeds and tasks, the same candidates in each.
        score: one of `LOSSES`, or its name after a warm-up.
    """
    real = np.array([[outcome.validation_loss for outcome in cell.outcomes] for cell in cells], dtype=np.float64)
    return np.abs(-scores_of(cells, score) - real)


def warm_up_notes(study: ValidationStudy) -> tuple[str, ...]:
    """What was done, for the top of the page; nothing without a warm-up."""
    if not study.warm_up:
        return ()
    steps, training = ", ".join(map(str, study.warm_up)), warm_up_training(max(study.warm_up))
    return (
        f"Warm-up: {steps} real steps of {training.optimiser.name} at {training.optimiser.learning_rate:g}, batches of "
        f"{training.batch_size}, on all parameters and the head, without dropout. All candidates of a task and a seed "
        "share one, and its last step is kept. Kernels, outputs and everything made from them are then those of the "
        "warmed model. The real runs still start from the pretrained model, and the predicted curves below are of the "
        "plain kernel. The cost of the warm-up is extra: a kernel costs the same on either model.",
    )


def warm_up_table(cells: Sequence[Measured], ranked: Sequence[Ranking]) -> Table:
    """The scores that were taken twice, and what the second time cost.

    Args:
        cells: of all seeds and tasks.
        ranked: their scores by test loss.
    """
    found = {ranking.score: ranking for ranking in ranked}
    rows = []
    for score in AFTER_WARM_UP:
        for steps in _kernels(cells):
            name = warmed_name(score, steps)
            ranking = found[name]
            off = (
                mean_over_candidates(loss_errors(cells, name))
                if score in LOSSES
                else BootstrapEstimate(*[float("nan")] * 3)
            )
            rows.append(
                (
                    score,
                    Quantity(steps or None, "d", missing="none"),
                    interval_cell(ranking.median, ranking.low, ranking.high),
                    number_cell(ranking.regret, 3),
                    interval_cell(off.value, off.low, off.high, 3),
                    number_cell(_seconds(cells, steps), 1),
                )
            )
    header = ("score", "warm-up", "median rank correlation (95%)", "regret, nats", "off, nats (95%)", "cost, s")
    caption = (
        "The plain kernel and the kernel after a warm-up: rank correlation with the test loss and its regret. `off` is "
        "the mean absolute error of the predicted validation loss, `cost` the warm-up of a task and a seed"
    )
    return Table(header, tuple(rows), caption)


def warm_up_findings(cells: Sequence[Measured], ranked: Sequence[Ranking]) -> tuple[str, ...]:
    """Which kernel ranks better, which predicts the level of the loss better, and what the warm-up cost.

    Args:
        cells: of all seeds and tasks.
        ranked: their scores by test loss.
    """
    if not cells[0].warm_up_seconds:
        return ()
    return (_ranks_better(cells, ranked), _comes_closer(cells), _cost(cells))


def _ranks_better(cells: Sequence[Measured], ranked: Sequence[Ranking]) -> str:
    found = {ranking.score: ranking for ranking in ranked}
    medians = {(steps, score): found[warmed_name(score, steps)].median
               for steps in _kernels(cells) for score in AFTER_WARM_UP}  # fmt: skip
    verdict = _verdict(medians, largest=True)
    if verdict is None:
        return "No score ranks the candidates on either kernel, plain or warmed: each is the same for all of them."
    winner, other = verdict.winner, verdict.other
    apart = correlation_difference(scores_of(cells, winner.name), scores_of(cells, other.name), results_of(cells, LOSS))
    return (
        f"Ranking by test loss: {winner.kernel} is {verdict.verb} {other.kernel}, median correlation "
        f"{winner.value:.2f} ({winner.score}) against {other.value:.2f} ({other.score}), difference "
        f"{_difference(apart, 2)}. After {verdict.steps} steps {verdict.better} of {verdict.scores} scores rank "
        f"better than before, {verdict.worse} worse."
    )


def _comes_closer(cells: Sequence[Measured]) -> str:
    errors = {(steps, score): loss_errors(cells, warmed_name(score, steps))
              for steps in _kernels(cells) for score in LOSSES}  # fmt: skip
    means = {key: mean_over_candidates(values).value for key, values in errors.items()}
    verdict = _verdict(means, largest=False)
    if verdict is None:
        return "Every run failed: there is no real validation loss to predict."
    winner, other = verdict.winner, verdict.other
    apart = mean_over_candidates(errors[other.steps, other.score] - errors[winner.steps, winner.score])
    return (
        f"Level of the validation loss: {winner.kernel} is {verdict.verb} {other.kernel}, off by "
        f"{winner.value:.3f} nats ({winner.score}) against {other.value:.3f} ({other.score}), difference "
        f"{_difference(apart, 3)}. After {verdict.steps} steps {verdict.better} of {verdict.scores} predictions "
        f"are closer than before, {verdict.worse} farther off."
    )


def _cost(cells: Sequence[Measured]) -> str:
    runs = [outcome.seconds for cell in cells for outcome in cell.outcomes if outcome.failure is None]
    beside = f"; one real run takes {np.mean(runs):.1f} s" if runs else ""
    each = ", ".join(f"{_seconds(cells, steps):.1f} s for {steps} steps" for steps in _kernels(cells) if steps)
    return f"A warm-up costs {each} (mean over tasks and seeds, two passes over the validation examples in it){beside}."


def _kernels(cells: Sequence[Measured]) -> tuple[int, ...]:
    """Steps of the warm-ups, and 0 for none."""
    return (0, *cells[0].warm_up_seconds)


def _seconds(cells: Sequence[Measured], steps: int) -> float:
    return float(np.mean([cell.warm_up_seconds[steps] for cell in cells])) if steps else 0.0


def _verdict(values: Mapping[tuple[int, str], float], *, largest: bool) -> Verdict | None:
    """Plain against warmed, by the steps of the warm-up and the score; None where a kernel has no number."""
    sign = 1 if largest else -1
    known = [Best(steps, score, value) for (steps, score), value in values.items() if not np.isnan(value)]
    ordered = sorted(known, key=lambda best: -sign * best.value)
    plain = next((best for best in ordered if not best.steps), None)
    warmed = next((best for best in ordered if best.steps), None)
    if plain is None or warmed is None:
        return None
    winner, other = (warmed, plain) if sign * warmed.value > sign * plain.value else (plain, warmed)
    pairs = [
        (sign * values[0, score], sign * value) for (steps, score), value in values.items() if steps == warmed.steps
    ]
    better, worse = sum(after > before for before, after in pairs), sum(after < before for before, after in pairs)
    return Verdict(winner, other, warmed.steps, len(pairs), better, worse)


def _difference(apart: BootstrapEstimate, digits: int) -> str:
    """A difference with its interval, and that it is not significant where the interval holds zero."""
    doubt = "; not significant" if apart.low <= 0 else ""
    return f"{apart.value:.{digits}f} (95%: {apart.low:.{digits}f} to {apart.high:.{digits}f}{doubt})"
