"""What the pages on linear probing then fine-tuning measure of one run: features, classifier, calibration.

Tomihari and Sato 2024, Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective. All measures
of a run are made at once and kept (`Experiment.value`), so that every page of the poster costs its runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from foretune.analysis.calibration import Calibration, temperature_scaling
from foretune.analysis.classifier import norm_of_rows
from foretune.errors import NonFiniteError
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment, run_key
from foretune.finetune.methods import FullTuning, LinearProbing, LoRATuning, Method, ProbedFirst
from foretune.finetune.run import Run
from foretune.finetune.training import Training
from foretune.model.batches import outputs_and_features
from foretune.model.outputs import Outputs
from foretune.regime.head import change_of_features, head_row_norms
from foretune.store.kept import identity_hash

AUTHORS = "Tomihari and Sato 2024"
SOURCE = f"{AUTHORS}, Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective"
METHODS: Mapping[str, Method] = {
    "LP": LinearProbing(),
    "FT": FullTuning(),
    "LoRA": LoRATuning(),
    "LP-FT": ProbedFirst(FullTuning()),
    "LP-LoRA": ProbedFirst(LoRATuning()),
}
"""As the poster names them."""
MEASURED = 256
_WHAT = {"measured": MEASURED, "norm": "Frobenius"}
"""What determines the measures besides the run: a key of what is kept."""


@dataclass(frozen=True)
class Bins:
    """Calibration in the form that is kept; see `analysis.calibration.Calibration`."""

    ece: float
    mce: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class Measures:
    """What is measured of one run, or of the pretrained model.

    Attributes:
        failure: why every point of the grid failed, or None; all else is then not a number, or empty.
        similarity, fisher, difference: CS(F), FDR(F) and Diff(F) of `analysis.features`.
        norm: Frobenius norm of the classifier, Norm(C).
        row_norm: mean norm of the classifier's rows.
        score: score on the test examples.
        steps, norms: Norm(C) along training; both stages of a run that began with linear probing.
        probing: steps of the first stage.
        temperature: fitted on the validation examples.
        separated: the temperature is at the limit of its search.
        without, scaled: calibration on the test examples at T = 1 and at T; None for the pretrained model.
    """

    failure: str | None = None
    similarity: float = float("nan")
    fisher: float = float("nan")
    difference: float = float("nan")
    norm: float = float("nan")
    row_norm: float = float("nan")
    score: float = float("nan")
    steps: tuple[int, ...] = ()
    norms: tuple[float, ...] = ()
    probing: int = 0
    temperature: float = float("nan")
    separated: bool = False
    without: Bins | None = None
    scaled: Bins | None = None


ByMethod = Mapping[str, Sequence[Measures]]
"""Method as the poster names it -> one measurement for each seed."""


def method_grid(budget: Budget, method: Method) -> list[Training]:
    """The grid of a method with AdamW; rates that a cut names are not those of a head alone, which keeps its own."""
    chosen = replace(budget, learning_rates={}) if isinstance(method, LinearProbing) else budget
    return chosen.grid(method, "adamw")


def method_grids(budget: Budget, names: Sequence[str] = tuple(METHODS)) -> list[tuple[Method, list[Training]]]:
    """Some of `METHODS`, each with its grid."""
    return [(METHODS[name], method_grid(budget, METHODS[name])) for name in names]


def probed_outputs(cell: Experiment, budget: Budget) -> tuple[dict[str, object], Callable[[], Outputs]]:
    """What determines the outputs after linear probing with its own grid, and what makes them.

    What makes them raises NonFiniteError where linear probing failed at every point of its grid.
    """
    method = LinearProbing()
    grid = method_grid(budget, method)
    return run_key(method, grid), lambda: cell.run(method, grid).outputs


def pretrained_measures(cell: Experiment) -> Measures:
    """The pretrained features and the random classifier."""

    def computed() -> Mapping[str, Any]:
        return asdict(_measured(cell, None))

    return _read(cell.value("lpft-pretrained", _WHAT, computed))


def run_measures(cell: Experiment, method: Method, grid: Sequence[Training]) -> Measures:
    """What is measured of the best run of a grid."""
    key = {**_WHAT, **run_key(method, grid)}

    def computed() -> Mapping[str, Any]:
        try:
            run = cell.run(method, grid)
        except NonFiniteError as error:
            return asdict(Measures(failure=str(error)))
        return asdict(_measured(cell, run))

    return _read(cell.value(f"lpft-{method.label}-{identity_hash(key)[:12]}", key, computed))


def method_measures(cells: Sequence[Experiment], budget: Budget, names: Sequence[str] = tuple(METHODS)) -> ByMethod:
    """What is measured of some of `METHODS`."""
    grids = zip(names, method_grids(budget, names), strict=True)
    return {name: [run_measures(cell, method, grid) for cell in cells] for name, (method, grid) in grids}


def finished(measures: Sequence[Measures]) -> list[Measures]:
    """Those whose run did not fail."""
    return [one for one in measures if one.failure is None]


def finished_mean(measures: Sequence[Measures], name: str) -> float:
    """The mean of a measure over the seeds whose runs did not fail; not a number where all did."""
    values = [getattr(one, name) for one in finished(measures)]
    return float(np.mean(values)) if values else float("nan")


def _measured(cell: Experiment, run: Run | None) -> Measures:
    after = cell.outputs if run is None else run.outputs
    rows, y = cell.split.test[:MEASURED], cell.labels("test")[:MEASURED]
    change, rows_of_head = change_of_features(cell.outputs, after, rows, y), head_row_norms(after)
    found = Measures(
        similarity=change.similarity[1],
        fisher=change.fisher[1],
        difference=change.difference,
        norm=norm_of_rows(rows_of_head),
        row_norm=float(rows_of_head.mean()),
    )
    if run is None:
        return found
    logits = outputs_and_features(after, cell.split.validation).outputs
    honest = temperature_scaling(run.test_logits.astype(float), cell.labels("test"), logits, cell.labels("validation"))
    steps, norms, probing = _along(run)
    return replace(
        found,
        score=float("nan") if run.test_score is None else run.test_score.value,
        steps=steps,
        norms=norms,
        probing=probing,
        temperature=honest.temperature.value,
        separated=honest.temperature.at_limit,
        without=_bins(honest.without),
        scaled=_bins(honest.scaled),
    )


def _along(run: Run) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Steps, Norm(C) there, and the steps of the first stage up to the checkpoint that the second started from."""
    first = [] if run.probing is None else [line for line in run.probing.history if line.step <= run.probing.best.step]
    probing = first[-1].step if first else 0
    lines = [*((line.step, line) for line in first[:-1]), *((probing + line.step, line) for line in run.history)]
    return (
        tuple(step for step, _ in lines),
        tuple(norm_of_rows(np.array(line.classifier_norms)) for _, line in lines),
        probing,
    )


def _bins(found: Calibration) -> Bins:
    bins = found.reliability
    return Bins(
        found.ece, found.mce, tuple(bins.confidence.tolist()), tuple(bins.accuracy.tolist()), tuple(bins.count.tolist())
    )


def _read(value: Mapping[str, Any]) -> Measures:
    """Measures from what JSON holds."""
    bins = {
        name: None if value[name] is None else Bins(**{key: _tuple(item) for key, item in value[name].items()})
        for name in ("without", "scaled")
    }
    return Measures(**{**value, **{name: tuple(value[name]) for name in ("steps", "norms")}, **bins})


def _tuple(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item
