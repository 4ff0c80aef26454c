"""A run of `tune --from` beside its forecast: told while it runs, in its report, and on the page of the forecast."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretune.cli.beside import real_runs
from foretune.cli.deliver import keep_report
from foretune.cli.from_forecast import FIELD, forecast_folder, forecast_record
from foretune.cli.ranges import typed
from foretune.cli.settings import repeatable
from foretune.cli.show import kept_page
from foretune.errors import StorageError
from foretune.experiment.folder import EXPERIMENT, FORECAST
from foretune.finetune.report import RunReport
from foretune.forecasting.figures import with_real_runs
from foretune.handover.callback import LOGGER, beside_run, left_at, predicted_curve
from foretune.handover.track import record_run
from foretune.pages.console import Console
from foretune.pages.html import REPORT, is_written_html
from foretune.pages.progress import tell

_FREE = {"out", "json", "steps", "epochs", "evaluate_every", "best_by", "micro_batches", "report_to"}
"""Options beside --from that leave the curve of validation losses as it is, as far as it goes."""
_LENGTH = {"steps", "epochs"}
"""Options on which a learning rate that falls depends at every step."""


def followed_curve(file: Path | None, groups: tuple[Any, ...]) -> Mapping[int, float] | None:
    """Step -> validation loss that a forecast predicts of a run; None where it predicts another run, which is noted.

    Args:
        file: forecast.json or its folder; None where the run is not from a forecast.
        groups: the options of the run.
    """
    if file is None:
        return None
    record = forecast_record(file)
    defaults = {field.name: field.default for group in groups for field in dataclasses.fields(group)}
    expected, asked = {**defaults, **record[FIELD]}, repeatable(groups)
    free = _FREE if expected.get("schedule") == "constant" else _FREE - _LENGTH
    same = {name: EXPERIMENT.same({name: value}, {name: expected[name]}) for name, value in asked.items()}
    other = [name for name in asked if name not in free and not same[name]]
    if other:
        shown = ", ".join(map(typed, other))
        warnings.warn(f"The run is not compared with {file}, which is of another run: {shown} differs.", stacklevel=2)
        return None
    return predicted_curve(record)


def beside_forecast(
    file: Path | None, curve: Mapping[int, float] | None, history: Mapping[int, float]
) -> dict[str, Any]:
    """What the report of a run says of its forecast; nothing where it is not compared.

    Args:
        file: of the forecast.
        curve: step -> predicted validation loss.
        history: step -> validation loss of the run.
    """
    if curve is None:
        return {}
    found = [beside_run(curve, step, loss) for step, loss in history.items()]
    return {
        "forecast": {
            "file": str(file),
            "steps": list(curve),
            "validation_losses": list(curve.values()),
            "left_kernel_regime_at": left_at(found),
        }
    }


def draw_beside_forecast(file: Path | None, out: Path, report: RunReport) -> None:
    """Draw a finished run on the page of its forecast, where that page is as foretune wrote it."""
    if file is None:
        return
    folder = forecast_folder(file)
    if (file.is_dir() or file.name == FORECAST) and (folder / REPORT).exists() and is_written_html(folder / REPORT):
        others = [(name, run) for name, run in real_runs(folder) if name != out.name]
        keep_report(folder, with_real_runs(kept_page(folder), [(out.name, report), *others]))


def recorded(file: Path, run: RunReport) -> None:
    """Record a run beside the forecast that it was made from, where that is wanted; a full disk is noted.

    Args:
        file: of the forecast, or its folder.
        run: finished, and kept elsewhere.
    """
    try:
        record_run(forecast_record(file), run)
    except StorageError as error:
        warnings.warn(f"The run is finished, but it is not recorded for `foretune track`. {error}", stacklevel=2)


@contextmanager
def shown_evaluations(errors: Console, *, every: bool) -> Iterator[None]:
    """Say on standard error what a run logs of itself beside its forecast.

    Args:
        errors: standard error.
        every: evaluations of runs that are not compared too.
    """
    log, handler = logging.getLogger(LOGGER), _Lines(errors)
    run = logging.getLogger(LOGGER).getChild("run")
    levels = log.level, run.level, log.propagate
    log.setLevel(logging.INFO)
    run.setLevel(logging.INFO if every else logging.WARNING)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, run.level, log.propagate = levels


class _Lines(logging.Handler):
    """Each record as a line of progress."""

    def __init__(self, errors: Console) -> None:
        super().__init__()
        self.errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        tell(self.errors, record.getMessage())
