"""`track`: forecasts beside the runs that were made from them."""

from __future__ import annotations

from foretune.cli.deliver import deliver
from foretune.cli.options import ReportOptions
from foretune.cli.places import Places
from foretune.cli.track_options import TrackOptions
from foretune.handover.track import clear_records, record_runs, track_record
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
