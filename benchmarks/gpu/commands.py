"""The command line with `--device`, in processes of its own: a forecast of a 135M model, all else on a tiny one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.gpu.models import SIZES, TINY, Model, rows, tokenizer
from benchmarks.gpu.record import Record, Table

_PROMPT = ("--template", "{text} it was {mask} .", "--words", "negative=terrible,positive=great")
_FEW = ("rows.jsonl", *_PROMPT, "--k", 8, "--test", 16)
Line = tuple[object, ...]


def commands(record: Record, device: str, *, small: bool) -> None:
    """The section: each command's exit code and seconds, and what a forecast says of its own stages."""
    table = Table("Commands", ("command", "seconds", "came of it"))
    record.tables.append(table)
    with tempfile.TemporaryDirectory() as name:
        folder, at = Path(name), ("--device", device)
        _write_rows(folder / "rows.jsonl", 400)
        _saved(TINY["llama, prompt"], folder / "tiny")
        one_after_another: list[list[Line]] = [
            [
                ("kernel", "tiny", *_FEW, "--formula", "sgd,signgd,lora,projection", "--out", "kernel", *at),
                ("solve", "kernel"),
            ],
            [
                ("tune", "tiny", *_FEW, "--method", "lora", "--steps", 8, "--out", "lora", *at),
                ("behaviour", "lora", "--segment-examples", 1, "--segment-points", 1),
            ],
            [("forecast", "tiny", *_FEW, "--warm-up", 1, *at)],
            [
                ("forecast", "tiny", *_FEW, "--features", "sketched", "--out", "features", *at),
                ("labels", "tiny", "rows.jsonl", *_PROMPT, *at),
            ],
        ]
        with record.guarded("the command line on a tiny model, four processes at a time"):
            _run_all(record, table, folder, one_after_another[: 1 if small else None])
        if small:
            return
        with record.guarded("foretune forecast of the 135M model"):
            _saved(SIZES["135M Llama, prompt"], folder / "model")
            asked: Line = ("forecast", "model", "rows.jsonl", *_PROMPT, *at)
            _run_forecast(record, table, folder, asked, "forecast of the 135M model (k = 16, 64 test examples)")
        with record.guarded("foretune forecast of the MiniLM-size model from features"):
            _saved(SIZES["MiniLM-size encoder, head"], folder / "encoder")
            _write_rows(folder / "many.jsonl", 5000)
            many = ("many.jsonl", "--output", "head", "--n", 2000, "--test", 300, "--features", "sketched")
            _run_forecast(
                record, table, folder, ("forecast", "encoder", *many, *at), "forecast from features of 2,000 rows"
            )


def _run_forecast(record: Record, table: Table, folder: Path, line: Line, what: str) -> None:
    """A forecast, and what it says of its stages."""
    _run_all(record, table, folder, [[(*line, "--json", "forecast.json")]])
    stages = {
        stage["name"]: float(stage["seconds"]) for stage in json.loads((folder / "forecast.json").read_text())["stages"]
    }
    record.figure(what=f"stages of the {what}", **stages)
    table.notes.append(
        f"Stages of the {what}: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in stages.items())}."
    )


def _write_rows(file: Path, count: int) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(count, 56)), encoding="utf-8")


def _saved(model: Model, folder: Path) -> None:
    """A model folder, as `save_pretrained` writes it."""
    model.made(torch.float32).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _run_all(record: Record, table: Table, folder: Path, groups: Sequence[Sequence[Line]]) -> None:
    """Groups side by side, the commands of a group one after the other.

    Raises:
        RuntimeError: a command failed; with what it said.
    """
    with ThreadPoolExecutor(len(groups)) as pool:
        said = [
            line for lines in pool.map(lambda group: _group(record, table, folder, group), groups) for line in lines
        ]
    if said:
        raise RuntimeError("\n".join(said))


def _group(record: Record, table: Table, folder: Path, lines: Sequence[Line]) -> list[str]:
    """What the commands that failed said."""
    said = []
    for line in lines:
        shown = f"foretune {line[0]} {line[1]}"
        start = time.monotonic()
        try:
            result = subprocess.run(
                [sys.executable, "-m", "foretune", *map(str, line)],
                cwd=folder,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=max(60.0, record.left),
            )
            code, words = result.returncode, result.stderr
        except subprocess.TimeoutExpired:
            code, words = -1, "not finished in time"
        seconds = time.monotonic() - start
        record.figure(command=shown, seconds=seconds, code=code)
        table.rows.append((f"`{shown}`", f"{seconds:.1f}", f"exit code {code}"))
        if code:
            said.append(f"{shown}: {words[-2000:]}")
    return said
