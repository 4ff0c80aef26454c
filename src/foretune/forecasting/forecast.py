r"""A forecast from one pass over training and evaluation examples.

What it says, and from what: zero-shot score (the pretrained output), kernel-regression score (what fine-tuning in the
linear regime would reach), baselines on the same split, the spectrum of the whole model and of its parts, the learning
rate that lambda_max allows, and for each candidate set of blocks and method a simulated run, from which one is
recommended.
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.analysis.scores import Score
from foretune.analysis.spectrum import StableLearningRate, stable_learning_rate
from foretune.candidates.adam import AdamRate
from foretune.candidates.baseline import ClassRule, rule_for
from foretune.candidates.comparison import Comparison, comparison
from foretune.candidates.evidence import Pool
from foretune.candidates.prediction import Prediction
from foretune.candidates.scored import RATES_ARE_FOR, ScoredCandidate
from foretune.candidates.verdict import Verdict, claim
from foretune.errors import UsageError
from foretune.experiment.inputs import Inputs
from foretune.forecasting.advice import Advice, advice
from foretune.forecasting.anatomy import Anatomy, anatomy
from foretune.forecasting.labels import label_warnings
from foretune.forecasting.parts import Part, whole_and_parts
from foretune.forecasting.recommended import Recommendation, recommendation
from foretune.forecasting.sound import refuse_useless, silent_adapters
from foretune.forecasting.untrained import untrained


@dataclass(frozen=True)
class PoolForecast:
    """Everything that one pass says.

    Attributes:
        answer: what comes first, what training it would reach, and why, in a sentence or two.
        verdict: `help`, `may`, `no` or `cannot tell` on what comes first, see `candidates.verdict`.
        advice: the candidate that comes first, and why.
        recommended: what to train: of the choices that tie with the first, the smallest; None after a no.
        before: score without training, by the rule that scores predictions.
        thresholded: whether that rule tells two classes apart by a threshold set on validation examples, not by sign.
        comparison: all candidates with their numbers.
        started: what the outputs before the simulated training are called, such as `zero-shot`.
        zero_shot: score of these outputs as they stand.
        zero_shot_threshold: zero-shot score with the threshold chosen on validation (two classes), else None.
        threshold: threshold on the difference output that validation chose.
        majority, probe: scores of the most frequent label and of the linear probe.
        probe_strength: the linear probe's chosen C.
        whole: the whole model; `whole.score` is kernel regression's forecast of its score in the linear regime.
        parts: each layer and each module type, tuned in full.
        sigma: absolute ridge strength of the condition numbers.
        learning_rate: largest stable learning rate.
        rates_are_for: the kind of training that this and the candidates' learning rates are for, in words.
        adamw: where to begin with AdamW, for the candidate that comes first; None after a no.
        adapter_adamw: where to begin with AdamW for `advice.adapter`; None without one.
        anatomy: what the kernel of full tuning is made of.
        warm_up: steps of real training before everything here was measured; 0 for the pretrained model.
        warnings: what the reader must know.
    """

    answer: str
    verdict: Verdict
    advice: Advice
    recommended: Recommendation | None
    before: Score
    thresholded: bool
    comparison: Comparison
    started: str
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
    adamw: AdamRate | None
    adapter_adamw: AdamRate | None
    anatomy: Anatomy
    warm_up: int
    warnings: tuple[str, ...]

    @property
    def word(self) -> Verdict:
        """The verdict on what is recommended, or on what comes first where nothing is."""
        return self.verdict if self.recommended is None else self.recommended.verdict

    @property
    def chosen(self) -> ScoredCandidate:
        """What is recommended, or what comes first where nothing is."""
        return self.advice.candidate if self.recommended is None else self.recommended.candidate

    @property
    def predicted(self) -> Prediction:
        """The score that training it would reach."""
        return self.advice.predicted if self.recommended is None else self.recommended.predicted


def pool_forecast(pool: Pool) -> PoolForecast:
    """The forecast from pretrained outputs, features, and joint kernels (train x train, validation, test).

    Args:
        pool: `Pool.sized(kernels, inputs, parameter_sizes(outputs))`, with the kernels of `formulas_for(job.kinds)` on
            `joint_job(outputs, split.train, [*split.validation, *split.test])`.

    Raises:
        UsageError: F1 of more than two labels.
        DataError: one label only, a label without training example, or no validation or test examples.
        NonFiniteError: a kernel, an output or a feature is infinite or undefined.
        ModelError: no gradient: there is nothing to train.
    """
    inputs = pool.inputs
    if inputs.metric == "f1" and inputs.n_classes != 2:
        raise UsageError(
            f"F1 is the score of two labels, and there are {inputs.n_classes}. Use metric='accuracy' or 'matthews'."
        )
    rare = label_warnings(inputs)
    refuse_useless(inputs, pool.kernels)
    without = untrained(inputs)
    whole, parts, sigma, eigenvalues = whole_and_parts(inputs, pool.kernels["sgd"])
    rule = rule_for(inputs)
    compared = comparison(pool)
    advised = advice(compared, pool, rule)
    adamw, adapter_adamw = (
        None if item is None or advised.verdict == "no" else pool.evidence(item).adam_rate
        for item in (advised.candidate, advised.adapter)
    )
    picked = recommendation(advised, compared, pool, rule)
    return PoolForecast(
        answer=_answer(inputs, advised, rule, adamw),
        verdict=advised.verdict,
        advice=advised,
        recommended=picked,
        before=advised.predicted.start,
        thresholded=rule.thresholded,
        comparison=compared,
        started=inputs.started,
        **vars(without),
        whole=whole,
        parts=parts,
        sigma=sigma,
        learning_rate=stable_learning_rate(whole.largest, inputs.n_train, inputs.f0.shape[1]),
        rates_are_for=RATES_ARE_FOR,
        adamw=adamw,
        adapter_adamw=adapter_adamw,
        anatomy=anatomy(pool, advised.candidate if picked is None else picked.candidate, eigenvalues),
        warm_up=inputs.warm_up,
        warnings=(
            *inputs.warnings,
            *rare,
            *silent_adapters(pool.kernels),
            *_warm_up_warning(inputs),
            *_test_size_warning(inputs, whole, advised.predicted.start),
        ),
    )


def _answer(inputs: Inputs, advised: Advice, rule: ClassRule, adamw: AdamRate | None) -> str:
    """The forecast in words."""
    chosen, score, start = advised.candidate, advised.predicted.score, advised.predicted.start
    known = f"{chosen.title} ({chosen.parameters:,} parameters"
    beside = f" ({rule.words})" if rule.words else ""
    found = (
        f"{claim(advised.verdict, beats_probing=advised.beats_probing)}: {inputs.metric} {score.value:.2f} "
        f"({score.low:.2f} to {score.high:.2f}) predicted {advised.predicted.by} for {known}), {start.value:.2f} "
        f"{inputs.start}{beside}."
    )
    if adamw is None:
        return f"{found} Nothing is recommended: of what could be trained this comes first because {advised.reason}"
    return f"{found} For AdamW: {adamw.words}. It comes first because {advised.reason}"


def _warm_up_warning(inputs: Inputs) -> list[str]:
    if not inputs.warm_up:
        return []
    return [
        f"All scores, kernels, simulated steps and baselines are those of the model after {inputs.warm_up} real training "
        "steps."
    ]


def _test_size_warning(inputs: Inputs, whole: Part, start: Score) -> list[str]:
    if not whole.score.low <= start.value <= whole.score.high:
        return []
    return [
        f"With {len(inputs.y) - inputs.n_train - inputs.n_validation} test examples the score of kernel regression and "
        "the score without training cannot be told apart."
    ]
