"""Announced accuracy, learning rates and go or no-go on prompts, against real runs; it goes on where it was stopped.

    PYTHONPATH=src python -m benchmarks.prompt_calibration --data DATA --out runs/prompts

DATA has a folder for each task with train.jsonl and test.jsonl. Every task, k and seed is a cell: four placements of LoRA
(rank 8) at three learning rates of AdamW, each for the run that a forecast plans by default (three passes, 48 steps at
least, batches of 16), and what the forecast announces for each placement. A run of SmolLM2 takes about 80 s on one core, so
that a cell of k = 16 takes a quarter of an hour, and the page is written again after each. With `--plan` the cells are
listed and nothing is computed.

OUT/MODEL/        cells: kernels, runs, values
OUT/k16/, k64/    the pages so far, as `foretune validate` writes them
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

import foretune
from foretune.candidates.adam import planned_run
from foretune.cli.versions import versions
from foretune.experiment.sample import FewShot
from foretune.experiment.setting import PROMPT
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.model.load import LanguageModel, load_model
from foretune.pages.folder import write_page
from foretune.text.builtin import load_task
from foretune.validation.data import validation_data
from foretune.validation.page import validation_page
from foretune.validation.runs import Measured, ValidationStudy, measured_candidates

PLACEMENTS = "layer model.layers.12,mlp.down_proj,query and value,all linear"


def asked_cells(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Task and seed of every cell."""
    if options.cells:
        return [(task, int(seed)) for task, _, seed in (cell.rpartition("-") for cell in options.cells.split(","))]
    return [(task, seed) for seed in map(int, options.seeds.split(",")) for task in options.tasks.split(",")]


def studies(lm: LanguageModel, k: int, options: argparse.Namespace) -> Iterator[ValidationStudy]:
    """One study a cell, seed by seed, so that every task is there early."""
    for task, seed in asked_cells(options):
        run = planned_run(k * len(load_task(task).labels))
        rates = map(float, options.rates.split(","))
        yield ValidationStudy(
            lm=lm,
            tasks=(task,),
            sample=FewShot(k),
            seeds=(seed,),
            test=options.test,
            rank=options.rank,
            grid=tuple(replace(run, optimiser=AdamWOptimiser(rate)) for rate in rates),
            root=options.out / options.model,
            data=options.data,
            candidates=tuple(options.candidates.split(",")),
            output=PROMPT,
            prodigy=options.prodigy,
            memory=options.memory,
            announce=not options.unannounced,
        )


def cells_of(page: Path) -> list[Measured]:
    """The cells of a page, as they were measured."""
    return [TypeAdapter(Measured).validate_python(cell) for cell in json.loads(page.read_text())["cells"]]


def write(cells: list[Measured], study: ValidationStudy, k: int, options: argparse.Namespace) -> None:
    """The page of the cells so far."""
    asked = replace(
        study,
        tasks=tuple(dict.fromkeys(cell.task for cell in cells)),
        seeds=tuple(dict.fromkeys(cell.seed for cell in cells)),
    )
    command = shlex.join(["python", "-m", "benchmarks.prompt_calibration", *sys.argv[1:]])
    page = validation_page(validation_data(cells, versions()), asked)
    write_page(options.out / f"k{k}", page, command, foretune.__version__)


def main() -> None:
    """Measure cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per task")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", default="mr,sst2,subj,cola,trec,mpqa")
    parser.add_argument("--k", default="16,64", help="training examples per label")
    parser.add_argument("--seeds", default="13,21,42")
    parser.add_argument("--cells", default="", help="these alone, such as mr-13,subj-21, instead of tasks times seeds")
    parser.add_argument("--rates", default="2e-4,1e-3,3e-3")
    parser.add_argument("--candidates", default=PLACEMENTS)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prodigy", action="store_true", help="one more run of each placement, by Prodigy")
    parser.add_argument("--unannounced", action="store_true", help="scores and rates alone, without announcements")
    parser.add_argument(
        "--join", type=Path, nargs="+", help="compute nothing: one page of the cells of these page.json"
    )
    parser.add_argument("--plan", action="store_true", help="list the cells and stop")
    options = parser.parse_args()
    if options.join and "," in options.k:
        parser.error("--join makes the page of one k: add --k 16")
    lm = load_model(options.model, device=options.device)
    if options.join:
        cells = [cell for file in options.join for cell in cells_of(file)]
        k = int(options.k)
        write(cells, next(studies(lm, k, options)), k, options)
        return
    for k in map(int, options.k.split(",")):
        cells: list[Measured] = []
        for study in studies(lm, k, options):
            name = (
                f"k={k} {study.tasks[0]} seed {study.seeds[0]}: {study.grid[0].steps} steps at {len(study.grid)} rates"
            )
            print(name, flush=True)
            if not options.plan:
                cells += measured_candidates(study)
                write(cells, study, k, options)


if __name__ == "__main__":
    main()
