"""Whether to train: one rule on both sides, chosen without test examples, and nothing recommended after a no."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from foretune.analysis.scores import Gain, Score
from foretune.candidates.adam import reach
from foretune.candidates.baseline import ClassRule, rule_for
from foretune.candidates.candidate import ParameterSizes
from foretune.candidates.evidence import Pool
from foretune.candidates.prediction import Prediction, prediction
from foretune.candidates.scores import VALIDATION_LOSS
from foretune.candidates.verdict import claim, verdict
from foretune.errors import ModelError, NonFiniteError, UsageError
from foretune.experiment.inputs import Inputs
from foretune.forecasting.cost import FORECAST_STAGES, forecast_cost
from foretune.forecasting.forecast import PoolForecast
from foretune.forecasting.forecast import pool_forecast as forecast_of
from foretune.forecasting.page import Seen, forecast_page
from foretune.kernels.block_kernel import BlockKernel
from foretune.pages.console import PlainConsole
from foretune.pages.terminal import print_page
from foretune.progress import Stage
from tests.test_forecast import NAMES, QUICK, SIZE, WEIGHTS, synthetic

FAST = replace(QUICK, steps=20, compared=2, resamples=4)


def forecast(inputs: Inputs, kernels: dict[str, BlockKernel]) -> PoolForecast:
    return forecast_of(Pool(kernels, inputs, WEIGHTS, FAST))


def scaled(kernels: dict[str, BlockKernel], factor: float) -> dict[str, BlockKernel]:
    return {label: BlockKernel(kernel.names, kernel.array * factor) for label, kernel in kernels.items()}


def shown(found: PoolForecast) -> str:
    stages = [Stage(name, 1.0, 0, 0) for name in FORECAST_STAGES]
    console = PlainConsole(width=200, record=True, file=io.StringIO())
    seen = Seen("model on data", (), "accuracy", {"train": 24, "validation": 24, "test": 24})
    page = forecast_page(found, forecast_cost(stages, 10, 4, 10, 3), stages, seen, {})
    print_page(console, page, details=True)
    return " ".join(console.export_text().split())


def test_outputs_that_know_nothing_give_a_baseline_of_one_half() -> None:
    generator, found = np.random.default_rng(0), []
    y = np.arange(4 + 8 + 64) % 2
    for _ in range(150):
        inputs = Inputs(y, generator.normal(size=(len(y), 1)), np.zeros((len(y), 1)), 4, 8, 2, {}, "accuracy")
        found.append(rule_for(inputs).score(inputs.f0[4:], inputs).value)
    assert np.mean(found) == pytest.approx(0.5, abs=2.5 * np.std(found) / 150**0.5)


@pytest.mark.parametrize("seed", range(2))
def test_test_labels_change_scores_and_nothing_that_is_chosen(seed: int) -> None:
    kernels, inputs = synthetic(seed, margin=1.0)
    chosen = None
    for change in (lambda y: y, lambda y: 1 - y, np.random.default_rng(seed).permutation):
        y = inputs.y.copy()
        y[2 * SIZE :] = change(y[2 * SIZE :])
        other = replace(inputs, y=y)
        found = forecast(other, kernels)
        parts = (
            rule_for(other),
            found.threshold,
            found.probe_strength,
            found.advice.candidate.key,
            found.advice.candidate.score.steps,
            found.advice.candidate.score.learning_rate,
            [item.key for item in found.comparison.candidates],
            found.advice.predicted.validation_gain,
        )
        assert parts == (chosen := chosen or parts)


def test_the_rule_is_the_better_one_on_validation_examples() -> None:
    y = np.array([0, 1, 0, 1, 0, 1])
    shifted = Inputs(y, np.array([[0.0], [0.0], [4.0], [6.0], [4.0], [6.0]]), np.zeros((6, 1)), 2, 2, 2, {}, "accuracy")
    assert rule_for(shifted) == ClassRule(thresholded=True)
    assert rule_for(shifted).score(shifted.f0[2:], shifted).value == 1.0
    assert ClassRule().score(shifted.f0[2:], shifted).value == 0.5
    centred = replace(shifted, f0=shifted.f0 - 5)
    assert rule_for(centred) == ClassRule()
    assert rule_for(replace(shifted, f0=np.zeros((6, 2)))) == ClassRule()


def test_what_a_threshold_mends_is_no_fall_of_the_loss() -> None:
    y = np.arange(4 + 40 + 40) % 2
    known = np.where(y == 1, 1.0, -1.0)[:, None] + np.random.default_rng(0).normal(size=(len(y), 1))
    inputs = Inputs(y, known + 3.0, np.zeros((len(y), 1)), 4, 40, 2, {}, "accuracy")
    before, after = inputs.f0[4:], known[4:]  # a run that does nothing but take the shift away
    assert ClassRule().loss_gain(before, after, inputs).low > 0
    assert ClassRule(thresholded=True).loss_gain(before, after, inputs).low <= 0


def test_a_run_of_no_steps_scores_as_no_run() -> None:
    kernels, inputs = synthetic()
    biased = replace(inputs, f0=inputs.f0 + 1.0)
    pool, rule = Pool(kernels, biased, WEIGHTS, FAST), rule_for(biased)
    evidence = pool.evidence(still := pool.candidates[0])
    object.__setattr__(evidence, "adam_run", None)
    assert rule.thresholded
    found = prediction(evidence.scored(still), pool, VALIDATION_LOSS, rule)
    assert found.score == found.start == rule.score(biased.f0[SIZE:], biased)
    assert found.gain.value == found.validation_gain == 0 and not found.moves
    assert found.loss_gain.value <= 0 and not found.by_loss
    assert verdict(found) == "no"


@pytest.mark.parametrize(
    ("moves", "score", "gain", "falls", "word"),
    [
        (False, 0.9, Gain(0.1, 0.05, 0.2, 96), True, "no"),
        (True, 0.9, Gain(0.1, 0.05, 0.2, 96), False, "help"),
        (True, 0.7, Gain(0.1, 0.05, 0.2, 96), True, "may"),  # the test score does not rise
        (True, 0.9, Gain(0.1, -0.01, 0.2, 96), True, "help"),
        (True, 0.9, Gain(0.1, -0.01, 0.2, 96), False, "may"),
        (True, 0.9, Gain(0.0, -0.001, 0.001, 9000), True, "may"),  # the loss alone is not the score
        (True, 0.7, Gain(0.0, -0.03, 0.03, 96), True, "cannot tell"),
        (True, 0.7, Gain(0.0, -0.001, 0.001, 9000), True, "no"),
        (True, 0.6, Gain(-0.1, -0.2, -0.05, 96), True, "no"),
    ],
)
def test_the_verdict_is_one_of_four_words(moves: bool, score: float, gain: Gain, falls: bool, word: str) -> None:
    loss = Gain(0.02, 0.01 if falls else -0.01, 0.05, 96)
    found, start = Score(score, 0.5, 1.0), Score(0.7, 0.5, 1.0)
    predicted = Prediction(found, found, start, "in the linear regime", moves, score > 0.7, gain, loss, 0.1)
    assert verdict(predicted) == word
    for beats in (True, False, None):
        assert claim(word, beats_probing=beats)  # pyright: ignore[reportArgumentType]


def test_a_no_recommends_nothing() -> None:
    kernels, inputs = synthetic(margin=0.0)
    solved = replace(inputs, f0=np.where(inputs.y == 1, 5.0, -5.0)[:, None] + inputs.f0)
    found = forecast(solved, kernels)
    assert found.verdict == found.advice.verdict == "no"
    assert found.adamw is found.adapter_adamw is None
    assert found.answer.startswith("Fine-tuning is not expected to help: ")
    assert "Nothing is recommended" in found.answer
    for text in (found.answer, shown(found)):
        assert "AdamW: " not in text and "recommended because" not in text.lower()
    assert "* recommended" not in shown(found)
    helped = forecast(inputs, synthetic(margin=3.0)[0])
    assert helped.verdict == "help" and helped.adamw is not None
    assert "* recommended" in shown(helped)


@pytest.mark.parametrize(
    ("head", "row", "words"),
    [
        ("", "zero-shot", "without training"),
        ("probed", "head of linear probing, as it starts", "for the head of linear probing that it starts from"),
        ("drawn", "random head, as it starts", "for the random head that it starts from"),
    ],
)
def test_what_comes_before_training_has_its_own_name(head: str, row: str, words: str) -> None:
    kernels, inputs = synthetic()
    found = forecast(replace(inputs, head=head), kernels)
    assert f"│ {row} │" in shown(found)
    assert words in found.answer


@pytest.mark.parametrize("exponent", [-300, -150, -40, 40, 150, 300])
def test_a_kernel_of_any_scale_gives_the_same_choice(exponent: int) -> None:
    kernels, inputs = synthetic()
    plain, other = (forecast(inputs, scaled(kernels, factor)) for factor in (1.0, 10.0**exponent))
    assert other.advice.candidate.blocks == plain.advice.candidate.blocks
    assert other.advice.candidate.score.score == plain.advice.candidate.score.score
    assert other.whole.score == plain.whole.score
    gain = other.advice.predicted.gain  # AdamW's rates have a scale: at one of these it moves nothing, or far too much
    assert gain.low <= gain.value <= gain.high
    assert plain.verdict == "help" and (other.verdict == "help") <= (gain.low > 0)


@pytest.mark.parametrize("exponent", [-300, 300])
def test_reach_has_no_overflow(exponent: int) -> None:
    norm = 10.0**exponent
    sizes = ParameterSizes(WEIGHTS.shapes, dict.fromkeys(NAMES, norm), WEIGHTS.widths)
    for rank in (None, 4):
        assert 0 < reach(NAMES[:1], rank, sizes, 10) < np.inf


@pytest.mark.parametrize("classes", [2, 3])
def test_equal_outputs_and_one_example_a_label_get_a_forecast_and_equal_texts_have_none(classes: int) -> None:
    generator = np.random.default_rng(0)
    y, c = np.arange(3 * classes) % classes, 1 if classes == 2 else classes
    phi = generator.normal(size=(len(y), c, 4))
    kernel = np.einsum("iap,jbp->iajb", phi[:classes], phi)[None]
    inputs = Inputs(
        y, np.zeros((len(y), c)), np.ones((len(y), 3)), classes, classes, classes, {NAMES[0]: 36}, "accuracy"
    )
    found = forecast(inputs, {"sgd": BlockKernel((NAMES[0],), kernel)})
    assert np.isfinite(found.advice.candidate.score.validation_loss)
    assert 0 <= found.advice.predicted.score.value <= 1
    for array in (np.ones_like(kernel), np.broadcast_to(kernel[:, :1, :, :1], kernel.shape).copy()):
        with pytest.raises(ModelError, match=f"nothing to learn: all {len(y)} examples have the same output"):
            forecast(inputs, {"sgd": BlockKernel((NAMES[0],), array)})
        told_apart = replace(inputs, f0=generator.normal(size=inputs.f0.shape))  # a shift can still help
        assert 0 <= forecast(told_apart, {"sgd": BlockKernel((NAMES[0],), array)}).advice.predicted.score.value <= 1


def test_where_no_gradient_is_left_there_is_nothing_to_train() -> None:
    kernels, inputs = synthetic()
    with pytest.raises(ModelError, match="nothing to train: the gradients of all 8 parameters"):
        forecast(inputs, scaled(kernels, 0.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_numbers_are_refused_and_named(bad: float) -> None:
    kernels, inputs = synthetic()
    array = kernels["sgd"].array.copy()
    array[1, 0, 0, 3, 0] = bad
    with pytest.raises(NonFiniteError, match=rf"The sgd kernel of {NAMES[1]} has infinite or undefined entries"):
        forecast(inputs, {**kernels, "sgd": BlockKernel(tuple(NAMES), array)})
    for name, field in (("outputs", "f0"), ("features", "features")):
        values = getattr(inputs, field).copy()
        values[5, 0] = bad
        said = f"The {name} of 1 of {len(inputs.y)} examples have infinite .*number 5, counted from 0"
        with pytest.raises(NonFiniteError, match=said):
            forecast(replace(inputs, **{field: values}), kernels)


def test_weights_without_a_lora_kernel_are_named() -> None:
    kernels, inputs = synthetic()
    silent = {**kernels, "lora-r4": BlockKernel(tuple(NAMES), 0 * kernels["lora-r4"].array)}
    found = forecast(inputs, silent)
    assert found.advice.adapter is None
    assert any(f"LoRA candidates leave out 8 weights, such as {NAMES[0]}" in note for note in found.warnings)
    assert not any("LoRA candidates" in note for note in forecast(inputs, kernels).warnings)


def test_f1_of_three_labels_is_refused_in_the_library() -> None:
    kernels, inputs = synthetic()
    with pytest.raises(UsageError, match="F1 is the score of two labels, and there are 3"):
        forecast(replace(inputs, n_classes=3, metric="f1"), kernels)


@pytest.mark.parametrize("honest", [0.4, 1.0, 2.5])
def test_nothing_to_gain_is_seldom_called_a_gain(honest: float) -> None:
    kernels, inputs = synthetic(margin=2.0)
    outputs = 2.0 * inputs.f0 / inputs.f0.std()
    p, found = 1 / (1 + np.exp(-honest * outputs[:, 0])), []  # otherwise outputs are too sure, or not sure enough
    for seed in range(60):  # labels are drawn from the outputs before training: nothing is better than these
        y = (np.random.default_rng(seed).random(len(p)) < p).astype(int)
        pool = Pool(kernels, replace(inputs, f0=outputs, y=y), WEIGHTS, FAST)
        item = pool.candidates[seed % len(pool.candidates)]
        found.append(verdict(prediction(pool.evidence(item).scored(item), pool, VALIDATION_LOSS)))
    assert found.count("help") <= 3
    assert len(set(found)) > 1
