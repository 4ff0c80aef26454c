"""Whether a run behaved as its kernel says: everything that was measured, and its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.analysis.calibration import TemperatureScaling
from foretune.analysis.kernel_behaviour import LINEARIZED_BY
from foretune.analysis.output_derivative import OutputDerivative
from foretune.page import Cell, Column, Curve, Fact, Figure, Page, Quantity, Table, cell_text
from foretune.progress import Stage
from foretune.regime.measure import Behaviour, HeadMeasures, KernelAnalog
from foretune.shapes import Float64

_SHOWN = 5
_NEGLIGIBLE = 1e-6  # of the whole kernel: such a block (BERT's key biases) compares rounding noise


@dataclass(frozen=True)
class ParameterMoves:
    """How far training moved the parameters.

    Attributes:
        distance: ||theta_FT - theta_0||.
        relative: that distance over ||theta_0||.
        by_parameter: name -> norm of its change.
    """

    distance: float
    relative: float
    by_parameter: Mapping[str, float]


@dataclass(frozen=True)
class Gap:
    """How far the linearized model is from the fine-tuned one, on the test examples.

    Attributes:
        relative: norm of the gap over that of the change of the outputs; null where they did not change.
        by_example: norm of the gap of each example.
        pretrained: outputs before training.
        linear: outputs of the linearized model.
        tuned: outputs after training.
    """

    relative: float
    by_example: Float64[np.ndarray, " n"]
    pretrained: Float64[np.ndarray, "n c"]
    linear: Float64[np.ndarray, "n c"]
    tuned: Float64[np.ndarray, "n c"]


@dataclass(frozen=True)
class LipschitzOnTheWay:
    """Local Lipschitz constants of the tangent features on the straight way that training went.

    Attributes:
        radii: distances from the start, in parameter space.
        average: mean over directions and examples, by radius.
        largest: maximum over directions and examples, by radius.
        values: constants by radius, direction and example.
        gap_bounds: bound on the gap of each example that they give.
    """

    radii: Float64[np.ndarray, " r"]
    average: Float64[np.ndarray, " r"]
    largest: Float64[np.ndarray, " r"]
    values: Float64[np.ndarray, "r k n"]
    gap_bounds: Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class BehaviourData:
    """All measures of one run for programs.

    Attributes:
        folder: folder of the run.
        model: model, as it was named.
        task: task, as it was named.
        method: method of fine-tuning.
        optimiser: name of the optimiser.
        metric: `accuracy`, `f1` or `matthews`.
        formula: label of the kernel of the fixed-features test.
        sizes: how many examples were measured: `train`, `validation`, `test`.
        trained: how many parameters (tensors) training moved.
        trained_on: how many examples the run was trained on.
        verdict: the answer, with every number and threshold that it rests on.
        shares: block -> norm of its kernel before training over that of the whole kernel.
        analog: the kernel method that stands for the run.
        chi: output derivative on the training examples before training.
        parameters: how far they moved.
        gap: between linearized and fine-tuned model.
        lipschitz: constants along the way; null for a run that did not move.
        calibration: calibration of the fine-tuned model on the test examples.
        head: what only a classification head has; null where label words answer.
        notes: notes for readers.
        versions: versions of Python and of the packages that numbers depend on.
        stages: seconds and memory of each stage.
    """

    folder: str
    model: str
    task: str
    method: str
    optimiser: str
    metric: str
    formula: str
    sizes: Mapping[str, int]
    trained: int
    trained_on: int
    verdict: Mapping[str, Any]
    shares: Mapping[str, float]
    analog: KernelAnalog
    chi: OutputDerivative
    parameters: ParameterMoves
    gap: Gap
    lipschitz: LipschitzOnTheWay | None
    calibration: TemperatureScaling
    head: HeadMeasures | None
    notes: Sequence[str]
    versions: Mapping[str, str]
    stages: Sequence[Stage]


def behaviour_data(
    found: Behaviour, folder: str, versions: Mapping[str, str], stages: Sequence[Stage]
) -> BehaviourData:
    """Everything unrounded.

    Args:
        found: all measures.
        folder: of the run.
        versions: of packages.
        stages: measured.
    """
    linear, lipschitz = found.linearization, found.lipschitz
    change = linear.change
    way = None
    if lipschitz is not None:
        bounds = lipschitz.gap_bounds(change.distance)
        way = LipschitzOnTheWay(lipschitz.radii, lipschitz.average, lipschitz.largest, lipschitz.values, bounds)
    return BehaviourData(
        folder=folder,
        **found.about,
        verdict=found.verdict.summary,
        shares=found.shares,
        analog=found.analog,
        chi=found.chi,
        parameters=ParameterMoves(change.distance, change.relative, change.norms),
        gap=Gap(linear.relative_gap, linear.gap, linear.pretrained, linear.linear, linear.tuned),
        lipschitz=way,
        calibration=found.calibration,
        head=found.head,
        notes=found.notes,
        versions=versions,
        stages=stages,
    )


def behaviour_page(found: Behaviour, data: object) -> Page:
    """The verdict, the tests behind it, and the other measures.

    Args:
        found: all measures.
        data: the same for programs, `behaviour_data(found, ...)`.
    """
    about, verdict = found.about, found.verdict
    answer = f"Kernel behaviour: {verdict.verdict}"
    return Page(
        title=(
            f"{about['method']} of {about['model']} on {about['task']} with {about['optimiser']}, measured on "
            f"{about['sizes']['test']} test examples"
        ),
        answer=answer,
        facts=(Fact("Kernel behaviour", verdict.verdict, 1), *_test_facts(found)),
        notes=found.notes,
        tables=(_tests(found), _blocks(found), _measures(found)),
        figures=_figures(found),
        kind="behaviour",
        data=data,
    )


def _test_facts(found: Behaviour) -> list[Fact]:
    """What each test says."""
    names = ("Linear?", "Features fixed?", "Kernel solves it?")
    return [
        Fact(name, f"{holds}: {cell_text(value)} (expected {threshold}), {what}", 3)
        for name, (what, value, threshold, holds) in zip(names, _test_rows(found), strict=False)
    ]


def _tests(found: Behaviour) -> Table:
    """The three tests of Malladi et al. 2023, Table 1."""
    columns = (
        Column("test", words=True),
        Column("value", words=False),
        Column("threshold", words=False),
        Column("holds"),
    )
    return Table(columns, tuple(_test_rows(found)), "Tests of Malladi et al. 2023, Table 1", details=True)


def _test_rows(found: Behaviour) -> list[tuple[Cell, ...]]:
    verdict, limits = found.verdict, found.verdict.thresholds
    linear, fixed, analog = verdict.linearization, verdict.fixed, found.analog
    rows: list[tuple[Cell, ...]] = [
        (
            f"share of the gain in {LINEARIZED_BY} that the linearized model recovers (before {linear.pretrained:.3f}, "
            f"linearized {linear.linear:.3f}, tuned {linear.tuned:.3f})",
            Quantity(linear.share, ".2f", missing="no gain"),
            f">= {limits.share:g}",
            _yes(verdict.linear) if linear.gain > 0 else "cannot say",
        ),
        (
            f"relative distance of the {found.about['formula']} kernel before and after",
            Quantity(fixed.distance, ".3f", missing="undefined"),
            f"< {limits.distance:g}",
            _yes(verdict.features_fixed),
        ),
    ]
    for points in (limits.points, limits.wide_points):
        rows.append(
            (
                f"{analog.kernel} kernel, {analog.solver} solver: {analog.score.value:.3f} ({analog.score.low:.2f} - "
                f"{analog.score.high:.2f}) against {analog.tuned.value:.3f} of the run",
                Quantity(100 * (analog.score.value - analog.tuned.value), "+.1f", "points"),
                f">= {-100 * points:g} points",
                _yes(verdict.solvable(points) == "yes"),
            )
        )
    return rows


def _blocks(found: Behaviour) -> Table:
    """The blocks by how much their kernel changed, of those that count."""
    blocks = found.verdict.fixed.blocks
    fresh = [name for name in blocks if math.isinf(blocks[name])]
    counting = [name for name, share in found.shares.items() if share > _NEGLIGIBLE and name not in fresh]
    title = f"Most changed blocks, {len(counting)} of {len(blocks)}" + (f" ({len(fresh)} were zero)" if fresh else "")
    rows = tuple((name, blocks[name]) for name in sorted(counting, key=lambda name: -blocks[name]))
    few = tuple(range(min(len(rows), _SHOWN)))
    return Table((Column("block", words=True), Column("distance", ".3f")), rows, title, few=few, details=True)


def _measures(found: Behaviour) -> Table:
    change, gap, lipschitz = found.linearization.change, found.linearization.gap, found.lipschitz
    rows: list[tuple[Cell, ...]] = [
        ("output derivative |chi| before training, mean", Quantity(found.chi.mean_absolute, ".3f")),
        ("output derivative |chi| before training, maximum", Quantity(found.chi.largest, ".3f")),
        ("||theta_FT - theta_0||", Quantity(change.distance, ".4g")),
        ("||theta_FT - theta_0|| / ||theta_0||", Quantity(change.relative, ".2e")),
        ("gap ||f - f_lin||, mean", Quantity(float(gap.mean()), ".3g")),
        ("gap ||f - f_lin||, maximum", Quantity(float(gap.max()), ".3g")),
        (
            "gap ||f - f_lin||, relative to the change of f",
            Quantity(found.linearization.relative_gap, ".2f", missing="no change"),
        ),
        (
            "kernels: ||K_after - K_before|| / ||K_before||",
            Quantity(found.verdict.fixed.frobenius, ".3f", missing="undefined"),
        ),
    ]
    if lipschitz is not None:
        what = f"local Lipschitz constant on the way, {lipschitz.values.shape[2]} examples"
        bound = float(lipschitz.gap_bounds(change.distance).max())
        rows += [
            (f"{what}, average", Quantity(float(lipschitz.average.mean()), ".3g")),
            (f"{what}, maximum", Quantity(float(lipschitz.largest.max()), ".3g")),
            ("bound on the gap that they give, maximum", Quantity(bound, ".3g")),
        ]
    rows += _calibration_rows(found)
    rows += [] if found.head is None else _head_rows(found.head)
    return Table((Column("what", words=True), Column("value", words=True)), tuple(rows), "Measures", details=True)


def _figures(found: Behaviour) -> tuple[Figure, ...]:
    """The gap of the linearized model, example by example."""
    gap = np.sort(np.asarray(found.linearization.gap, dtype=float))
    drawn = (Curve("||f - f_lin||", gap),)
    return (Figure("gap", "Gap of the linearized model", "test example, sorted", "gap (outputs)", drawn),)


def _calibration_rows(found: Behaviour) -> list[tuple[Cell, ...]]:
    scaling = found.calibration
    limited = " (at the limit)" if scaling.temperature.at_limit else ""
    scaled = f", temperature {scaling.temperature.value:.3g}{limited}"
    return [
        (f"calibration error {name}{how}", Quantity(value, ".3f"))
        for how, of in (("", scaling.without), (scaled, scaling.scaled))
        for name, value in (("ECE", of.ece), ("MCE", of.mce))
    ]


def _head_rows(head: HeadMeasures) -> list[tuple[Cell, ...]]:
    features = head.features
    before, after = (", ".join(f"{norm:.3g}" for norm in norms) for norms in head.row_norms)
    return [
        ("features: cosine with their start", Quantity(features.cosine, ".4f")),
        ("features: relative change", Quantity(features.relative, ".2e")),
        *_before_and_after("features: similarity of two examples", features.similarity, ".4f"),
        *_before_and_after("features: Fisher ratio", features.fisher, ".3g"),
        ("norms of the head's rows, before > after", f"{before} > {after}"),
    ]


def _before_and_after(what: str, values: tuple[float, float], form: str) -> list[tuple[Cell, ...]]:
    return [(f"{what}, {when}", Quantity(value, form)) for when, value in zip(("before", "after"), values, strict=True)]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
