"""Whether a run behaved as its kernel says: everything that was measured, for JSON and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from foretune.analysis.calibration import TemperatureScaling
from foretune.analysis.features import FeatureChange
from foretune.analysis.kernel_behaviour import LINEARIZED_BY, KernelBehaviour
from foretune.analysis.output_derivative import OutputDerivative
from foretune.analysis.scores import Score
from foretune.analysis.solvers import Solution
from foretune.behaviour.linearization import Linearization
from foretune.behaviour.smoothness import LocalLipschitz
from foretune.naming import visible
from foretune.pages.layout import Column, note, strong, table

_SHOWN = 5
_NEGLIGIBLE = 1e-6  # of the whole kernel: such a block (BERT's key biases) compares rounding noise


@dataclass(frozen=True)
class Analog:
    """The kernel method that stands for the run, on its own training examples.

    Attributes:
        kernel, solver: their names.
        score: on the measured test examples.
        tuned: of the fine-tuned model there.
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
        features: their change.
        row_norms: (before, after), one number a class.
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
        analog: the kernel method.
        chi: output derivative on the training examples before training.
        linearization: outputs of the three models on the test examples.
        lipschitz: constants along the way of training; None for a run that did not move.
        calibration: of the fine-tuned model on the test examples.
        head: None where label words answer.
        notes: for readers.
    """

    about: Mapping[str, Any]
    verdict: KernelBehaviour
    shares: Mapping[str, float]
    analog: Analog
    chi: OutputDerivative
    linearization: Linearization
    lipschitz: LocalLipschitz | None
    calibration: TemperatureScaling
    head: HeadMeasures | None
    notes: tuple[str, ...]


def behaviour_fields(found: Behaviour) -> dict[str, Any]:
    """Everything unrounded, for JSON; parameters by the norm of their change."""
    change, linear = found.linearization.change, found.linearization
    lipschitz = found.lipschitz
    return {
        **found.about,
        "verdict": found.verdict.summary,
        "shares": found.shares,
        "analog": found.analog,
        "chi": found.chi,
        "parameters": {"distance": change.distance, "relative": change.relative, "by_parameter": change.norms},
        "gap": {
            "relative": linear.relative_gap,
            "by_example": linear.gap,
            "pretrained": linear.pretrained,
            "linear": linear.linear,
            "tuned": linear.tuned,
        },
        "lipschitz": None
        if lipschitz is None
        else {
            "radii": lipschitz.radii,
            "average": lipschitz.average,
            "largest": lipschitz.largest,
            "values": lipschitz.values,
            "gap_bounds": lipschitz.gap_bounds(change.distance),
        },
        "calibration": found.calibration,
        "head": found.head,
        "notes": found.notes,
    }


def print_behaviour(console: Console, found: Behaviour) -> None:
    """Print the verdict, the tests behind it, and the other measures."""
    about = found.about
    measured = (
        f" - {about['method']} of {about['model']} on {about['task']} with {about['optimiser']}, measured on "
        f"{about['sizes']['test']} test examples\n"
    )
    console.print()
    console.print(Text.assemble(strong(f"Kernel behaviour: {found.verdict.verdict}"), visible(measured)))
    for text in found.notes:
        console.print(note(text))
    console.print(_tests(console, found))
    console.print(_blocks(console, found))
    console.print(_measures(console, found))


def _tests(console: Console, found: Behaviour) -> RenderableType:
    """The three tests of Malladi et al. 2023, Table 1."""
    verdict, limits = found.verdict, found.verdict.thresholds
    linear, fixed, analog = verdict.linearization, verdict.fixed, found.analog
    columns = [Column("test", words=True), Column("value"), Column("threshold"), Column("holds")]
    rows = [
        (
            f"linearization: share of the gain in {LINEARIZED_BY} (before {linear.pretrained:.3f}, linearized "
            f"{linear.linear:.3f}, tuned {linear.tuned:.3f})",
            _number(linear.share, ".2f", "no gain"),
            f">= {limits.share:g}",
            _yes(verdict.linear) if linear.gain > 0 else "cannot say",
        ),
        (
            f"fixed features: relative distance of the {found.about['formula']} kernel",
            _number(fixed.distance, ".3f"),
            f"< {limits.distance:g}",
            _yes(verdict.features_fixed),
        ),
    ]
    for points in (limits.points, limits.wide_points):
        rows.append(
            (
                f"kernel analog ({analog.kernel}, {analog.solver}): {analog.score.value:.3f} "
                f"({analog.score.low:.2f} - {analog.score.high:.2f}) against {analog.tuned.value:.3f}",
                f"{100 * (analog.score.value - analog.tuned.value):+.1f} points",
                f">= {-100 * points:g} points",
                _yes(verdict.solved(points) == "yes"),
            )
        )
    return table(console, "Tests of Malladi et al. 2023, Table 1", columns, rows)


def _blocks(console: Console, found: Behaviour) -> RenderableType:
    """The blocks whose kernel changed most, of those that count."""
    blocks = found.verdict.fixed.blocks
    fresh = [name for name in blocks if math.isinf(blocks[name])]
    counting = [name for name, share in found.shares.items() if share > _NEGLIGIBLE and name not in fresh]
    title = f"Most changed blocks, {len(counting)} of {len(blocks)}" + (f" ({len(fresh)} were zero)" if fresh else "")
    rows = [(name, f"{blocks[name]:.3f}") for name in sorted(counting, key=lambda name: -blocks[name])[:_SHOWN]]
    return table(console, title, [Column("block", words=True), Column("distance")], rows, elsewhere="--json has all")


def _measures(console: Console, found: Behaviour) -> RenderableType:
    change, gap, lipschitz = found.linearization.change, found.linearization.gap, found.lipschitz
    rows = [
        (
            "output derivative |chi| before training: mean, maximum",
            f"{found.chi.mean_absolute:.3f}, {found.chi.largest:.3f}",
        ),
        ("||theta_FT - theta_0||, over ||theta_0||", f"{change.distance:.4g}, {change.relative:.2e}"),
        (
            "gap ||f - f_lin||: mean, maximum, relative to the change of f",
            f"{gap.mean():.3g}, {gap.max():.3g}, {_number(found.linearization.relative_gap, '.2f', 'no change')}",
        ),
        ("kernels: ||K_after - K_before|| / ||K_before||", _number(found.verdict.fixed.frobenius, ".3f")),
    ]
    if lipschitz is not None:
        rows.append(
            (
                f"local Lipschitz constant on the way, {lipschitz.values.shape[2]} examples: average, maximum",
                f"{lipschitz.average.mean():.3g}, {lipschitz.largest.max():.3g}",
            )
        )
        rows.append(("bound on the gap that they give, maximum", f"{lipschitz.gap_bounds(change.distance).max():.3g}"))
    scaling = found.calibration
    limited = " (at the limit)" if scaling.temperature.at_limit else ""
    rows += [
        ("calibration errors ECE, MCE", f"{scaling.without.ece:.3f}, {scaling.without.mce:.3f}"),
        (
            f"the same with temperature {scaling.temperature.value:.3g}{limited}",
            f"{scaling.scaled.ece:.3f}, {scaling.scaled.mce:.3f}",
        ),
    ]
    rows += [] if found.head is None else _head_rows(found.head)
    return table(console, "Measures", [Column("what", words=True), Column("value", words=True)], rows)


def _head_rows(head: HeadMeasures) -> list[tuple[str, str]]:
    features = head.features
    before, after = (", ".join(f"{norm:.3g}" for norm in norms) for norms in head.row_norms)
    return [
        ("features: cosine with their start, relative change", f"{features.cosine:.4f}, {features.relative:.2e}"),
        (
            "features: similarity of two examples, before > after",
            f"{features.similarity[0]:.4f} > {features.similarity[1]:.4f}",
        ),
        ("features: Fisher ratio, before > after", f"{features.fisher[0]:.3g} > {features.fisher[1]:.3g}"),
        ("norms of the head's rows, before > after", f"{before} > {after}"),
    ]


def _number(value: float, form: str, otherwise: str = "undefined") -> str:
    return otherwise if math.isnan(value) else format(value, form)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
