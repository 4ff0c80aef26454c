"""The page of a forecast: will it work, train what, how, how sure, at what cost; the tables behind it as details."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foretune.analysis.conformal import LEVEL, ConformalInterval
from foretune.analysis.scores import QUANTILE, Score, chance
from foretune.candidates.prediction import Prediction
from foretune.candidates.scored import ScoredCandidate
from foretune.candidates.verdict import Decision, Verdict
from foretune.experiment.page import stage_table
from foretune.experiment.record import Record
from foretune.forecasting.answers import how_to_train, short_answer, what_to_train, will_it_work
from foretune.forecasting.cost import ForecastCost
from foretune.forecasting.figures import figures, maps
from foretune.forecasting.forecast import PoolForecast
from foretune.forecasting.parts import Part, ranked
from foretune.labelling.section import SampleLabels, labels_facts, labels_figures, labels_tables
from foretune.page import Cell, Column, Fact, Listing, Page, Span, Table
from foretune.progress import Stage

_SHOWN = 8
_PARTS = 3
"""Modules of a greedy choice that are named on the screen."""
_SURE = 0.05
"""To how much the number of test examples should let a score be known."""
_NUMBERS = range(50, 2001, 50)
"""Numbers of test examples that are advised."""


@dataclass(frozen=True, kw_only=True)
class ForecastData(Record):
    """A forecast for programs.

    Attributes:
        kernel: what determines the kernel of full tuning, and its shape.
        kernels_described: label -> the same of every kernel.
        verdict: `help`, `may`, `no` or `cannot tell`: on training what is recommended, or what comes first.
        decision: the same for programs that have to decide: `go` after help, `no-go` after no, else `cannot tell`.
        tracked: interval of the announced score by the runs that `foretune track` knows; null for fewer than 19 of them.
        forecast: every number of it.
        labels: what the rows that train and validate say of their labels; null where a label has too few of them.
        lora_config: arguments of `peft.LoraConfig` for `forecast.advice.adapter`; null where nothing should be trained.
        lora_config_classes: classes of transformers that this config fits: `trained`, `also`, and those that it does not.
        beside_lora_config: what has to be trained beside these adapters; null for nothing.
        recommended_lora_config: arguments of `peft.LoraConfig` for `forecast.recommended`; null where that is not LoRA.
        tune_options: options of `foretune tune` that train what is recommended; null where nothing is.
        cost: seconds of the forecast and of the runs that it replaces.
        stages: seconds and memory of each stage.
    """

    kernel: Mapping[str, Any]
    kernels_described: Mapping[str, Mapping[str, Any]]
    verdict: Verdict
    decision: Decision
    tracked: ConformalInterval | None
    forecast: PoolForecast
    labels: SampleLabels | None
    lora_config: Mapping[str, Any] | None
    lora_config_classes: Mapping[str, Any] | None
    beside_lora_config: str | None
    recommended_lora_config: Mapping[str, Any] | None
    tune_options: Mapping[str, Any] | None
    cost: ForecastCost
    stages: Sequence[Stage]


@dataclass(frozen=True)
class Seen:
    """What a page of a forecast says besides the forecast.

    Attributes:
        title: model and data.
        about: what was read and asked.
        metric: `accuracy`, `f1` or `matthews`.
        sizes: how many examples are for training, validation and test.
        spare: how many more rows could test.
        labels: what the rows say of their labels; None for nothing.
        tracked: interval of the announced score by earlier runs; None for nothing.
        snippet: Python that makes adapters, and of which candidate it is; None where none can be made.
        next: commands that go on from here.
    """

    title: str
    about: tuple[Fact, ...]
    metric: str
    sizes: Mapping[str, int]
    spare: int = 0
    labels: SampleLabels | None = None
    tracked: ConformalInterval | None = None
    snippet: Listing | None = None
    next: tuple[str, ...] = field(default=())


def forecast_page(found: PoolForecast, costs: ForecastCost, stages: Sequence[Stage], seen: Seen, data: object) -> Page:
    """The page.

    Args:
        found: the forecast.
        costs: of it, against the runs that it replaces.
        stages: measured.
        seen: what was read and asked.
        data: all this for programs, a `ForecastData`.
    """
    picked, metric = found.recommended, seen.metric
    rate = found.learning_rate
    return Page(
        title=seen.title,
        answer=short_answer(found, metric),
        about=seen.about,
        facts=_facts(found, costs, seen),
        notes=_doubts(found)[1:],
        tables=(
            _scores(found, metric),
            _candidates(found, metric),
            _parts(found, metric),
            *(() if seen.labels is None else labels_tables(seen.labels)),
            stage_table(stages),
        ),
        figures=(*figures(found), *(() if seen.labels is None else labels_figures(seen.labels))),
        maps=maps(found),
        details=(
            _compared(found),
            f"First by {found.comparison.criterion.name}: {found.answer}",
            *found.comparison.limits,
            f"Largest stable learning rate: {rate.cross_entropy:.2e} (cross-entropy), {rate.squared:.2e} (squared loss). "
            f"Assumes {rate.assumption}.",
            *([f"AdamW, {picked.candidate.title}: {picked.adamw.words}."] if picked is not None else []),
            _long_cost(found, costs),
        ),
        listings=() if seen.snippet is None else (seen.snippet,),
        next=seen.next,
        kind="forecast",
        data=data,
    )


def _facts(found: PoolForecast, costs: ForecastCost, seen: Seen) -> tuple[Fact, ...]:
    picked = found.recommended
    facts = [Fact("Will it work?", will_it_work(found, seen.metric), 4)]
    if picked is not None:
        facts += [Fact("Train what?", what_to_train(found, picked), 3), Fact("How?", how_to_train(picked))]
    labels = () if seen.labels is None else labels_facts(seen.labels)
    return (*facts, Fact("How sure?", _sure(found, seen), 3), *labels, Fact("Cost", _cost(found, costs), 1))


def _sure(found: PoolForecast, seen: Seen) -> str:
    """How many examples it rests on, and the first reason to doubt it."""
    return " ".join([_tested(found.predicted, seen), *_by_track(seen.tracked), *_doubts(found)[:1]])


def _tested(predicted: Prediction, seen: Seen) -> str:
    """How many examples it rests on, and what --test would make it surer, where there are rows for that."""
    n, drawn = seen.sizes["test"], predicted.drawn
    sure = (more for more in _NUMBERS if chance(drawn, seen.metric, n, more) <= _SURE)
    more = min(next(sure, _NUMBERS[-1]), n + seen.spare)
    halves = (math.hypot(chance(drawn, seen.metric, n, size), QUANTILE * predicted.room) for size in (n, more))
    now, then = (f"{100 * half:.0f}" for half in halves)
    if more <= n or now == then:
        return f"{n} test and {seen.sizes['validation']} validation examples."
    return f"{n} test examples: ±{now} points, ±{then} with --test {more}."


def _by_track(interval: ConformalInterval | None) -> tuple[str, ...]:
    """What earlier runs say of the announced score."""
    if interval is None:
        return ()
    return (f"By your {interval.cases} runs so far it is {interval.low:.2f} to {interval.high:.2f}, with {LEVEL:.0%}.",)


def _doubts(found: PoolForecast) -> tuple[str, ...]:
    """What the reader must know, the most important first."""
    picked = found.recommended
    return (*found.warnings, *(found.advice.regime if picked is None else picked.regime))


def _compared(found: PoolForecast) -> str:
    compared = sum(item.spread is not None for item in found.comparison.candidates)
    considered = found.comparison.considered
    return f"Predicted {found.predicted.by}; {compared} of {considered} choices were compared over resamples."


def _cost(found: PoolForecast, costs: ForecastCost) -> str:
    run = "" if found.recommended is None else f"; one training run about {costs.run:,.0f} s here"
    return f"This forecast took {costs.forecast:.1f} s{run}."


def _long_cost(found: PoolForecast, costs: ForecastCost) -> str:
    warmed = f", {costs.warm_up:.1f} s of it for {found.warm_up} warm-up steps" if found.warm_up else ""
    return (
        f"This forecast took {costs.forecast:.1f} s{warmed}. One training run would take about {costs.run:,.0f} s here, a "
        f"run for each candidate and learning rate ({costs.runs:,} runs) about {costs.comparison / 3600:,.1f} h "
        f"({costs.assumption})."
    )


def _scores(found: PoolForecast, metric: str) -> Table:
    chosen = found.whole.regression.chosen.parameters
    rows: list[tuple[str, Score | None]] = [
        ("majority label", found.majority),
        (found.started, found.zero_shot),
        (f"{found.started}, threshold set on validation", found.zero_shot_threshold),
        (f"linear probe (C = {found.probe_strength:g})", found.probe),
        (f"kernel regression (ridge {chosen['strength']:g}, f0 / {chosen['f0_scale']:g})", found.whole.score),
    ]
    shown = [(name, item) for name, item in rows if item is not None]
    beside = any(item.accuracy is not None for _, item in shown)
    columns = (
        Column("method", words=True),
        Column(metric, ".3f"),
        Column("from - to", words=False),
        *([Column("accuracy", ".3f")] if beside else []),
    )
    cells = tuple(
        (name, item.value, Span(item.low, item.high), *([item.accuracy] if beside else [])) for name, item in shown
    )
    return Table(columns, cells, f"Test {metric}, 95% interval", details=True)


def _candidates(found: PoolForecast, metric: str) -> Table:
    """All candidates, the recommended one marked; a terminal shows the first."""
    every, first = found.comparison.candidates, found.advice.candidate
    chosen = found.chosen
    probing, criterion = found.advice.probing, found.comparison.criterion
    few = _few(every, [item for item in (first, chosen, probing) if item is not None])
    title = (
        f"Candidates by {criterion.name}; "
        f"* {'first' if found.recommended is None else 'recommended'}, = not told from the best by resampling"
        f"{', + beats linear probing beyond the spread' if probing is not None else ''}; {metric} of the simulated run; "
        f"GD rates are for {found.rates_are_for}"
    )
    columns = (
        Column("", words=True),
        Column("blocks", words=True),
        Column("method", words=True),
        Column("trained", "count", drop=1),
        Column(criterion.short, ".3f"),
        Column("95% spread", words=False, drop=2),
        Column("risk", ".3f", drop=4),
        Column("kappa", ".1f", drop=5),
        Column("GD rate", ".1e", drop=3),
        Column(metric, ".3f"),
    )
    rows = tuple(_candidate_row(item, item is chosen, criterion.of(item.score)) for item in every)
    return Table(columns, rows, title, few=few, details=True)


def _few(every: Sequence[ScoredCandidate], kept: Sequence[ScoredCandidate]) -> tuple[int, ...]:
    """Places of the first candidates, and of some that are shown in any case."""
    always = [place for place, item in enumerate(every) if any(item is one for one in kept)]
    others = [place for place in range(len(every)) if place not in always][: max(0, _SHOWN - len(always))]
    return tuple(sorted([*always, *others]))


def _candidate_row(item: ScoredCandidate, chosen: bool, value: float) -> tuple[Cell, ...]:
    spread = item.spread
    tie = "=" if spread is not None and not spread.apart else ""
    return (
        f"{'*' if chosen else ''}{tie}{'+' if spread is not None and spread.beats_probing else ''}",
        ".".join(item.name.split(".")[-2:]) if item.kind == "layer" else item.name,
        item.method,
        item.parameters,
        value,
        None if spread is None else Span(spread.low, spread.high),
        item.score.risk.exact,
        item.score.condition_number,
        item.score.learning_rate,
        item.score.score.value,
    )


def _parts(found: PoolForecast, metric: str) -> Table:
    """Spectra of the whole model and of its layers and module types; a terminal shows those that validation ranks first."""
    every = [found.whole, *found.parts]
    first = [
        part
        for kind in ("layer", "module type")
        for part in ranked([part for part in found.parts if part.kind == kind])[:_PARTS]
    ]
    few = (0, *(place for one in first for place, part in enumerate(every) if part is one))
    columns = (
        Column("part", words=True),
        Column("weights", "count", drop=1),
        Column("l. max", ".1e", drop=4),
        Column("l. min", ".1e", drop=3),
        Column("kappa", ".1f", drop=2),
        Column("risk", ".3f", drop=5),
        Column("valid.", ".3f"),
        Column(metric, ".3f"),
    )
    title = "Kernel regression of layers and module types"
    return Table(columns, tuple(map(_part_row, every)), title, few=few, details=True)


def _part_row(part: Part) -> tuple[Cell, ...]:
    return (
        ".".join(part.name.split(".")[-2:]) if part.kind == "layer" else part.name,
        part.parameters,
        part.largest,
        part.smallest,
        part.condition_number,
        part.ridge_risk,
        part.regression.chosen.validation,
        part.score.value,
    )
