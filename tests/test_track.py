"""The track record: forecasts beside their runs, kept only where that was asked for."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from foretune.analysis.scores import Score
from foretune.errors import StorageError
from foretune.handover.track import (
    SWITCH,
    TrackedRun,
    clear_records,
    record_runs,
    recording_since,
    track_folder,
    track_record,
    tracked_interval,
)
from foretune.handover.track_page import track_page
from foretune.store.kept import write_kept
from tests.conftest import WORDS, assert_refused, assert_valid, many_rows, run_cli, write_jsonl

RUN = TrackedRun("2026-01-02T03:04:05+00:00", "m", "d", "layer 1, lora", 16, 32, "go", 0.5, 0.8, 0.7, 0.9, 0.76, 0.5,
                 0.4, 0.5)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keep(*runs: TrackedRun) -> None:
    track_folder().mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs):
        write_kept(track_folder() / f"{number:016}.json", asdict(run))


def test_nothing_is_recorded_before_it_is_asked_for_and_clear_deletes_all(cache: Path) -> None:
    assert recording_since() is None and not cache.exists()
    record_runs(wanted=True)
    since = recording_since()
    record_runs(wanted=True)
    assert since is not None and recording_since() == since  # asked twice, begun once
    keep(RUN)
    record_runs(wanted=False)
    assert recording_since() is None and len(track_record().runs) == 1  # the records stay
    assert clear_records() == 1 and not list(track_folder().glob("*"))


def test_clear_leaves_what_is_not_a_record(cache: Path) -> None:
    record_runs(wanted=True)
    keep(RUN)
    for name in ("backup.json", "notes.txt"):
        (track_folder() / name).write_text("mine")
    (track_folder() / f"{7:016}.json").mkdir()
    (track_folder() / f"{8:016}.json").write_text('{"mine": 1}')
    with pytest.warns(UserWarning, match=f"{8:016}.json is not a record as foretune wrote it, and stays"):
        assert clear_records() == 1
    assert recording_since() is None
    left = {"backup.json", "notes.txt", f"{7:016}.json", f"{8:016}.json"}
    assert {file.name for file in track_folder().iterdir()} == left
    (track_folder() / "track.json").write_text("mine")
    record_runs(wanted=False)
    with pytest.raises(StorageError, match=r"track\.json is damaged.*Move it away and repeat the command: mv -- "):
        record_runs(wanted=True)
    assert (track_folder() / "track.json").read_text() == "mine"


def test_the_record_says_how_far_forecasts_were_off_and_what_an_interval_needs(cache: Path) -> None:
    runs = [replace(RUN, real=0.8 - 0.01 * (number % 5), when=f"2026-01-{number + 1:02}") for number in range(18)]
    missed = replace(RUN, real=0.6, when="2026-02-01")  # 0.1 is the half width: it needs 2
    keep(missed, *runs)
    found = track_record()
    assert [run.when for run in found.runs][-1] == "2026-02-01" and found.recording is None
    assert found.factor == pytest.approx(2) and found.held == pytest.approx(18 / 19)
    offs = [0.01 * (number % 5) for number in range(18)] + [0.2]
    assert found.bias == pytest.approx(sum(offs) / 19)
    assert found.off == pytest.approx(math.sqrt(sum(each**2 for each in offs) / 19))
    (track_folder() / f"{3:016}.json").unlink()
    assert math.isinf(track_record().factor)  # 18 runs promise nothing
    assert "19 runs are needed" in track_page(track_record()).facts[0].text


def test_an_announced_score_gets_the_interval_that_earlier_runs_needed(
    cache: Path, bert_folder: Path, tmp_path: Path
) -> None:
    keep(*[replace(RUN, real=0.6, when=f"2026-01-{number + 1:02}") for number in range(19)])  # each needs 2
    score = Score(0.8, 0.75, 0.95)
    assert tracked_interval(score, "accuracy") is None  # nothing is recorded: nothing is asked
    record_runs(wanted=True)
    found = tracked_interval(score, "accuracy")
    assert found is not None and (found.factor, found.cases) == (pytest.approx(2), 19)
    assert (found.low, found.high) == (pytest.approx(0.7), 1.0)  # a score is 1 at most
    write_jsonl(tmp_path / "reviews.jsonl", many_rows(60))
    words = (
        "forecast",
        bert_folder,
        tmp_path / "reviews.jsonl",
        "--k",
        4,
        "--test",
        16,
        "--rank",
        1,
        "--json",
        tmp_path / "f.json",
    )
    result = run_cli(*words, env={"FORETUNE_CACHE": str(cache)})
    assert result.returncode == 0, result.stderr
    told = json.loads((tmp_path / "f.json").read_text())
    assert told["tracked"]["cases"] == 19
    low, high = told["tracked"]["low"], told["tracked"]["high"]
    assert f"By your 19 runs so far it is {low:.2f} to {high:.2f}" in " ".join(result.stdout.split())
    (track_folder() / f"{0:016}.json").unlink()
    assert tracked_interval(score, "accuracy") is None  # 18 promise nothing


def test_calls_are_right_where_the_run_gains_as_called(cache: Path) -> None:
    keep(RUN, replace(RUN, real=0.4), replace(RUN, decision="no-go", real=0.4), replace(RUN, decision="cannot tell"))
    found = track_record()
    assert (found.calls, found.right) == (3, 2)


def test_what_is_damaged_or_of_another_version_is_left_out(cache: Path) -> None:
    keep(RUN, RUN)
    (track_folder() / f"{1:016}.json").write_text("{")
    write_kept(track_folder() / f"{99:016}.json", {"when": "2025"})
    assert len(track_record().runs) == 1


def test_a_run_from_a_forecast_is_recorded_once_and_only_where_wanted(
    model_folder, tmp_path: Path, cache: Path
) -> None:
    env = {"FORETUNE_CACHE": str(cache)}
    write_jsonl(tmp_path / "reviews.jsonl", many_rows(60))
    made = run_cli("forecast", model_folder("bert-masked"), "reviews.jsonl", "--k", 8, "--test", 16, WORDS, "--steps", 6,
                   "--rank", 2, "--out", "out", cwd=tmp_path, env=env)  # fmt: skip
    assert made.returncode == 0, made.stderr
    tune = ("tune", "--from", "out/forecast.json", "--out")
    assert run_cli(*tune, "before", cwd=tmp_path, env=env).returncode == 0
    assert not (cache / "track").exists()
    assert run_cli("track", "--on", cwd=tmp_path, env=env).returncode == 0
    for out in ("one", "again"):
        assert run_cli(*tune, out, cwd=tmp_path, env=env).returncode == 0
    assert run_cli(*tune, "other", "--learning-rate", 1e-5, cwd=tmp_path, env=env).returncode == 0  # another run
    result = run_cli("track", "--json", tmp_path / "track.json", cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "track.json").read_text())
    assert_valid("track", record)
    (run,) = record["runs"]
    forecast = json.loads((tmp_path / "out" / "forecast.json").read_text())
    outcome = json.loads((tmp_path / "one" / "result.json").read_text())
    assert run["announced"] == forecast["forecast"]["recommended"]["predicted"]["score"]["value"]
    assert run["real"] == outcome["test"]["value"] and run["decision"] == forecast["decision"]
    lowest = min(line["validation_loss"] for line in outcome["stages"][-1]["history"])
    assert run["real_loss"] == lowest and run["train"] == 16
    assert not any(row["text"] in json.dumps(record) for row in many_rows(60))
    names = {file.name for file in (cache / "track").iterdir()}
    assert len(names) == 2 and SWITCH in names
    (name,) = names - {SWITCH}
    kept = (cache / "track" / name).read_bytes()
    (cache / "track" / name).write_text("mine")
    refused = run_cli(*tune, "third", cwd=tmp_path, env=env)
    assert refused.returncode == 0 and f"{name} is damaged" in refused.stderr
    assert (cache / "track" / name).read_text() == "mine"
    (cache / "track" / name).write_bytes(kept)
    assert run_cli("track", "--clear", cwd=tmp_path, env=env).returncode == 0
    assert not list((cache / "track").iterdir())


def test_a_cache_that_cannot_be_written_does_not_fail_a_finished_run(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foretune.cli import followed as command
    from foretune.errors import StorageError

    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(command, "record_run", full)
    monkeypatch.setattr(command, "forecast_record", lambda _: {})
    with pytest.warns(UserWarning, match=r"is finished, but it is not recorded .* The disk is full"):
        command.recorded(Path("x"), None)  # pyright: ignore[reportArgumentType]


def test_on_and_off_contradict() -> None:
    assert_refused(run_cli("track", "--on", "--off"), 2, "--off contradicts --on")
