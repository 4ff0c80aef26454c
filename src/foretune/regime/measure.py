"""Whether a run behaved as its kernel says: all measures of Malladi et al. 2023, Table 1, on one fine-tuned model.

Linearization and Fixed Features on test examples, the kernel method that stands for the optimiser beside the run, the
output derivative, local Lipschitz constants along the way of training, calibration, and what only a classification head
has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.calibration import TemperatureScaling, temperature_scaling
from foretune.analysis.features import FeatureChange
from foretune.analysis.kernel_behaviour import (
    LINEARIZED_BY,
    AnalogTest,
    FixedFeatures,
    KernelBehaviour,
    LinearizationTest,
    fixed_features,
)
from foretune.analysis.losses import OUTPUT_LOSSES
from foretune.analysis.output_derivative import OutputDerivative, output_derivative
from foretune.analysis.scores import Score, predicted_classes, scored
from foretune.analysis.solvers import Solution
from foretune.errors import DataError, UsageError
from foretune.experiment.experiment import Experiment, Work
from foretune.finetune.methods import Linearized, ProbedFirst
from foretune.finetune.run import Run
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.compute import block_kernels, kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import joint_job
from foretune.kernels.memory_plan import memory_bytes
from foretune.model.batches import outputs_and_features
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.regime.analog import analog_formula, analog_solution, analog_solver, orientations
from foretune.regime.head import change_of_features, head_row_norms
from foretune.regime.linearization import Linearization, linearization
from foretune.regime.smoothness import LocalLipschitz, segment_constants
from foretune.shapes import Float64, Int
from foretune.text.example import Example

_ROUNDING = 1e-6  # of ||theta_0||: a step this small is lost among the rounding errors of float32 gradients


@dataclass(frozen=True)
class Extent:
    """What is measured, and on how many examples.

    Attributes:
        formula: formula of the kernel that is compared before and after.
        train_examples: first training examples that the kernel method is solved on; None for as many as fit the memory.
        test_examples: first test examples that are measured.
        segment_examples: test examples whose local Lipschitz constants are measured.
        segment_points: points between the start and the end of training at which they are.
    """

    formula: Formula
    train_examples: int | None
    test_examples: int
    segment_examples: int
    segment_points: int


@dataclass(frozen=True)
class KernelAnalog:
    """The kernel method that stands for the run, on its own training examples.

    Attributes:
        kernel, solver: names of the kernel and of its solver.
        score: score on the measured test examples.
        tuned: score of the fine-tuned model on the same examples.
        solution: hyperparameters and predictions.
    """

    kernel: str
    solver: str
    score: Score
    tuned: Score
    solution: Solution


@dataclass(frozen=True)
class HeadMeasures:
    """What only a classification head has (Tomihari and Sato 2024).

    Attributes:
        features: how the features changed.
        row_norms: (before, after), one number per class.
    """

    features: FeatureChange
    row_norms: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Behaviour:
    """All measures of one run.

    Attributes:
        about: model, task, method, formula, and how many examples were used.
        verdict: linearization, fixed features and kernel analog with their thresholds.
        shares: block -> norm of its kernel before training over that of the whole kernel.
        analog: the kernel method that stands for the run.
        chi: output derivative on the training examples before training.
        linearization: outputs of the three models on the test examples.
        lipschitz: constants along the way of training; None for a run that did not move.
        calibration: calibration of the fine-tuned model on the test examples.
        head: None where label words answer.
        notes: sentences that a reader must know before the numbers.
    """

    about: Mapping[str, Any]
    verdict: KernelBehaviour
    shares: Mapping[str, float]
    analog: KernelAnalog
    chi: OutputDerivative
    linearization: Linearization
    lipschitz: LocalLipschitz | None
    calibration: TemperatureScaling
    head: HeadMeasures | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelledRows:
    """Some examples and their class numbers."""

    rows: list[Example]
    y: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class TunedPair:
    """A model before and after training, and the examples to measure it on.

    Attributes:
        before, after: the function; before the last stage of a run that began with linear probing.
        trained: the parameters that training moved.
        train, validation, test: the examples that are measured.
        metric: `accuracy`, `f1` or `matthews`.
    """

    before: Outputs
    after: Outputs
    trained: frozenset[str]
    train: LabelledRows
    validation: LabelledRows
    test: LabelledRows
    metric: str


def measured_behaviour(found: Experiment, run: Run, extent: Extent, about: Mapping[str, Any]) -> Behaviour:
    """All measures of one run, one after the other.

    The experiment's work has the budget of kernels and hears of the progress; its stages say what each measure took.

    Args:
        found: the experiment that was run.
        run: the best run, with its model.
        extent: what is measured.
        about: what the caller knows besides, such as the names of model and task.

    Raises:
        DataError: training or test examples of one label only.
        NonFiniteError: infinite or undefined outputs or gradients.
    """
    pair = _pair(found, run, extent)
    test, stages, trained_on = pair.test, found.work.stages, len(found.split.train)
    with stages.stage("linearization"):
        linear = linearization(pair.before, pair.after, test.rows)
        start = outputs_and_features(pair.before, [*pair.train.rows, *pair.validation.rows]).outputs
    with stages.stage("kernel analog"):
        f0 = np.concatenate([start, linear.pretrained])
        analog = _analog(pair, run, f0, found.work)
    with stages.stage("fixed features"):
        fixed, shares = _fixed(pair, extent.formula, found.work)
    with stages.stage("local Lipschitz constants"):
        rows = test.rows[: extent.segment_examples]
        lipschitz = _lipschitz(pair, linear, rows, extent.segment_points)
    with stages.stage("features and calibration"):
        tuned = outputs_and_features(pair.after, pair.validation.rows).outputs
        calibration = temperature_scaling(linear.tuned, test.y, tuned, pair.validation.y)
        head = _head(pair) if isinstance(pair.before, HeadLogits) else None
    gained = linear.test(test.y, LINEARIZED_BY)
    setting = AnalogTest(
        analog.score.value, analog.tuned.value, f"{run.training.optimiser.name}, {len(pair.train.rows)} examples"
    )
    return Behaviour(
        about={**about, **_about(run, pair, extent.formula, trained_on)},
        verdict=KernelBehaviour((setting,), gained, fixed),
        shares=shares,
        analog=analog,
        chi=output_derivative(start[: len(pair.train.rows)], pair.train.y, OUTPUT_LOSSES[run.training.loss.name]()),
        linearization=linear,
        lipschitz=lipschitz,
        calibration=calibration,
        head=head,
        notes=(*_notes(run, linear, gained, extent), *_fewer(pair, trained_on)),
    )


def _pair(found: Experiment, run: Run, extent: Extent) -> TunedPair:
    """The two models of a run, and the first examples of its parts.

    Raises:
        DataError: no test examples, or test examples of one label only.
    """
    task, split = found.task, found.split
    base = found.outputs if run.probing is None else run.probing.outputs
    method = run.method.then if isinstance(run.method, ProbedFirst) else run.method

    before, names = method.start(base), frozenset(run.parameters_after)

    def part(examples: list[Example]) -> LabelledRows:
        return LabelledRows(examples, np.array(task.targets(examples), dtype=int))

    validation, test = part(split.validation), part(split.test[: extent.test_examples])
    most = extent.train_examples or _fitting(
        found.work.memory,
        len(names) * before.n_outputs**2 * len(orientations(analog_formula(run.training.optimiser.name))),
        len(validation.rows) + len(test.rows),
    )
    train = part(split.train[:most])
    for name, chosen in (("train", train), ("test", test)):
        if len(np.unique(chosen.y)) < 2:
            raise DataError(
                f"The {len(chosen.rows)} {name} examples that are measured have {len(np.unique(chosen.y))} label(s); "
                f"expected two or more. Use a larger --{name}-examples, or a run with more examples."
            )
    for outputs in (before, run.outputs):  # copies of the run's own: what it did not train has no part in its kernels
        for name, parameter in outputs.lm.module.named_parameters():
            parameter.requires_grad_(name in names)
    return TunedPair(before, run.outputs, names, train, validation, test, task.metric)


def _fitting(memory: str, entries: int, others: int) -> int:
    """The most training examples n whose joint kernels take half of the memory: 8 `entries` n (n + `others`) bytes."""
    pairs = memory_bytes(memory) // 2 / (8 * entries)
    return max(2, int(np.sqrt(pairs + (others / 2) ** 2) - others / 2))


def _about(run: Run, pair: TunedPair, formula: Formula, trained_on: int) -> dict[str, Any]:
    return {
        "method": run.method.label,
        "optimiser": run.training.optimiser.name,
        "metric": pair.metric,
        "formula": formula.label,
        "sizes": {name: len(getattr(pair, name).rows) for name in ("train", "validation", "test")},
        "trained": len(pair.trained),
        "trained_on": trained_on,
    }


def _analog(pair: TunedPair, run: Run, f0: Float64[np.ndarray, "e c"], work: Work) -> KernelAnalog:
    """The kernel method for the run's optimiser (`behaviour.analog`)."""
    source = analog_formula(run.training.optimiser.name)
    formulas = orientations(source)
    evaluation = [*pair.validation.rows, *pair.test.rows]
    job = joint_job(pair.before, pair.train.rows, evaluation, pair.trained.__contains__)
    kernels = kernels_of(job, formulas, work.memory, None, work.progress)
    totals = [kernels[formula.label].total() for formula in formulas]
    y = np.concatenate([pair.train.y, pair.validation.y, pair.test.y])
    solution = analog_solution(source, totals, f0, y, len(pair.validation.rows), pair.metric)
    tuned = predicted_classes(run.test_logits[: len(pair.test.rows)])
    kernel_score, tuned_score = (scored(pair.test.y, found, pair.metric) for found in (solution.predictions, tuned))
    return KernelAnalog(source.label, analog_solver(source), kernel_score, tuned_score, solution)


