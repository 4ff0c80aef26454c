"""What is measured, and what a measurement says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import foretune as ft
from foretune.model.outputs import Outputs
from foretune.text.example import Example


@dataclass(frozen=True)
class Case:
    """A model, its outputs and how many examples."""

    model: str
    n: int
    difference: bool = False

    def outputs(self, *, eager: bool = False) -> tuple[Outputs, list[Example]]:
        """The model as a function, and n examples."""
        lm, task = ft.load_model(self.model), ft.load_task("movies")
        if eager:
            lm.module.set_attn_implementation("eager")
        examples = task.few_shot(ft.load_rows(task), k=16, seed=13, test=self.n).test
        if self.model == "minilm":
            return ft.HeadLogits(lm, difference=self.difference), examples
        return ft.AnswerLogits(lm, task, difference=self.difference), examples


@dataclass(frozen=True)
class Measured:
    """One run: seconds of the whole kernel, bytes above the loaded model, a checksum, and what was extrapolated."""

    seconds: float
    peak: int
    trace: float
    note: str = ""
    flops: float = 0.0


def in_a_process(benchmark: str, *words: object, threads: int | None = None) -> dict[str, Any]:
    """What `python -m BENCHMARK --one WORDS` prints last, as JSON; `failed` and why where it prints none.

    Args:
        benchmark: the module.
        words: model, method and so on.
        threads: of every library; as the environment says when left out.
    """
    command = [sys.executable, "-m", benchmark, "--one", *map(str, words)]
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        return {"failed": (result.stderr.strip().splitlines() or ["killed"])[-1][:160]}
    return json.loads(result.stdout.splitlines()[-1])
