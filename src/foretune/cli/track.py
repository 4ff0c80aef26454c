"""`track`: forecasts beside the runs that were made from them."""

from __future__ import annotations

import warnings
from pathlib import Path

from foretune.cli.deliver import deliver
from foretune.cli.from_forecast import forecast_record
from foretune.cli.options import ReportOptions
from foretune.cli.places import Places
from foretune.cli.track_options import TrackOptions
from foretune.errors import StorageError
from foretune.finetune.report import RunReport
from foretune.handover.track import clear_records, record_run, record_runs, track_record
from foretune.handover.track_page import track_page


def run_track(options: TrackOptions, report: ReportOptions) -> None:
    """Switch, or delete, where asked; then show what is there.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    Places(report.json).check()
    if options.clear:
        clear_records()
    if options.on or options.off:
        record_runs(wanted=options.on)
    deliver(track_page(track_record()), report)


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
