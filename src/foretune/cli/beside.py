"""Real runs beside a forecast: finished folders of `tune`, next to its own, of the same model and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foretune.cli.from_forecast import forecast_record
from foretune.errors import ForetuneError
from foretune.experiment.folder import EXPERIMENT, FORECAST
from foretune.finetune.report import RESULT, RunReport, read_report
from foretune.store.atomic import names_in

_MOST = 200
"""Folders that are looked at."""


def real_runs(folder: Path) -> list[tuple[str, RunReport]]:
    """Names and reports of the finished runs beside a folder, the newest first; none where it is not of an experiment.

    A folder that cannot be read is passed over: it is somebody else's.
    """
    found = [(place.name, read_report(place)) for place in _beside(folder, RESULT, read_report)]
    return [(name, report) for name, report in found if report is not None]


def forecasts_beside(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and records of the forecasts beside a folder, as `real_runs` finds runs."""
    return [(place.name, forecast_record(place)) for place in _beside(folder, FORECAST, forecast_record)]


def _beside(folder: Path, file: str, read: Callable[[Path], object]) -> list[Path]:
    """The folders next to one that are of the same experiment and have a file that can be read, the newest first."""
    own = _identity(folder)
    if own is None:
        return []
    found = []
    with suppress(ForetuneError, OSError):
        around = folder.resolve().parent
        places = [around / name for name in names_in(around)[:_MOST]]
        for place in (each for each in places if (each / file).is_file() and (each / EXPERIMENT.file).is_file()):
            with suppress(ForetuneError, OSError, ValueError, TypeError, KeyError):
                other = _identity(place)
                if other is not None and read(place) is not None and EXPERIMENT.same(own, other):
                    found.append(((place / file).stat().st_mtime, place))
    return [place for _, place in sorted(found, key=lambda item: item[0], reverse=True)]


def _identity(folder: Path) -> dict[str, object] | None:
    """The identity of the experiment of a folder; None where it has none."""
    with suppress(ForetuneError, OSError):
        if (folder / EXPERIMENT.file).is_file():
            return EXPERIMENT.present(folder)["identity"]
    return None
