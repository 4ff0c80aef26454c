"""A forecast on the terminal: the answer on top, short tables below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foretune.analysis.scores import Score
from foretune.forecast.cost import Cost
from foretune.forecast.forecast import Forecast
from foretune.forecast.parts import ranked
from foretune.forecast.plan import Estimate
from foretune.forecast.stages import Stage
from foretune.kernels.block_kernel import BlockKernel

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
    console.print(f"\n[bold]{escape(forecast.answer)}[/bold]\n")
    for warning in (*forecast.warnings, *forecast.advice.regime):
        console.print(f"[yellow]Note:[/yellow] {escape(warning)}")
    console.print(_scores(forecast, metric))
    console.print(_candidates(forecast, metric))
    for limit in forecast.comparison.limits:
        console.print(f"[dim]{limit}[/dim]")
    console.print(_parts(forecast, metric))
    rate = forecast.learning_rate
    console.print(
        f"Largest stable learning rate: [bold]{rate.cross_entropy:.2e}[/bold] (cross-entropy), {rate.squared:.2e} "
        f"(squared loss). Assumes {rate.assumption}.\n"
        f"AdamW, {escape(forecast.advice.candidate.title)}: {forecast.adamw.words}.\n"
    )
    adapter = forecast.advice.adapter
    if snippet is not None and adapter is not None:
        best = "" if adapter is forecast.advice.candidate else "the best candidate with adapters, "
        console.print(f"LoraConfig of {escape(best + adapter.title)} ({adapter.parameters:,} parameters):\n")
        console.print(snippet, markup=False, highlight=False, soft_wrap=True)
        console.print()
    console.print(stage_table(stages))
    warmed = f", {costs.warm_up:.1f} s of it for {forecast.warm_up} warm-up steps" if forecast.warm_up else ""
    console.print(
        f"This forecast took {costs.forecast:.1f} s{warmed}. One training run would take about {costs.run:,.0f} s here, a "
        f"run for each candidate and learning rate ({costs.runs:,} runs) about {costs.comparison / 3600:,.1f} h "
        f"({costs.assumption})."
    )


def _scores(forecast: Forecast, metric: str) -> Table:
    table = Table(title=f"Test {metric}, 95% interval", title_justify="left")
    table.add_column("method")
    table.add_column(metric, justify="right")
    table.add_column("from - to", justify="right")
    chosen = forecast.whole.regression.chosen.parameters
    start = f"after {forecast.warm_up} warm-up steps" if forecast.warm_up else "zero-shot"
    rows: list[tuple[str, Score | None]] = [
        ("majority label", forecast.majority),
        (start, forecast.zero_shot),
        (f"{start}, threshold set on validation", forecast.zero_shot_threshold),
        (f"linear probe (C = {forecast.probe_strength:g})", forecast.probe),
        (f"kernel regression (ridge {chosen['strength']:g}, f0 / {chosen['f0_scale']:g})", forecast.whole.score),
    ]
    shown = [(name, item) for name, item in rows if item is not None]
    if beside := any(item.accuracy is not None for _, item in shown):
        table.add_column("accuracy", justify="right")
    for name, item in shown:
        accuracy = [] if not beside else ["" if item.accuracy is None else f"{item.accuracy:.3f}"]
        table.add_row(name, f"{item.value:.3f}", f"{item.low:.2f} - {item.high:.2f}", *accuracy)
    return table


def _candidates(forecast: Forecast, metric: str) -> Table:
    """The first candidates, the recommended one marked."""
    every, chosen = forecast.comparison.candidates, forecast.advice.candidate
    probing = forecast.advice.probing
    criterion = forecast.comparison.criterion
    kept = [chosen, *([probing] if probing not in (None, chosen) else [])]
    others = [item for item in every if item not in kept][: _SHOWN - len(kept)]
    shown = [item for item in every if item in kept or item in others]
    title = (
        f"Candidates: {len(shown)} of {forecast.comparison.considered} by {criterion.name} (--json has all); "
        "* recommended, = not told from the best by resampling"
        f"{', + beats linear probing beyond the spread' if probing is not None else ''}; {metric} of the simulated run"
    )
    table = Table(title=title, title_justify="left")
    for heading in (
        "",
        "blocks",
        "method",
        "trained",
        criterion.short,
        "95% spread",
        "risk",
        "kappa",
        "GD rate",
        metric,
    ):
        first = heading == "blocks"  # the only column that may be narrowed
        left = heading in ("", "blocks", "method")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not first, overflow="fold")
    for item in shown:
        spread = item.spread
        tie = "=" if spread is not None and not spread.apart else ""
        table.add_row(
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
    return table


def _parts(forecast: Forecast, metric: str) -> Table:
    """Spectra of the whole model and of the layers and module types that validation ranks first."""
    shown = [
        part
        for kind in ("layer", "module type")
        for part in ranked([part for part in forecast.parts if part.kind == kind])[:_PARTS]
    ]
    title = f"Kernel regression, {len(shown)} of {len(forecast.parts)} layers and module types (--json has all)"
    table = Table(title=title, title_justify="left")
    for heading in ("part", "weights", "l. max", "l. min", "kappa", "risk", "valid.", metric):
        first = heading == "part"  # the only column that may be narrowed
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for part in [forecast.whole, *shown]:
        table.add_row(
            ".".join(part.name.split(".")[-2:]) if part.kind == "layer" else part.name,
            _short(part.parameters),
            f"{part.largest:.1e}",
            f"{part.smallest:.1e}",
            f"{part.condition_number:.1f}",
            f"{part.ridge_risk:.3f}",
            f"{part.regression.chosen.validation:.3f}",
            f"{part.score.value:.3f}",
        )
    return table


def _short(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def stage_table(stages: Sequence[Stage]) -> Table:
    """Seconds and memory of each stage."""
    table = Table(title="Cost", title_justify="left")
    for heading in ("stage", "seconds", "peak memory", "above the start"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in stages:
        table.add_row(
            stage.name, f"{stage.seconds:.1f}", f"{stage.peak / _MIB:,.0f} MiB", f"{stage.above / _MIB:,.0f} MiB"
        )
    return table


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
        console.print(f"{folder / label}: {b} blocks, {n} x {m} examples, {c} output{'s' if c > 1 else ''}")
    console.print(stage_table(stages))
    for warning in warnings:
        console.print(f"[yellow]Note:[/yellow] {warning}")
    console.print(f"Next: foretune solve {folder}")


def print_estimate(console: Console, estimate: Estimate) -> None:
    """Print what a computation would need."""
    table = Table(title="Plan (nothing was computed)", title_justify="left")
    table.add_column("what")
    table.add_column("how much", justify="right")
    table.add_row("examples (training x evaluation)", f"{estimate.train} x {estimate.evaluation}")
    table.add_row("parameter blocks, outputs", f"{estimate.blocks}, {estimate.outputs}")
    table.add_row("longest example", f"{estimate.longest} tokens")
    table.add_row(
        "examples per forward pass / row tile / column tile", f"{estimate.batch} / {estimate.rows} / {estimate.columns}"
    )
    table.add_row("examples through the model", f"{estimate.passes}")
    table.add_row("time", f"about {estimate.seconds:,.0f} s")
    table.add_row(
        "memory above the model", f"about {estimate.memory / _MIB:,.0f} MiB of {estimate.budget / _MIB:,.0f} MiB"
    )
    table.add_row("disk with --out", f"{estimate.disk / _MIB:,.1f} MiB")
    console.print(table)
