"""A forecast on the terminal: the answer on top, short tables below."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from foretune.analysis.scores import Score
from foretune.forecast.cost import Cost
from foretune.forecast.forecast import Forecast
from foretune.forecast.parts import ranked
from foretune.forecast.plan import Estimate
from foretune.kernels.block_kernel import BlockKernel
from foretune.naming import visible
from foretune.pages.layout import Column, faint, note, strong, table
from foretune.progress import Stage

_MIB = 2**20
_SHOWN = 8
_PARTS = 3


def print_forecast(
    console: Console,
    forecast: Forecast,
    stages: Sequence[Stage],
    metric: str,
    snippet: str | None,
    costs: Cost,
) -> None:
    """Print the answer, the scores, the candidates, the adapters and what it cost.

    Args:
        console: where to.
        forecast: what to print.
        stages: measured.
        metric: `accuracy`, `f1` or `matthews`.
        snippet: Python that makes the recommended adapters, `advice.python_snippet`; None where none can be made.
        costs: the forecast against the runs that it replaces.
    """
    console.print()
    console.print(strong(forecast.answer))
    console.print()
    for warning in (*forecast.warnings, *forecast.advice.regime):
        console.print(note(warning))
    console.print(_scores(console, forecast, metric))
    console.print(_candidates(console, forecast, metric))
    for limit in forecast.comparison.limits:
        console.print(faint(limit))
    console.print(_parts(console, forecast, metric))
    if forecast.adamw is not None:
        rate = forecast.learning_rate
        console.print(
            Text.assemble(
                "Largest stable learning rate: ",
                (f"{rate.cross_entropy:.2e}", "bold"),
                f" (cross-entropy), {rate.squared:.2e} (squared loss). Assumes {rate.assumption}.\n",
                visible(f"AdamW, {forecast.advice.candidate.title}: {forecast.adamw.words}.\n"),
            )
        )
    adapter = forecast.advice.adapter
    if snippet is not None and adapter is not None:
        best = "" if adapter is forecast.advice.candidate else "the best candidate with adapters, "
        console.print(f"LoraConfig of {best}{adapter.title} ({adapter.parameters:,} parameters):\n")
        console.print(snippet, markup=False, highlight=False, soft_wrap=True)
        console.print()
    console.print(stage_table(console, stages))
    warmed = f", {costs.warm_up:.1f} s of it for {forecast.warm_up} warm-up steps" if forecast.warm_up else ""
    console.print(
        f"This forecast took {costs.forecast:.1f} s{warmed}. One training run would take about {costs.run:,.0f} s here, a "
        f"run for each candidate and learning rate ({costs.runs:,} runs) about {costs.comparison / 3600:,.1f} h "
        f"({costs.assumption})."
    )


def _scores(console: Console, forecast: Forecast, metric: str) -> RenderableType:
    chosen = forecast.whole.regression.chosen.parameters
    start = forecast.started
    rows: list[tuple[str, Score | None]] = [
        ("majority label", forecast.majority),
        (start, forecast.zero_shot),
        (f"{start}, threshold set on validation", forecast.zero_shot_threshold),
        (f"linear probe (C = {forecast.probe_strength:g})", forecast.probe),
        (f"kernel regression (ridge {chosen['strength']:g}, f0 / {chosen['f0_scale']:g})", forecast.whole.score),
    ]
    shown = [(name, item) for name, item in rows if item is not None]
    beside = any(item.accuracy is not None for _, item in shown)
    accuracies = ["" if item.accuracy is None else f"{item.accuracy:.3f}" for _, item in shown]
    return table(
        console,
        f"Test {metric}, 95% interval",
        [Column("method", words=True), Column(metric), Column("from - to"), *([Column("accuracy")] if beside else [])],
        [
            (name, f"{item.value:.3f}", f"{item.low:.2f} - {item.high:.2f}", *([accuracy] if beside else []))
            for (name, item), accuracy in zip(shown, accuracies, strict=True)
        ],
    )


def _candidates(console: Console, forecast: Forecast, metric: str) -> RenderableType:
    """The first candidates, the recommended one marked."""
    every, chosen = forecast.comparison.candidates, forecast.advice.candidate
    probing = forecast.advice.probing
    criterion = forecast.comparison.criterion
    kept = [chosen, *([probing] if probing not in (None, chosen) else [])]
    others = [item for item in every if item not in kept][: _SHOWN - len(kept)]
    shown = [item for item in every if item in kept or item in others]
    title = (
        f"Candidates: {len(shown)} of {forecast.comparison.considered} by {criterion.name} (--json has all); "
        f"* {'first' if forecast.verdict == 'no' else 'recommended'}, = not told from the best by resampling"
        f"{', + beats linear probing beyond the spread' if probing is not None else ''}; {metric} of the simulated run"
    )
    columns = [
        Column("", words=True),
        Column("blocks", words=True),
        Column("method", words=True),
        Column("trained", drop=1),
        Column(criterion.short),
        Column("95% spread", drop=2),
        Column("risk", drop=4),
        Column("kappa", drop=5),
        Column("GD rate", drop=3),
        Column(metric),
    ]
    rows = []
    for item in shown:
        spread = item.spread
        tie = "=" if spread is not None and not spread.apart else ""
        rows.append(
            (
                f"{'*' if item is chosen else ''}{tie}{'+' if spread is not None and spread.beats_probing else ''}",
                ".".join(item.name.split(".")[-2:]) if item.kind == "layer" else item.name,
                item.method,
                _short(item.parameters),
                f"{criterion.of(item.score):.3f}",
                "" if spread is None else f"{spread.low:.2f} - {spread.high:.2f}",
                f"{item.score.risk.exact:.3f}",
                f"{item.score.condition_number:.1f}",
                f"{item.score.learning_rate:.1e}",
                f"{item.score.score.value:.3f}",
            )
        )
    return table(console, title, columns, rows, elsewhere="--json has all")


def _parts(console: Console, forecast: Forecast, metric: str) -> RenderableType:
    """Spectra of the whole model and of the layers and module types that validation ranks first."""
    shown = [
        part
        for kind in ("layer", "module type")
        for part in ranked([part for part in forecast.parts if part.kind == kind])[:_PARTS]
    ]
    title = f"Kernel regression, {len(shown)} of {len(forecast.parts)} layers and module types (--json has all)"
    columns = [
        Column("part", words=True),
        Column("weights", drop=1),
        Column("l. max", drop=4),
        Column("l. min", drop=3),
        Column("kappa", drop=2),
        Column("risk", drop=5),
        Column("valid."),
        Column(metric),
    ]
    rows = [
        (
            ".".join(part.name.split(".")[-2:]) if part.kind == "layer" else part.name,
            _short(part.parameters),
            f"{part.largest:.1e}",
            f"{part.smallest:.1e}",
            f"{part.condition_number:.1f}",
            f"{part.ridge_risk:.3f}",
            f"{part.regression.chosen.validation:.3f}",
            f"{part.score.value:.3f}",
        )
        for part in [forecast.whole, *shown]
    ]
    return table(console, title, columns, rows, elsewhere="--json has all")


def _short(count: int) -> str:
    """Three digits and a unit."""
    for unit, size in (("", 1), ("k", 10**3), ("M", 10**6)):
        shown = str(count) if size == 1 else f"{count / size:.3g}"
        if float(shown) < 1000:
            return f"{shown}{unit}"
    return f"{count / 10**9:.3g}B" if count < 999.5 * 10**9 else f"{count / 10**9:,.0f}B"


def stage_table(console: Console, stages: Sequence[Stage]) -> RenderableType:
    """Seconds and memory of each stage."""
    columns = [
        Column("stage", words=True),
        Column("seconds"),
        Column("peak memory", drop=1),
        Column("above the start", drop=2),
    ]
    rows = [
        (stage.name, f"{stage.seconds:.1f}", f"{stage.peak / _MIB:,.0f} MiB", f"{stage.above / _MIB:,.0f} MiB")
        for stage in stages
    ]
    return table(console, "Cost", columns, rows)


def print_kernels(
    console: Console,
    kernels: Mapping[str, BlockKernel],
    folder: Path,
    stages: Sequence[Stage],
    warnings: Sequence[str],
) -> None:
    """Print what was computed, where it is, and what it cost."""
    for label, kernel in kernels.items():
        b, n, c, m, _ = kernel.array.shape
        console.print(
            f"{folder / label}: {b} blocks, {n} x {m} examples, {c} output{'s' if c > 1 else ''}",
            soft_wrap=True,
        )
    console.print(stage_table(console, stages))
    for warning in warnings:
        console.print(note(warning))
    console.print(f"Next: foretune solve {shlex.quote(str(folder))}", soft_wrap=True)


def print_estimate(console: Console, estimate: Estimate) -> None:
    """Print what a computation would need, why, and what makes it cheaper."""
    rows = [
        ("examples (training x evaluation)", f"{estimate.train} x {estimate.evaluation}"),
        ("parameter blocks, outputs", f"{estimate.blocks}, {estimate.outputs}"),
        ("longest example", f"{estimate.longest} tokens"),
        (
            "examples per forward pass / row tile / column tile",
            f"{estimate.batch} / {estimate.rows} / {estimate.columns}",
        ),
        ("examples through the model", f"{estimate.passes}"),
        ("time", f"about {estimate.seconds:,.0f} s"),
        ("memory above the model", f"about {estimate.memory / _MIB:,.0f} MiB of {estimate.budget / _MIB:,.0f} MiB"),
        ("disk with --out", f"{estimate.disk / _MIB:,.1f} MiB"),
    ]
    title = "Plan: the model was loaded and one batch was timed; no kernel was computed"
    console.print(table(console, title, [Column("what", words=True), Column("how much")], rows))
    for reason in _reasons(estimate):
        console.print(reason)


def _reasons(estimate: Estimate) -> list[str]:
    """What the time and the size of a plan grow with, and which options change that."""
    held = estimate.train + estimate.evaluation
    found = [
        "Time and size grow with the examples (--k, --test), the length of the texts (--max-length) and the parameters "
        "(--layers, --blocks, --exclude-embeddings)."
    ]
    if estimate.outputs > 1:
        found.append(
            f"{estimate.outputs} outputs mean {estimate.outputs} backward passes for each example, and a kernel "
            f"{estimate.outputs**2} times as large as that of one output. Data with fewer labels needs less"
            f"{'; two labels need one output without --no-difference' if estimate.outputs == 2 else ''}."
        )
    if estimate.passes > held:
        found.append(
            f"{estimate.passes:,} passes for {held:,} examples: the factors of all of them do not fit into "
            f"{estimate.budget / _MIB:,.0f} MiB, so that some are computed again. A larger --memory needs fewer."
        )
    return found
