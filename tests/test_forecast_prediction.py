"""The announced score lies between the two that bracket it, and says what predicts it."""

from __future__ import annotations

import pytest

from foretune.analysis.label_regression import label_regression
from foretune.analysis.scores import scored
from foretune.forecast.baseline import rule_for
from foretune.forecast.candidates import PROBING, Weights, candidate, candidate_kernel, tangent_kernel
from foretune.forecast.forecast import forecast
from foretune.forecast.prediction import prediction
from foretune.forecast.simulation import scored_candidate, simulated_outputs
from tests.test_forecast_heads import HEAD, NAMES, QUICK, SIGNAL, SIZE, WEIGHTS, by_heart, synthetic


def test_with_a_head_the_announced_score_is_the_mean_of_simulation_and_label_regression_and_its_interval_holds_both() -> (
    None
):
    kernels, inputs = synthetic(probed=0.0)
    hidden = by_heart(inputs)
    item = candidate("signal", "layer", [SIGNAL], 4, WEIGHTS, HEAD)
    tangent = tangent_kernel(kernels, item)
    found = scored_candidate(item, candidate_kernel(kernels, item), hidden, WEIGHTS, QUICK, tangent=tangent)
    fit = label_regression(tangent, inputs.y[: 2 * SIZE])
    labels = scored(inputs.y[2 * SIZE :], (fit.outputs[SIZE:, 0] > 0).astype(int), "accuracy")
    simulated = found.score.score
    assert simulated.high < labels.value  # the run does not leave a head that has learnt the examples by heart
    announced = prediction(found, candidate_kernel(kernels, item), hidden, tangent=tangent).score
    assert announced.value == pytest.approx((simulated.value + labels.value) / 2)
    assert announced.low <= simulated.value < labels.value <= announced.high


def test_two_predictions_that_agree_keep_their_interval() -> None:
    kernels, inputs = synthetic(probed=6.0)
    item = candidate("signal", "layer", [SIGNAL], None, WEIGHTS, HEAD)
    joint = candidate_kernel(kernels, item)
    found = scored_candidate(item, joint, inputs, WEIGHTS, QUICK)
    assert prediction(found, joint, inputs, tangent=joint).score == found.score.score


def test_what_the_simulation_is_exact_for_or_ranks_is_predicted_by_it() -> None:
    kernels, inputs = synthetic()
    for kind in (PROBING, "layer"):
        item = candidate("some", kind, [] if kind == PROBING else [SIGNAL], None, WEIGHTS, HEAD)
        joint = candidate_kernel(kernels, item)
        found = scored_candidate(item, joint, inputs, WEIGHTS, QUICK)
        announced = prediction(found, joint, inputs, tangent=joint if kind == PROBING else None)
        assert announced.score == found.score.score
        assert announced.by == "in the linear regime"


def test_the_answer_says_what_predicts_its_score() -> None:
    kernels, inputs = synthetic()
    found = forecast(inputs, kernels, WEIGHTS, QUICK)
    chosen = found.advice.candidate
    joint, rule = candidate_kernel(kernels, chosen), rule_for(inputs)
    assert found.advice.predicted == prediction(chosen, joint, inputs, rule, tangent_kernel(kernels, chosen))
    simulated = rule.score(simulated_outputs(chosen, joint, inputs), inputs).value
    assert f"predicted between a simulated run ({simulated:.2f}) and label regression" in found.answer
    assert f"accuracy {found.advice.predicted.score.value:.2f}" in found.answer
    headless = Weights({name: WEIGHTS.shapes[name] for name in NAMES}, WEIGHTS.norms, WEIGHTS.widths)
    bodies = {label: kernel.select("model.*") for label, kernel in kernels.items()}
    simply = forecast(inputs, bodies, headless, QUICK)
    outputs = simulated_outputs(simply.advice.candidate, candidate_kernel(bodies, simply.advice.candidate), inputs)
    assert simply.advice.predicted.score == rule.score(outputs, inputs)
    assert "predicted in the linear regime for" in simply.answer