def _fixed(pair: TunedPair, formula: Formula, work: Work) -> tuple[FixedFeatures, dict[str, float]]:
    """The kernels of the test examples before and after, compared; and what share each block had of the first."""
    before, after = (
        block_kernels(
            outputs,
            pair.test.rows,
            formula=formula,
            blocks=pair.trained.__contains__,
            memory=work.memory,
            progress=work.progress,
        )
        for outputs in (pair.before, pair.after)
    )
    fixed = change_of_kernel(before, after)
    whole = np.linalg.norm(before.total())
    shares = {name: float(np.linalg.norm(part) / whole) for name, part in zip(before.names, before.array, strict=True)}
    return fixed, shares


def _lipschitz(pair: TunedPair, linear: Linearization, rows: list[Example], points: int) -> LocalLipschitz | None:
    return segment_constants(pair.before, pair.after, rows, points) if linear.change.distance > 0 else None


def _head(pair: TunedPair) -> HeadMeasures:
    before, after = (tuple(head_row_norms(outputs).tolist()) for outputs in (pair.before, pair.after))
    return HeadMeasures(change_of_features(pair.before, pair.after, pair.test.rows, pair.test.y), (before, after))


def _fewer(pair: TunedPair, trained_on: int) -> tuple[str, ...]:
    """What is said where the kernel has seen fewer examples than the run."""
    n = len(pair.train.rows)
    if n == trained_on:
        return ()
    return (
        f"The kernel is solved on the first {n} of the {trained_on} examples that the run was trained on, which favours "
        "the run. Use more --memory, or a larger --train-examples.",
    )


