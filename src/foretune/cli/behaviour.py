"""`behaviour`: the measures of kernel behaviour on a run made by `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.calibration import temperature_scaling
from foretune.analysis.kernel_behaviour import (
    LINEARIZED_BY,
    AnalogTest,
    FixedFeatures,
    KernelBehaviour,
    LinearizationTest,
)
from foretune.analysis.losses import CrossEntropy, SquaredLoss
from foretune.analysis.output_derivative import output_derivative
from foretune.analysis.scores import predicted_classes, scored
from foretune.behaviour.analog import analog_formula, analog_solution, analog_solver, orientations
from foretune.behaviour.head import feature_change, row_norms
from foretune.behaviour.linearization import Linearization, linearization
from foretune.behaviour.measured import fixed_features
from foretune.behaviour.page import Analog, Behaviour, HeadMeasures, behaviour_data, behaviour_page
from foretune.behaviour.smoothness import LocalLipschitz, segment_constants
from foretune.cli.deliver import deliver
from foretune.cli.options import FormulaOptions, ReportOptions
from foretune.cli.places import Places
from foretune.cli.prepare import prepared, versions
from foretune.cli.setup import made_formulas
from foretune.cli.tune import Recipe, finished_report, finished_run, read_recipe
from foretune.cli.tuning_options import BehaviourOptions
from foretune.errors import DataError
from foretune.experiment.experiment import Experiment
from foretune.finetune.methods import Linearized, ProbedFirst
from foretune.finetune.run import Run
from foretune.finetune.training import Training
from foretune.kernels.compute import block_kernels, kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import joint_job
from foretune.kernels.tiles import memory_bytes
from foretune.model.batches import pretrained
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.pages.console import progress_console
from foretune.pages.progress import progress_bar
from foretune.progress import Progress, Stages
from foretune.shapes import Float64, Int
from foretune.text.example import Example

_ROUNDING = 1e-6  # of ||theta_0||: a step this small is lost among the rounding errors of float32 gradients


@dataclass(frozen=True)
class Part:
    """Some examples and their class numbers."""

    rows: list[Example]
    y: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Pair:
    """A model before and after training, and the examples to measure it on.

    Attributes:
        before, after: the function; before the last stage of a run that began with linear probing.
        trained: the parameters that training moved.
        train, validation, test: examples.
        metric: `accuracy`, `f1` or `matthews`.
    """

    before: Outputs
    after: Outputs
    trained: frozenset[str]
    train: Part
    validation: Part
    test: Part
    metric: str


def run_behaviour(measures: BehaviourOptions, report: ReportOptions) -> None:
    """The verdict and its numbers, to the terminal and, on request, to JSON.

    Raises:
        UsageError: the folder holds no finished run of `foretune tune`.
    """
    errors = progress_console(quiet=report.quiet)
    formula = _formula(measures)
    places = Places(report.json, read=(measures.folder,))
    places.check()
    recipe = read_recipe(measures.folder)
    finished_report(measures.folder)
    found = prepared(recipe.experiment, places, measures.folder, errors)
    run = finished_run(measures.folder, recipe, found)
    pair = _pair(found, run, measures)
    with progress_bar(errors) as progress:
        about = _about(recipe, run, pair, formula, len(found.split.train))
        result = _measured(pair, run, formula, measures, found.work.stages, about, progress)
    data = behaviour_data(result, str(measures.folder), versions(), found.work.stages.finished)
    deliver(behaviour_page(result, data), report)


def _formula(measures: BehaviourOptions) -> Formula:
    """The kernel of the fixed-features test."""
    return made_formulas(FormulaOptions(formula=measures.formula))[0]


def _pair(found: Experiment, run: Run, measures: BehaviourOptions) -> Pair:
    """The two models of a run, and the first examples of its parts.

    Raises:
        DataError: no test examples, or test examples of one label only.
    """
    task, split = found.task, found.split
    base = found.outputs if run.probing is None else run.probing.outputs
    method = run.method.then if isinstance(run.method, ProbedFirst) else run.method

    before, names = method.start(base), frozenset(run.parameters_after)

    def part(examples: list[Example]) -> Part:
        return Part(examples, np.array(task.targets(examples), dtype=int))

    validation, test = part(split.validation), part(split.test[: measures.test_examples])
    most = measures.train_examples or _fitting(
        measures.memory,
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
    return Pair(before, run.outputs, names, train, validation, test, task.metric)


def _fitting(memory: str, entries: int, others: int) -> int:
    """The most training examples n whose joint kernels take half of the memory: 8 `entries` n (n + `others`) bytes."""
    pairs = memory_bytes(memory) // 2 / (8 * entries)
    return max(2, int(np.sqrt(pairs + (others / 2) ** 2) - others / 2))


def _about(recipe: Recipe, run: Run, pair: Pair, formula: Formula, trained_on: int) -> dict[str, Any]:
    return {
        "model": recipe.model.model,
        "task": recipe.data.data,
        "method": run.method.label,
        "optimiser": run.training.optimiser.name,
        "metric": pair.metric,
        "formula": formula.label,
        "sizes": {name: len(getattr(pair, name).rows) for name in ("train", "validation", "test")},
        "trained": len(pair.trained),
        "trained_on": trained_on,
    }


def _measured(
    pair: Pair,
    run: Run,
    formula: Formula,
    measures: BehaviourOptions,
    stages: Stages,
    about: dict[str, Any],
    progress: Progress,
) -> Behaviour:
    """All measures, one after the other."""
    test = pair.test
    with stages.stage("linearization"):
        linear = linearization(pair.before, pair.after, test.rows)
        start = pretrained(pair.before, [*pair.train.rows, *pair.validation.rows]).outputs
    with stages.stage("kernel analog"):
        f0 = np.concatenate([start, linear.pretrained])
        analog = _analog(pair, run, f0, measures.memory, progress)
    with stages.stage("fixed features"):
        fixed, shares = _fixed(pair, formula, measures.memory, progress)
    with stages.stage("local Lipschitz constants"):
        rows = test.rows[: measures.segment_examples]
        lipschitz = _lipschitz(pair, linear, rows, measures.segment_points)
    with stages.stage("features and calibration"):
        tuned = pretrained(pair.after, pair.validation.rows).outputs
        calibration = temperature_scaling(linear.tuned, test.y, tuned, pair.validation.y)
        head = _head(pair) if isinstance(pair.before, HeadLogits) else None
    gained = linear.test(test.y, LINEARIZED_BY)
    setting = AnalogTest(
        analog.score.value, analog.tuned.value, f"{about['optimiser']}, {len(pair.train.rows)} examples"
    )
    return Behaviour(
        about=about,
        verdict=KernelBehaviour((setting,), gained, fixed),
        shares=shares,
        analog=analog,
        chi=output_derivative(start[: len(pair.train.rows)], pair.train.y, _loss(run.training)),
        linearization=linear,
        lipschitz=lipschitz,
        calibration=calibration,
        head=head,
        notes=(*_notes(run, linear, gained, measures), *_fewer(pair, about["trained_on"])),
    )


def _loss(training: Training) -> CrossEntropy | SquaredLoss:
    return {"cross-entropy": CrossEntropy(), "squared": SquaredLoss()}[training.loss.name]


def _analog(pair: Pair, run: Run, f0: Float64[np.ndarray, "e c"], memory: str, progress: Progress) -> Analog:
    """The kernel method for the run's optimiser (`behaviour.analog`)."""
    source = analog_formula(run.training.optimiser.name)
    formulas = orientations(source)
    evaluation = [*pair.validation.rows, *pair.test.rows]
    job = joint_job(pair.before, pair.train.rows, evaluation, pair.trained.__contains__)
    kernels = kernels_of(job, formulas, memory, None, progress)
    totals = [kernels[formula.label].total() for formula in formulas]
    y = np.concatenate([pair.train.y, pair.validation.y, pair.test.y])
    solution = analog_solution(source, totals, f0, y, len(pair.validation.rows), pair.metric)
    tuned = predicted_classes(run.test_logits[: len(pair.test.rows)])
    kernel_score, tuned_score = (scored(pair.test.y, found, pair.metric) for found in (solution.predictions, tuned))
    return Analog(source.label, analog_solver(source), kernel_score, tuned_score, solution)


