"""The pictures of a forecast: candidates, the simulated run and real ones, learning rates, the spectrum, modules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from foretune.candidates.adam import AdamRate
from foretune.candidates.candidate import Candidate
from foretune.finetune.report import RunReport
from foretune.forecasting.anatomy import ModuleShare
from foretune.forecasting.forecast import PoolForecast
from foretune.page import Curve, Figure, HeatMap, Page

_CURVE, _OUTSIDE = "curve", "outside the layers"
_REAL = 4
"""Real runs that are drawn beside the simulated one, the newest first."""


def figures(found: PoolForecast) -> tuple[Figure, ...]:
    """All pictures that there are numbers for."""
    picked = found.recommended
    item, rate = found.chosen, found.adamw if picked is None else picked.adamw
    of_rate = () if rate is None or not rate.runs else (_curve(item, rate), _rates(item, rate))
    return (*of_rate, _spectrum(found, item), _candidates(found))


def maps(found: PoolForecast) -> tuple[HeatMap, ...]:
    """What each layer's modules bring to the kernel."""
    places = found.anatomy.places
    return (
        _map(
            "First step: where the gradient is",
            "Share of the squared gradient of the training loss before training, in percent: what a module takes off the "
            "loss in the first step of gradient descent.",
            places,
            [100 * place.gradient for place in places],
            ".1f",
        ),
        _map(
            "Alignment with the labels",
            "How well the kernel of a module alone agrees with the training labels: 1 is perfect, 0 is none.",
            places,
            [place.alignment for place in places],
            ".2f",
        ),
    )


def with_real_runs(page: Page, runs: Iterable[tuple[str, RunReport]]) -> Page:
    """The page of a forecast with the validation losses of real runs beside the simulated ones.

    Args:
        page: of a forecast.
        runs: names and reports.
    """
    real = tuple(_real(name, report) for name, report in runs)[:_REAL]
    if not real:
        return page
    drawn = (
        replace(figure, title=figure.title.replace("run", "and real runs", 1), curves=(*figure.curves, *real))
        if figure.name == _CURVE
        else figure
        for figure in page.figures
    )
    return replace(page, figures=tuple(drawn))


def _real(name: str, report: RunReport) -> Curve:
    last = report.stages[-1]
    steps = np.array([line.step for line in last.history], dtype=float)
    losses = np.array([line.validation_loss for line in last.history], dtype=float)
    return Curve(f"real: {name}, {last.method} at {last.learning_rate:.1e}", losses, steps)


def _curve(item: Candidate, rate: AdamRate) -> Figure:
    """The simulated validation loss at the rate to begin with, and at its neighbours."""
    tried = [run.learning_rate for run in rate.runs]
    best = tried.index(rate.learning_rate) if rate.learning_rate in tried else 0
    kept = [run for run in rate.runs[max(best - 1, 0) : best + 2] if all(map(math.isfinite, run.validation_losses))]
    curves = tuple(
        Curve(
            f"simulated at {run.learning_rate:.1e}",
            np.array(run.validation_losses),
            np.array(run.steps, dtype=float),
        )
        for run in sorted(kept, key=lambda run: run.learning_rate != rate.learning_rate)
    )
    title = f"Predicted run of {item.title} (AdamW, batches of {rate.batch})"
    return Figure(_CURVE, title, "step", "validation loss (nats)", curves)


def _rates(item: Candidate, rate: AdamRate) -> Figure:
    finite = [run for run in rate.runs if math.isfinite(run.lowest)]
    x = np.log10([run.learning_rate for run in finite])
    start = rate.runs[0].validation_losses[0]
    curves = (
        Curve("lowest simulated loss", np.array([run.lowest for run in finite]), x),
        Curve("before training", np.full(len(x), start), x),
    )
    title = f"Learning rates of AdamW for {item.title}"
    return Figure("rates", title, "learning rate (log10)", "lowest validation loss (nats)", curves)


def _spectrum(found: PoolForecast, item: Candidate) -> Figure:
    of_all, chosen = found.anatomy.spectrum, found.anatomy.chosen_spectrum
    curves = (Curve("whole model, full tuning", _positive(of_all)), Curve(item.title, _positive(chosen)))
    return Figure(
        "spectrum",
        "Spectrum of the training kernel",
        "number of the eigenvalue",
        "eigenvalue",
        curves,
        logarithmic=True,
    )


def _positive(values: np.ndarray) -> np.ndarray:
    """The eigenvalues above rounding error."""
    top = float(values[0]) if len(values) else 0.0
    return values[values > max(top, 0.0) * np.finfo(np.float32).eps]


def _candidates(found: PoolForecast) -> Figure:
    """The criterion of every candidate against the number of its parameters."""
    criterion, every = found.comparison.criterion, found.comparison.candidates
    kinds = {"LoRA": [item for item in every if item.rank is not None]}
    kinds["full tuning"] = [item for item in every if item.rank is None]
    curves = tuple(
        Curve(
            name,
            np.array([criterion.of(item.score) for item in items]),
            np.log10(np.array([max(item.parameters, 1) for item in items], dtype=float)),
        )
        for name, items in kinds.items()
        if items
    )
    return Figure("candidates", "Candidates", "trained parameters (log10)", criterion.name, curves, points=True)


def _map(title: str, note: str, places: Sequence[ModuleShare], values: Sequence[float], form: str) -> HeatMap:
    """A row for each layer, then one for each module outside the layers, in a column of its own."""
    known = {
        (place.layer or place.module, place.module if place.layer else _OUTSIDE): value
        for place, value in zip(places, values, strict=True)
    }
    ordered = sorted(places, key=lambda place: not place.layer)
    rows = tuple(dict.fromkeys(place.layer or place.module for place in ordered))
    outside = (_OUTSIDE,) if any(not place.layer for place in places) else ()
    columns = (*outside, *dict.fromkeys(place.module for place in ordered if place.layer))
    cells = tuple(tuple(known.get((row, column)) for column in columns) for row in rows)
    inside = {place.layer for place in places}
    names = tuple(".".join(row.split(".")[-2:]) if row in inside else row for row in rows)
    return HeatMap(title, note, names, columns, cells, form)
