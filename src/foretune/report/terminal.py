"""A forecast on the terminal: the answer on top, short tables below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from foretune.analysis.scores import Score
from foretune.forecast.forecast import Forecast, Part, ranked
from foretune.forecast.plan import Estimate
from foretune.forecast.stages import Stage
from foretune.kernels.block_kernel import BlockKernel

_MIB = 2**20
_SHOWN = 8


def print_forecast(console: Console, forecast: Forecast, stages: Sequence[Stage], metric: str) -> None:
    """Print the answer, the scores, the candidates and what it cost."""
    console.print(f"\n[bold]{forecast.answer}[/bold]\n")
    for warning in forecast.warnings:
        console.print(f"[yellow]Note:[/yellow] {warning}")
    console.print(_scores(forecast, metric))
    for kind in ("layer", "module type"):
        parts = [part for part in forecast.parts if part.kind == kind]
        if parts:
            console.print(_parts(kind, forecast.whole, parts, metric))
    rate = forecast.learning_rate
    console.print(
        f"Largest stable learning rate: [bold]{rate.cross_entropy:.2e}[/bold] (cross-entropy), {rate.squared:.2e} "
        f"(squared loss). Assumes {rate.assumption}.\n"
    )
    console.print(stage_table(stages))


def _scores(forecast: Forecast, metric: str) -> Table:
    table = Table(title=f"Test {metric}, 95% interval", title_justify="left")
    table.add_column("method")
    table.add_column(metric, justify="right")
    table.add_column("from - to", justify="right")
    chosen = forecast.whole.regression.chosen.parameters
    rows: list[tuple[str, Score | None]] = [
        ("majority label", forecast.majority),
        ("zero-shot", forecast.zero_shot),
        ("zero-shot, threshold set on validation", forecast.zero_shot_threshold),
        (f"linear probe (C = {forecast.probe_strength:g})", forecast.probe),
        (f"kernel regression (ridge {chosen['strength']:g}, f0 / {chosen['f0_scale']:g})", forecast.whole.score),
    ]
    for name, item in rows:
        if item is not None:
            table.add_row(name, f"{item.value:.3f}", f"{item.low:.2f} - {item.high:.2f}")
    return table


def _parts(kind: str, whole: Part, parts: Sequence[Part], metric: str) -> Table:
    """The whole model and the parts that validation ranks first, each as if it alone were trained."""
    shown = ranked(parts)[:_SHOWN]
    title = f"Training one {kind} alone: {len(shown)} of {len(parts)}, ranked by validation (--json has all)"
    table = Table(title=title, title_justify="left")
    for heading in (kind, "weights", "l. max", "l. min", "kappa", "risk", "valid.", metric):
        first = heading == kind  # the only column that may be narrowed
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for part in [whole, *shown]:
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
