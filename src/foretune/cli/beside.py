"""Real runs beside a forecast: finished folders of `tune`, next to its own, of the same model and examples."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from foretune.errors import ForetuneError
from foretune.experiment.folder import EXPERIMENT
from foretune.finetune.report import RESULT, RunReport, read_report
from foretune.store.atomic import names_in

_MOST = 200
"""Folders that are looked at."""


def real_runs(folder: Path) -> list[tuple[str, RunReport]]:
    """Names and reports of the finished runs beside a folder, the newest first; none where it is not of an experiment.

    A folder that cannot be read is passed over: it is somebody else's.
    """
    own = _identity(folder)
    if own is None:
        return []
    found = []
    with suppress(ForetuneError, OSError):
        around = folder.resolve().parent
        places = [around / name for name in names_in(around)[:_MOST]]
        for place in (each for each in places if (each / RESULT).is_file() and (each / EXPERIMENT.file).is_file()):
            with suppress(ForetuneError, OSError, ValueError, TypeError, KeyError):
                other, report = _identity(place), read_report(place)
                if other is not None and report is not None and EXPERIMENT.same(own, other):
                    found.append(((place / RESULT).stat().st_mtime, place.name, report))
    return [(name, report) for _, name, report in sorted(found, key=lambda item: item[0], reverse=True)]


def _identity(folder: Path) -> dict[str, object] | None:
    """The identity of the experiment of a folder; None where it has none."""
    with suppress(ForetuneError, OSError):
        if (folder / EXPERIMENT.file).is_file():
            return EXPERIMENT.present(folder)["identity"]
    return None
