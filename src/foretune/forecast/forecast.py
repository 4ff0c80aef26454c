r"""A first forecast from one pass over training and evaluation examples.

What it says, and from what: zero-shot score (the pretrained output), kernel-regression score (what fine-tuning in the
linear regime would reach), baselines on the same split, the spectrum of the whole model and of its parts, the learning
rate that lambda_max allows, and for each candidate set of blocks the ridge risk and the kernel-regression score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.groups import layers, module_types
from foretune.analysis.probe import linear_probe
from foretune.analysis.scores import Score, best_threshold, majority, predicted_classes, scored
from foretune.analysis.solvers import KernelRidge, Solution, joint_data, solved, targets
from foretune.analysis.spectrum import Spectrum, StableLearningRate, spectrum, stable_learning_rate
from foretune.forecast.inputs import Inputs
from foretune.kernels.block_kernel import BlockKernel

RELATIVE_SIGMA = 0.01
"""Ridge strength over lambda_max: of the whole model for condition numbers, of the candidate itself for its risk."""
MINIMUM_PER_LABEL = 8


@dataclass(frozen=True)
class Part:
    """A set of parameter blocks and what its kernel says.

    Attributes:
        name: layer, module type, or `whole model`.
        kind: `layer`, `module type` or `whole model`.
        blocks, parameters: how many.
        largest, smallest: eigenvalues of its training kernel.
        condition_number: kappa(K_S + sigma I) with the whole model's sigma.
        effective_rank: trace over the largest eigenvalue.
        ridge_risk: sigma y'(K_S + sigma I)^-1 y / ||y||^2 with its own sigma; 0 is a perfect fit, 1 is none.
        regression: kernel regression with this part alone.
        score: its test score with interval.
    """

    name: str
    kind: str
    blocks: int
    parameters: int
    largest: float
    smallest: float
    condition_number: float
    effective_rank: float
    ridge_risk: float
    regression: Solution
    score: Score


@dataclass(frozen=True)
class Forecast:
    """Everything that one pass says.

    Attributes:
        answer: one sentence.
        zero_shot: score of the pretrained output as it stands.
        zero_shot_threshold: the same with the threshold chosen on validation (two classes), else None.
        threshold: that threshold on the difference output.
        majority, probe: baselines.
        probe_strength: the linear probe's chosen C.
        whole: the whole model; `whole.score` is the forecast of fine-tuning's score in the linear regime.
        parts: candidates: each layer and each module type.
        sigma: absolute ridge strength of the condition numbers.
        learning_rate: largest stable learning rate.
        warnings: what the reader must know.
    """

    answer: str
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
    warnings: tuple[str, ...]


def forecast(inputs: Inputs, kernel: BlockKernel) -> Forecast:
    """The forecast from pretrained outputs, features, and the joint kernel (train x train, validation, test).

    Args:
        inputs: labels, pretrained outputs and features of the split.
        kernel: `joint_kernels(outputs, split.train, split.validation + split.test)`.
    """
    n, v = inputs.n_train, inputs.n_validation
    y, f0, metric = inputs.y, inputs.f0, inputs.metric
    y_test, f0_test = y[n + v :], f0[n + v :]
    zero_shot = scored(y_test, predicted_classes(f0_test), metric)
    threshold = best_threshold(f0[n : n + v], y[n : n + v], metric) if f0.shape[1] == 1 else None
    tuned = None if threshold is None else scored(y_test, predicted_classes(f0_test, threshold), metric)
    features = inputs.features
    probe = linear_probe(features[:n], y[:n], features[n : n + v], y[n : n + v], metric)
    whole, parts, sigma = _parts(inputs, kernel)
    rate = stable_learning_rate(whole.largest, n, f0.shape[1])
    base = scored(y_test, majority(y_test), metric)
    best_start = tuned if tuned is not None and tuned.value > zero_shot.value else zero_shot
    return Forecast(
        answer=_answer(inputs, whole, parts, best_start, rate),
        zero_shot=zero_shot,
        zero_shot_threshold=tuned,
        threshold=threshold,
        majority=base,
        probe=scored(y_test, probe.predicted(features[n + v :]), metric),
        probe_strength=probe.strength,
        whole=whole,
        parts=parts,
        sigma=sigma,
        learning_rate=rate,
        warnings=_warnings(inputs, whole, best_start),
    )


def _parts(inputs: Inputs, kernel: BlockKernel) -> tuple[Part, tuple[Part, ...], float]:
    """The whole model, its layers and module types, and the sigma of the condition numbers."""
    place = {name: number for number, name in enumerate(kernel.names)}
    alive = [name for name in kernel.names if kernel.array[place[name]].any()]
    total = kernel.total()
    whole_spectrum = spectrum(_train_matrix(inputs, total))
    sigma = RELATIVE_SIGMA * whole_spectrum.largest
    whole = _part("whole model", "whole model", list(kernel.names), total, whole_spectrum, sigma, inputs)
    parts = []
    groups = [("layer", layers(alive)), ("module type", module_types(alive))]
    for kind, members in groups:
        for name, blocks in members.items():
            of_part = kernel.array[[place[block] for block in blocks]].sum(0)
            parts.append(_part(name, kind, blocks, of_part, spectrum(_train_matrix(inputs, of_part)), sigma, inputs))
    return whole, tuple(parts), sigma


def _train_matrix(inputs: Inputs, joint: np.ndarray) -> np.ndarray:
    n, c = inputs.n_train, inputs.f0.shape[1]
    return joint[:, :, :n].reshape(n * c, n * c)


def _part(
    name: str, kind: str, blocks: list[str], joint: np.ndarray, eigen: Spectrum, sigma: float, inputs: Inputs
) -> Part:
    n, v = inputs.n_train, inputs.n_validation
    y = targets(inputs.y[:n], inputs.f0.shape[1]).reshape(-1)
    risk = eigen.ridge_risk(y, RELATIVE_SIGMA * eigen.largest) / float(y @ y) if eigen.largest else 1.0
    data = joint_data(joint, inputs.f0, inputs.y, v, inputs.metric)
    regression = solved(KernelRidge(), data)
    return Part(
        name=name,
        kind=kind,
        blocks=len(blocks),
        parameters=sum(inputs.sizes[block] for block in blocks),
        largest=eigen.largest,
        smallest=eigen.smallest,
        condition_number=eigen.condition_number(sigma),
        effective_rank=eigen.effective_rank,
        ridge_risk=risk,
        regression=regression,
        score=scored(inputs.y[n + v :], regression.predictions, inputs.metric),
    )


def ranked(parts: Sequence[Part]) -> list[Part]:
    """Parts, best first: by validation score, then by ridge risk; test examples have no say."""
    return sorted(parts, key=lambda part: (-part.regression.chosen.validation, part.ridge_risk))


def _answer(inputs: Inputs, whole: Part, parts: tuple[Part, ...], start: Score, rate: StableLearningRate) -> str:
    """The forecast in one sentence."""
    gain = whole.score.value - start.value
    verdict = "should help" if whole.score.low > start.value else "may help" if gain > 0 else "is not expected to help"
    best = {part.kind: part.name for part in reversed(ranked(parts))}
    hint = "".join(
        f"; best single {kind} by validation: {best[kind]}" for kind in ("layer", "module type") if kind in best
    )
    return (
        f"Fine-tuning {verdict}: {inputs.metric} {whole.score.value:.2f} expected in the linear regime "
        f"({whole.score.low:.2f} to {whole.score.high:.2f}), {start.value:.2f} without training{hint}; gradient descent "
        f"is stable below a learning rate of {rate.cross_entropy:.1e}."
    )


def _warnings(inputs: Inputs, whole: Part, start: Score) -> tuple[str, ...]:
    found = list(inputs.warnings)
    fewest = int(np.bincount(inputs.y[: inputs.n_train], minlength=inputs.n_classes).min())
    if fewest < MINIMUM_PER_LABEL:
        found.append(
            f"Only {fewest} training examples for a label: forecasts from fewer than {MINIMUM_PER_LABEL} vary widely."
        )
    if whole.score.low <= start.value <= whole.score.high:
        found.append(
            f"With {len(inputs.y) - inputs.n_train - inputs.n_validation} test examples the expected score and the score "
            "without training cannot be told apart; use a larger --test."
        )
    return tuple(found)
