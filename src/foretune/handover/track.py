r"""Forecasts beside what came of them, run by run: how far this user's forecasts are to be trusted.

    CACHE/track/track.json    that runs are recorded, from when on
    CACHE/track/HASH.json     one run of `foretune tune --from`: what was announced and what it reached; no text of any row

Nothing is written before `foretune track --on`, nothing leaves the machine, and `foretune track --clear` deletes it. A
run that is repeated is one record. What stands under such a name and is not as foretune wrote it is neither read, nor
replaced, nor deleted.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foretune.analysis.conformal import ConformalInterval, conformal_factor, needed_factors, stretched
from foretune.analysis.scores import Score, least_score
from foretune.candidates.verdict import Decision
from foretune.finetune.report import RunReport
from foretune.store.atomic import library_writes
from foretune.store.kept import DamagedError, identity_hash, own_values, read_kept, write_kept
from foretune.store.packages import cache_folder

SWITCH = "track.json"
_DIGITS = 16
_RECORD = re.compile(rf"[0-9a-f]{{{_DIGITS}}}\.json")


@dataclass(frozen=True)
class TrackedRun:
    """A forecast and the run that was made from it.

    Attributes:
        when: end of the run, UTC.
        model, data: as they were typed.
        trained: what was trained, in words.
        train, test: numbers of training and test examples.
        decision: `go`, `no-go` or `cannot tell`.
        before: announced score without training, by the rule of the forecast.
        announced, low, high: announced score with its interval.
        real: test score of the run.
        real_before: test score without training, as the run measures it.
        expected_loss, real_loss: validation loss that was expected of its best checkpoint, and that of it, nats.
    """

    when: str
    model: str
    data: str
    trained: str
    train: int
    test: int
    decision: Decision
    before: float
    announced: float
    low: float
    high: float
    real: float
    real_before: float
    expected_loss: float
    real_loss: float


@dataclass(frozen=True)
class TrackRecord:
    """All of them together.

    Attributes:
        recording: since when runs are recorded; None where they are not.
        folder: where the records are.
        runs: the records, the oldest first.
        off: root mean square distance of announced and real scores, 0 to 1; not a number without runs.
        bias: mean of announced minus real.
        held: share of the announced intervals that hold the real score.
        factor: by which the next interval has to be stretched to hold with 95% (`analysis.conformal`); infinite for fewer
            than 19 runs.
        calls, right: how often `go` or `no-go` was called, and how often the run gained as called.
    """

    recording: str | None
    folder: str
    runs: Sequence[TrackedRun]
    off: float
    bias: float
    held: float
    factor: float
    calls: int
    right: int


def track_folder() -> Path:
    """Where records are kept."""
    return cache_folder() / "track"


def recording_since() -> str | None:
    """Since when runs are recorded; None where they are not."""
    return _read(track_folder() / SWITCH).get("since")


def record_runs(*, wanted: bool) -> None:
    """Record runs from now on, or no longer; records that are there stay.

    Raises:
        StorageError: the cache folder cannot be written, or a file of somebody else stands there.
    """
    file = track_folder() / SWITCH
    with library_writes(file):
        if wanted and "since" not in (own_values(file) or {}):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_kept(file, {"since": _now()})
        elif not wanted and recording_since() is not None:
            file.unlink(missing_ok=True)


def clear_records() -> int:
    """Delete every record, and record no longer; how many there were. What is not as foretune wrote it stays, and is named.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    files = {file: bool(_read(file)) for file in _records()}
    with library_writes(track_folder()):
        for file, own in files.items():
            if own:
                file.unlink()
            else:
                warnings.warn(f"{file} is not a record as foretune wrote it, and stays.", stacklevel=2)
    record_runs(wanted=False)
    return sum(files.values())


def record_run(forecast: Mapping[str, Any], run: RunReport) -> None:
    """Write a finished run beside its forecast, where runs are recorded and the run has a test score.

    Args:
        forecast: what the forecast's JSON file holds.
        run: trained as it recommends.

    Raises:
        StorageError: the cache folder cannot be written, or a file of somebody else stands under the name of the record.
    """
    if recording_since() is None or run.test is None or run.zero_shot is None:
        return
    picked, identity = forecast["forecast"]["recommended"], forecast["identity"]
    score, settings = picked["predicted"]["score"], forecast["about"]["settings"]
    found = TrackedRun(
        when=_now(),
        model=str(settings["model"]),
        data=str(settings["data"]),
        trained=f"{picked['candidate']['name']}, {run.about['method']}",
        train=run.about["sizes"]["train"],
        test=run.about["sizes"]["test"],
        decision=forecast["decision"],
        before=forecast["forecast"]["before"]["value"],
        announced=score["value"],
        low=score["low"],
        high=score["high"],
        real=run.test.value,
        real_before=run.zero_shot.value,
        expected_loss=picked["adamw"]["expected_loss"],
        real_loss=min(line.validation_loss for line in run.stages[-1].history),
    )
    name = identity_hash({"forecast": identity, "run": forecast["tune_options"]})[:_DIGITS]
    file = track_folder() / f"{name}.json"
    with library_writes(file):
        own_values(file)
        write_kept(file, asdict(found))


def track_record() -> TrackRecord:
    """What was recorded so far; what cannot be read, or is of another version, is left out."""
    names = {field.name for field in fields(TrackedRun)}
    runs = [TrackedRun(**values) for file in _records() if {*(values := _read(file))} == names]
    runs.sort(key=lambda run: run.when)
    real, value, low, high = (
        np.array([getattr(run, name) for run in runs], dtype=float) for name in ("real", "announced", "low", "high")
    )
    off, called = value - real, [run for run in runs if run.decision != "cannot tell"]
    some = len(runs) > 0
    return TrackRecord(
        recording=recording_since(),
        folder=str(track_folder()),
        runs=runs,
        off=float(np.sqrt(np.mean(off**2))) if some else float("nan"),
        bias=float(off.mean()) if some else float("nan"),
        held=float(np.mean((low <= real) & (real <= high))) if some else float("nan"),
        factor=conformal_factor(needed_factors(real, value, low, high)),
        calls=len(called),
        right=sum((run.real > run.real_before) == (run.decision == "go") for run in called),
    )


def tracked_interval(score: Score, metric: str) -> ConformalInterval | None:
    """The interval of an announced score by the runs so far; None where they are not recorded, or fewer than 19.

    Args:
        score: announced.
        metric: `accuracy`, `f1` or `matthews`.
    """
    if recording_since() is None:
        return None
    found = track_record()
    if math.isinf(found.factor):
        return None
    low, high = stretched(score.value, score.low, score.high, found.factor)
    return ConformalInterval(max(low, least_score(metric)), min(high, 1.0), found.factor, len(found.runs))


def _records() -> list[Path]:
    """Files that are named as `record_run` names them; others that stand there are left alone."""
    return [file for file in sorted(track_folder().glob("*.json")) if _RECORD.fullmatch(file.name) and file.is_file()]


def _read(file: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is missing or damaged."""
    try:
        return {**read_kept(file)} if file.is_file() else {}
    except DamagedError:
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
