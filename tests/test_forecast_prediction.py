"""The announced score lies between the two that bracket it, and says what predicts it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretune.analysis.label_regression import label_regression
from foretune.analysis.schedule import Schedule
from foretune.analysis.scores import scored
from foretune.candidates.adam import planned_run
from foretune.candidates.baseline import ClassRule, rule_for
from foretune.candidates.candidate import PROBING, ParameterSizes, candidate
from foretune.candidates.comparison import criterion_of
from foretune.candidates.evidence import Pool
from foretune.candidates.prediction import OFF, prediction
from foretune.candidates.scored import ScoredCandidate
from foretune.candidates.scores import LABEL_ERROR
from foretune.forecasting.forecast import pool_forecast
from tests.test_forecast_heads import HEAD, NAMES, QUICK, SIGNAL, SIZE, WEIGHTS, by_heart, pool_of, synthetic


def test_with_a_head_the_announced_score_is_the_mean_of_simulation_and_label_regression_and_its_interval_holds_both() -> (
    None
):
    kernels, inputs = synthetic(probed=0.0)
    hidden = by_heart(inputs)
    item = candidate("signal", "layer", [SIGNAL], 4, WEIGHTS, HEAD)
    pool = pool_of(kernels, hidden)
    evidence = pool.evidence(item)
    found = evidence.scored(item)
    fit = label_regression(kernels["sgd"].select([SIGNAL, *HEAD]).total(), inputs.y[: 2 * SIZE])
    labels = scored(inputs.y[2 * SIZE :], (fit.outputs[SIZE:, 0] > 0).astype(int), "accuracy")
    assert evidence.adam_run is not None
    simulated = rule_for(hidden).score(evidence.adam_run.outputs[SIZE:], hidden)
    assert simulated.high < labels.value  # the run does not leave a head that has learnt the examples by heart
    predicted = prediction(found, pool, LABEL_ERROR)
    announced = predicted.score
    assert predicted.higher == (announced.value > predicted.start.value) and predicted.room == 0
    assert announced.value == pytest.approx((simulated.value + labels.value) / 2)
    assert announced.low <= simulated.value < labels.value <= announced.high


def test_two_predictions_that_agree_keep_their_interval() -> None:
    kernels, inputs = synthetic(probed=6.0)
    item = candidate("signal", "layer", [SIGNAL], None, WEIGHTS, HEAD)
    pool = pool_of(kernels, inputs)
    found = pool.evidence(item).scored(item)
    assert prediction(found, pool, LABEL_ERROR).score == found.score.score


def test_what_the_simulation_is_exact_for_is_predicted_by_it() -> None:
    kernels, inputs = synthetic()
    pool = pool_of(kernels, inputs)
    item = candidate("some", PROBING, [], None, WEIGHTS, HEAD)
    evidence = pool.evidence(item)
    announced = prediction(evidence.scored(item), pool, LABEL_ERROR)
    assert announced.score == ClassRule().score(evidence.run.outputs[SIZE:], inputs)
    assert announced.by == "in the linear regime"


def prompted(seed: int = 0) -> tuple[Pool, ScoredCandidate]:
    """A pool of a model that answers by words, which has no head, and a candidate that gains."""
    kernels, inputs = synthetic(seed=seed)
    headless = ParameterSizes({name: WEIGHTS.shapes[name] for name in NAMES}, WEIGHTS.norms, WEIGHTS.widths)
    pool = Pool({label: kernel.select("model.*") for label, kernel in kernels.items()}, inputs, headless, QUICK)
    item = candidate("signal", "layer", [SIGNAL], 4, headless)
    return pool, pool.evidence(item).scored(item)


@pytest.mark.parametrize("seed", range(4))
def test_with_a_prompt_the_larger_of_simulation_and_label_regression_is_announced_with_room_for_its_own_error(
    seed: int,
) -> None:
    pool, found = prompted(seed)
    evidence, rule = pool.evidence(found), rule_for(pool.inputs)
    assert evidence.adam_run is not None
    both = [rule.score(f, pool.inputs) for f in (evidence.adam_run.outputs[SIZE:], evidence.labels.outputs)]
    larger = max(both, key=lambda score: score.value)
    predicted = prediction(found, pool, criterion_of(pool), rule)
    announced = predicted.score
    assert predicted.drawn == larger and predicted.room == OFF
    assert predicted.higher == (both[0].value > predicted.start.value)  # the verdict reads the simulated run alone
    assert announced.value == larger.value
    assert larger.low - announced.low > 0.005 or announced.low == 0
    assert announced.high - larger.high > 0.005 or announced.high == 1
    assert announced.low <= announced.value - 1.96 * OFF + 1e-6 or announced.low == 0


def test_with_a_prompt_and_nothing_that_lowers_the_loss_the_score_before_is_announced() -> None:
    pool, found = prompted()
    y = pool.inputs.y.copy()
    y[SIZE : 2 * SIZE] = 1 - y[SIZE : 2 * SIZE]  # validation examples contradict the training examples
    pool = replace(pool, inputs=replace(pool.inputs, y=y))
    found = pool.evidence(found).scored(found)
    assert pool.evidence(found).adam_run is None
    announced = prediction(found, pool, criterion_of(pool))
    assert announced.score == announced.drawn == announced.start
    assert not announced.moves and not announced.higher and announced.room == 0


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_run_of_a_rate_is_that_of_its_curve_up_to_its_lowest_loss(schedule: Schedule) -> None:
    kernels, inputs = synthetic()
    item = candidate("signal", "layer", [SIGNAL], 4, WEIGHTS, HEAD)
    pool = replace(pool_of(kernels, inputs), run=planned_run(SIZE, steps=40, schedule=schedule))
    evidence = pool.evidence(item)
    predicted, run = evidence.adam_rate.predicted, evidence.adam_run
    assert predicted is not None and run is not None
    assert run.steps[-1] == predicted.best_step
    assert run.validation_loss[-1] == pytest.approx(predicted.lowest, rel=1e-9)


def test_the_answer_says_what_predicts_its_score() -> None:
    kernels, inputs = synthetic()
    pool = pool_of(kernels, inputs)
    found = pool_forecast(pool)
    chosen = found.advice.candidate
    rule = rule_for(inputs)
    assert found.advice.predicted == prediction(chosen, pool, LABEL_ERROR, rule)
    run = pool.evidence(chosen).adam_run
    assert run is not None
    simulated = rule.score(run.outputs[SIZE:], inputs).value
    assert f"predicted between a simulated run ({simulated:.2f}) and label regression" in found.answer
    assert f"accuracy {found.advice.predicted.score.value:.2f}" in found.answer
    headless = ParameterSizes({name: WEIGHTS.shapes[name] for name in NAMES}, WEIGHTS.norms, WEIGHTS.widths)
    bodies = {label: kernel.select("model.*") for label, kernel in kernels.items()}
    simulated = pool_forecast(pool := Pool(bodies, inputs, headless, QUICK))
    run = pool.evidence(simulated.advice.candidate).adam_run
    assert run is not None
    assert (
        f"predicted as the larger of a simulated run ({rule.score(run.outputs[SIZE:], inputs).value:.2f})"
        in simulated.answer
    )