def _fixed(pair: Pair, formula: Formula, memory: str, progress: Progress) -> tuple[FixedFeatures, dict[str, float]]:
    """The kernels of the test examples before and after, compared; and what share each block had of the first."""
    before, after = (
        block_kernels(
            outputs,
            pair.test.rows,
            formula=formula,
            blocks=pair.trained.__contains__,
            memory=memory,
            progress=progress,
        )
        for outputs in (pair.before, pair.after)
    )
    fixed = fixed_features(before, after)
    whole = np.linalg.norm(before.total())
    shares = {name: float(np.linalg.norm(part) / whole) for name, part in zip(before.names, before.array, strict=True)}
    return fixed, shares


def _lipschitz(pair: Pair, linear: Linearization, rows: list[Example], points: int) -> LocalLipschitz | None:
    return segment_constants(pair.before, pair.after, rows, points) if linear.change.distance > 0 else None


def _head(pair: Pair) -> HeadMeasures:
    before, after = (tuple(row_norms(outputs).tolist()) for outputs in (pair.before, pair.after))
    return HeadMeasures(feature_change(pair.before, pair.after, pair.test.rows, pair.test.y), (before, after))


def _fewer(pair: Pair, trained_on: int) -> tuple[str, ...]:
    """What is said where the kernel has seen fewer examples than the run."""
    n = len(pair.train.rows)
    if n == trained_on:
        return ()
    return (
        f"The kernel is solved on the first {n} of the {trained_on} examples that the run was trained on, which favours "
        "the run. Use more --memory, or a larger --train-examples.",
    )


def _notes(run: Run, linear: Linearization, test: LinearizationTest, measures: BehaviourOptions) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    notes = []
    if run.probing is not None:
        notes.append("The start is the model after linear probing, where the second stage began.")
    if isinstance(run.method, Linearized):
        notes.append("The run trained the linearized model; below, the tuned model is the network on its weights.")
    if not test.gain > 0:
        notes.append(
            "Training gained nothing on these examples, so that there is no gain for the linearized model to recover: "
            "nothing can be said of the model. Use more --test-examples, or a run that learns."
        )
    if not linear.change.distance > 0:
        notes.append("No parameter moved: the checkpoint of the run is its start.")
    elif linear.change.relative / measures.segment_points < _ROUNDING:
        notes.append("The parameters moved so little that the local Lipschitz constants are mostly rounding errors.")
    return tuple(notes)
