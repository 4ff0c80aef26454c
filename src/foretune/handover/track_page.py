"""The page of the track record: every forecast beside its run, and how far the next one is to be trusted."""

from __future__ import annotations

import math

from foretune.analysis.conformal import LEVEL
from foretune.handover.track import TrackedRun, TrackRecord
from foretune.page import Cell, Column, Fact, Page, Span, Table


def track_page(found: TrackRecord) -> Page:
    """What was recorded, and what follows.

    Args:
        found: the record.
    """
    return Page(
        title="Forecasts beside their runs",
        answer=_answer(found),
        about=(Fact("Folder", found.folder),),
        facts=_facts(found),
        tables=(_table(found),) if found.runs else (),
        kind="track",
        data=found,
    )


def _answer(found: TrackRecord) -> str:
    state = (
        "Nothing is recorded: start with `foretune track --on`"
        if found.recording is None
        else f"Recorded since {found.recording[:10]}: every `foretune tune --from`"
    )
    if not found.runs:
        return f"{state}. There is no run yet."
    runs = "1 run" if len(found.runs) == 1 else f"{len(found.runs)} runs"
    return f"{state}. {runs} so far: accuracy off by {100 * found.off:.1f} points."


def _facts(found: TrackRecord) -> tuple[Fact, ...]:
    if not found.runs:
        return ()
    held = f"{found.held:.0%} of the announced intervals hold the real score; bias {100 * found.bias:+.1f} points."
    needed = (
        f"{math.ceil(LEVEL / (1 - LEVEL))} runs are needed to say how wide an interval must be."
        if math.isinf(found.factor)
        else f"Stretch an announced interval by {found.factor:.2f} to hold the next score with {LEVEL:.0%}."
    )
    called = f"{found.right} of {found.calls} calls of go or no-go were right." if found.calls else "None was called."
    return Fact("Intervals", f"{held} {needed}"), Fact("Go or no-go", called)


def _table(found: TrackRecord) -> Table:
    columns = (
        Column("run", words=True),
        Column("model", words=True),
        Column("data", words=True),
        Column("trained", words=True, drop=1),
        Column("called", words=True),
        Column("announced", ".2f"),
        Column("from - to", words=False),
        Column("real", ".2f"),
        Column("loss, expected", ".3f", drop=3),
        Column("loss, real", ".3f", drop=2),
    )
    return Table(columns, tuple(map(_row, found.runs)), "Test scores; losses are validation losses in nats")


def _row(run: TrackedRun) -> tuple[Cell, ...]:
    return (
        run.when[:10],
        run.model,
        run.data,
        run.trained,
        run.decision,
        run.announced,
        Span(run.low, run.high),
        run.real,
        run.expected_loss,
        run.real_loss,
    )