def _notes(run: Run, linear: Linearization, test: LinearizationTest, extent: Extent) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    notes = []
    if run.probing is not None:
        notes.append("The start is the model after linear probing, where the second stage began.")
    if isinstance(run.method, Linearized):
        notes.append(
            "The run trained the linearized model; below, the tuned model is the network itself with these weights."
        )
    if not test.gain > 0:
        notes.append(
            "Training gained nothing on these examples, so the linearized model has no gain to recover, and the test says "
            "nothing. Use more --test-examples, or a run that learns."
        )
    if not linear.change.distance > 0:
        notes.append("No parameter moved: the best checkpoint of the run is its start.")
    elif linear.change.relative / extent.segment_points < _ROUNDING:
        notes.append("The parameters moved so little that the local Lipschitz constants are mostly rounding errors.")
    return tuple(notes)


def change_of_kernel(before: BlockKernel, after: BlockKernel) -> FixedFeatures:
    """The distance between the kernels of a model before and after fine-tuning (Definition 2.2, Table 6).

    Args:
        before, after: block kernels of the same examples.

    Raises:
        UsageError: different blocks, examples or outputs.
    """
    if before.names != after.names:
        odd = sorted(set(before.names) ^ set(after.names))[:3]
        raise UsageError(
            f"The kernels have {len(before.names)} and {len(after.names)} blocks{f', {odd} in one only' if odd else ''}; "
            "expected the same blocks in the same order. Choose them with blocks=."
        )
    return fixed_features(before.names, before.array, after.array)
