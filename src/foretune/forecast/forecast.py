r"""A forecast from one pass over training and evaluation examples.

What it says, and from what: zero-shot score (the pretrained output), kernel-regression score (what fine-tuning in the
linear regime would reach), baselines on the same split, the spectrum of the whole model and of its parts, the learning
rate that lambda_max allows, and for each candidate set of blocks and method a simulated run, from which one is
recommended.
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.analysis.probe import linear_probe
from foretune.analysis.scores import Score, best_threshold, majority, predicted_classes, scored
from foretune.analysis.spectrum import StableLearningRate, stable_learning_rate
from foretune.candidates.adam import AdamRate
from foretune.candidates.comparison import Comparison, comparison
from foretune.candidates.evidence import Pool
from foretune.candidates.scored import RATES_ARE_FOR
from foretune.experiment.inputs import Inputs
from foretune.forecast.advice import Advice, advice
from foretune.forecast.labels import label_warnings
from foretune.forecast.parts import Part, whole_and_parts


@dataclass(frozen=True)
class Forecast:
    """Everything that one pass says.

    Attributes:
        answer: what to train and what it would reach, in a sentence or two.
        advice: the recommended candidate, and why.
        comparison: all candidates.
        zero_shot: score of the pretrained output as it stands.
        zero_shot_threshold: the same with the threshold chosen on validation (two classes), else None.
        threshold: that threshold on the difference output.
        majority, probe: baselines.
        probe_strength: the linear probe's chosen C.
        whole: the whole model; `whole.score` is kernel regression's forecast of its score in the linear regime.
        parts: each layer and each module type, tuned in full.
        sigma: absolute ridge strength of the condition numbers.
        learning_rate: largest stable learning rate.
        rates_are_for: the kind of training that this and the candidates' learning rates are for, in words.
        adamw: where to begin with AdamW, for the recommended candidate.
        adapter_adamw: the same for `advice.adapter`; None without one.
        warm_up: steps of real training before everything here was measured; 0 for the pretrained model.
        warnings: what the reader must know.
    """

    answer: str
    advice: Advice
    comparison: Comparison
    zero_shot: Score
    zero_shot_threshold: Score | None
    threshold: float | None
    majority: Score
    probe: Score
    probe_strength: float
    whole: Part
    parts: tuple[Part, ...]
    sigma: float
    learning_rate: StableLearningRate
    rates_are_for: str
    adamw: AdamRate
    adapter_adamw: AdamRate | None
    warm_up: int
    warnings: tuple[str, ...]


def forecast(pool: Pool) -> Forecast:
    """The forecast from pretrained outputs, features, and joint kernels (train x train, validation, test).

    Args:
        pool: `Pool.sized(kernels, inputs, parameter_sizes(outputs))`, with the kernels of `formulas_for(job.kinds)` on
            `joint_job(outputs, split.train, [*split.validation, *split.test])`.

    Raises:
        DataError: one label only, a label without training example, or no validation or test examples.
    """
    inputs = pool.inputs
    rare = label_warnings(inputs)
    n, v = inputs.n_train, inputs.n_validation
    y, f0, metric = inputs.y, inputs.f0, inputs.metric
    y_test, f0_test = y[n + v :], f0[n + v :]
    zero_shot = scored(y_test, predicted_classes(f0_test), metric)
    threshold = best_threshold(f0[n : n + v], y[n : n + v], metric) if f0.shape[1] == 1 else None
    tuned = None if threshold is None else scored(y_test, predicted_classes(f0_test, threshold), metric)
    features = inputs.features
    probe = linear_probe(features[:n], y[:n], features[n : n + v], y[n : n + v], metric)
    whole, parts, sigma = whole_and_parts(inputs, pool.kernels["sgd"])
    start = tuned if tuned is not None and tuned.value > zero_shot.value else zero_shot
    compared = comparison(pool)
    advised = advice(compared, pool, start)
    adamw = pool.evidence(advised.candidate).adam_rate
    return Forecast(
        answer=_answer(inputs, advised, start, adamw),
        advice=advised,
        comparison=compared,
        zero_shot=zero_shot,
        zero_shot_threshold=tuned,
        threshold=threshold,
        majority=scored(y_test, majority(y_test), metric),
        probe=scored(y_test, probe.predicted(features[n + v :]), metric),
        probe_strength=probe.strength,
        whole=whole,
        parts=parts,
        sigma=sigma,
        learning_rate=stable_learning_rate(whole.largest, n, f0.shape[1]),
        rates_are_for=RATES_ARE_FOR,
        adamw=adamw,
        adapter_adamw=None if advised.adapter is None else pool.evidence(advised.adapter).adam_rate,
        warm_up=inputs.warm_up,
        warnings=(*inputs.warnings, *rare, *_warm_up_warning(inputs), *_test_size_warning(inputs, whole, start)),
    )


def _answer(inputs: Inputs, advised: Advice, start: Score, adamw: AdamRate) -> str:
    """The forecast in words."""
    chosen, score = advised.candidate, advised.predicted.score
    gain = score.value - start.value
    verdict = "should help" if score.low > start.value else "may help" if gain > 0 else "is not expected to help"
    claim = f"Fine-tuning {verdict}"
    if advised.beats_probing is False:
        claim = f"Adapting is not expected to beat linear probing, which {verdict}"
    return (
        f"{claim}: {inputs.metric} {score.value:.2f} ({score.low:.2f} to {score.high:.2f}) predicted "
        f"{advised.predicted.by} for {chosen.title} ({chosen.parameters:,} parameters, {chosen.score.steps} steps at "
        f"learning rate {chosen.score.learning_rate:.1e} of full-batch gradient descent), {start.value:.2f} "
        f"{inputs.start}. For AdamW: {adamw.words}. Recommended because {advised.reason}"
    )


def _warm_up_warning(inputs: Inputs) -> list[str]:
    if not inputs.warm_up:
        return []
    return [
        f"All scores, kernels and simulated steps are from real training step {inputs.warm_up} on: the baselines too are "
        "those of the warmed model."
    ]


def _test_size_warning(inputs: Inputs, whole: Part, start: Score) -> list[str]:
    if not whole.score.low <= start.value <= whole.score.high:
        return []
    return [
        f"With {len(inputs.y) - inputs.n_train - inputs.n_validation} test examples the score of kernel regression and "
        "the score without training cannot be told apart; use a larger --test."
    ]
