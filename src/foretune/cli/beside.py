"""Real runs beside a forecast: finished folders of `tune`, next to its own, of the same model and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from foretune.cli.from_forecast import forecast_record
from foretune.errors import ForetuneError
from foretune.experiment.folder import EXPERIMENT, FORECAST
from foretune.finetune.report import RESULT, RunReport, read_report
from foretune.store.atomic import names_in

Found = TypeVar("Found")
_MOST = 200
"""Folders that are looked at."""


def real_runs(folder: Path) -> list[tuple[str, RunReport]]:
    """Names and reports of the finished runs beside a folder, the newest first; none where it is not of an experiment.

    A folder that cannot be read is passed over: it is somebody else's.
    """
    return _beside(folder, RESULT, read_report)


def forecasts_beside(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and records of the forecasts beside a folder, as `real_runs` finds runs."""
    return _beside(folder, FORECAST, forecast_record)


def _beside(folder: Path, file: str, read: Callable[[Path], Found | None]) -> list[tuple[str, Found]]:
    """Names of the folders next to one that are of the same experiment, and what is read of each, the newest first.

    Args:
        folder: of an experiment.
        file: that the others must have.
        read: what is wanted of a folder; None where it holds none.
    """
    own = _identity(folder)
    if own is None:
        return []
    found = []
    with suppress(ForetuneError, OSError):
        around = folder.resolve().parent
        places = [around / name for name in names_in(around)[:_MOST]]
        for place in (each for each in places if (each / file).is_file() and (each / EXPERIMENT.file).is_file()):
            with suppress(ForetuneError, OSError, ValueError, TypeError, KeyError):
                other, what = _identity(place), read(place)
                if other is not None and what is not None and EXPERIMENT.same(own, other):
                    found.append(((place / file).stat().st_mtime, place.name, what))
    return [(name, what) for _, name, what in sorted(found, key=lambda item: item[0], reverse=True)]


def _identity(folder: Path) -> dict[str, object] | None:
    """The identity of the experiment of a folder; None where it has none."""
    with suppress(ForetuneError, OSError):
        if (folder / EXPERIMENT.file).is_file():
            return EXPERIMENT.present(folder)["identity"]
    return None
