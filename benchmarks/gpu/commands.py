"""The command line with `--device`, in processes of its own: a forecast of a 135M model, every other command on a tiny one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.models import SIZES, TINY, Model, rows, tokenizer
from benchmarks.gpu.record import Record, Table

_PROMPT = ("--template", "{text} it was {mask} .", "--words", "negative=terrible,positive=great")


def commands(record: Record, device: str, *, small: bool) -> None:
    """The section: each command's exit code and seconds, and what a forecast says of its own stages."""
    table = Table("Commands", ("command", "seconds", "came of it"))
    record.tables.append(table)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_rows(folder / "rows.jsonl", 400)
        tiny = _saved(TINY["llama, prompt"], folder / "tiny")
        steps = [
            ("kernel", tiny, ["rows.jsonl", *_PROMPT, "--k", 8, "--test", 16, "--formula", "sgd,signgd,lora,projection",
                              "--out", "kernel"]),
            ("tune", tiny, ["rows.jsonl", *_PROMPT, "--k", 8, "--test", 16, "--method", "lora", "--steps", 8, "--out", "lora"]),
            ("behaviour", None, ["lora", "--segment-examples", 1, "--segment-points", 1]),
            ("forecast", tiny, ["rows.jsonl", *_PROMPT, "--k", 8, "--test", 16, "--warm-up", 1]),
        ]  # fmt: skip
        for command, model, arguments in steps[: 2 if small else None]:
            with record.guarded(f"foretune {command} on a tiny model"):
                placed = ["--device", device] if model else []
                _run(record, table, folder, f"{command}, tiny Llama", [command, *([model] if model else []), *arguments, *placed])
        if small:
            return
        with record.guarded("foretune forecast of the 135M model"):
            model = _saved(SIZES["135M Llama, prompt"], folder / "model")
            _run(
                record, table, folder, "forecast, 135M Llama, k = 16, 64 test examples",
                ["forecast", model, "rows.jsonl", *_PROMPT, "--device", device, "--json", "forecast.json"],
            )  # fmt: skip
            stages = json.loads((folder / "forecast.json").read_text())["stages"]
            record.figure(what="stages of the forecast", **{stage["name"]: float(stage["seconds"]) for stage in stages})
            table.notes.append(
                "Stages of the 135M forecast: " + ", ".join(f"{s['name']} {s['seconds']:.1f} s" for s in stages) + "."
            )


def _write_rows(file: Path, count: int) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(count, 56)), encoding="utf-8")


def _saved(model: Model, folder: Path) -> Path:
    """A model folder, as `save_pretrained` writes it."""
    model.made(torch.float32).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def _run(record: Record, table: Table, folder: Path, shown: str, arguments: list[object]) -> None:
    """One command; its failure is recorded with what it said."""
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "foretune", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=max(30.0, record.left),
    )
    seconds = time.monotonic() - start
    record.figure(command=shown, seconds=seconds, code=result.returncode)
    table.rows.append((shown, f"{seconds:.1f}", "done" if result.returncode == 0 else f"exit code {result.returncode}"))
    if result.returncode:
        raise RuntimeError(f"{shown}: {result.stderr[-2000:]}")
