"""Which linearization announces the level of a real run: at the start, after a small warm-up, after a third of a run.

    PYTHONPATH=src python -m benchmarks.level minilm --data DATA --tasks trec --seeds 13 --out runs/level

DATA has a folder for each task. Every task and seed is a cell of real LoRA runs of some placements (AdamW at --rate, kept
and read again). The same scores are then taken from three models:

    start       the pretrained model
    warm-up     after four steps of full tuning at 5e-5 (`--warm-up 4` of forecast and validate)
    third       after a third of the steps of one run of LoRA on all linear layers at --rate, its adapters merged

and set against what each placement really reached: mean distance of the announced test accuracy (points) and of the lowest
validation loss (nats), with the bias, and the rank correlation of the predicted with the real test loss. The seconds are
those of the steps before the linearization.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foretune.analysis.rank_statistics import rank_correlation
from foretune.candidates.adam import best_predicted
from foretune.candidates.announced import announced, announcing_pool
from foretune.candidates.candidate import Candidate
from foretune.candidates.pool import pool_of
from foretune.experiment.experiment import Experiment
from foretune.experiment.sample import Sampled
from foretune.experiment.setting import PROBED_HEAD, PROMPT
from foretune.finetune.copies import outputs_on
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import fine_tuned
from foretune.finetune.training import Training
from foretune.model.load import load_model
from foretune.validation.runs import Measured, ValidationStudy, candidates_of, measured_candidates

WARM_UP = 4


def after_a_third(cell: Experiment, rank: int, run: Training) -> Experiment:
    """The experiment with the model that a third of one run on all linear layers leaves, its adapters merged."""
    steps = max(1, run.steps_for(len(cell.split.train)) // 3)
    short = replace(run, steps=steps, epochs=None, evaluate_every=steps)
    found = fine_tuned(cell.outputs, cell.task, replace(cell.split, test=[]), LoRATuning(rank), short)
    lm: Any = found.outputs.lm
    for parameter in lm.module.parameters():
        parameter.data = parameter.data.clone()  # the pretrained model shares them, and merging writes into them
    merged = replace(lm, module=lm.module.merge_and_unload().requires_grad_())  # peft froze it
    return replace(cell, outputs=outputs_on(merged, found.outputs), folder=None)


def row(cell: Experiment, real: Measured, chosen: list[Candidate], run: Training, seconds: float) -> dict[str, float]:
    """How far the predictions from one model are off."""
    rank = chosen[0].rank
    announcing = announcing_pool(cell, rank)
    told = [announced(announcing, item).value for item in chosen]
    pool = pool_of(cell, rank, [run])
    losses = np.array([best_predicted(pool.evidence(item).adam).lowest for item in chosen])
    labels = np.array([pool.evidence(item).labels.error for item in chosen])
    off, nats = np.array(told) - real.test_scores, losses + real.validation_losses
    return {
        "accuracy, off": 100 * float(np.abs(off).mean()),
        "accuracy, bias": 100 * float(off.mean()),
        "loss, off": float(np.abs(nats).mean()),
        "loss, bias": float(nats.mean()),
        "rank, simulated Adam": float(rank_correlation(-losses, -real.losses)),
        "rank, label regression": float(rank_correlation(-labels, -real.losses)),
        "seconds": seconds,
    }


def main() -> None:
    """Measure cell by cell; each is a line of JSON in OUT/level.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="trec,mr,subj")
    parser.add_argument("--seeds", default="13,21,42")
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--evaluate-every", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--output", choices=("head", "prompt"), default="head")
    parser.add_argument("--candidates", default="*")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    lm = load_model(options.model, device=options.device)
    run = Training(
        optimiser=AdamWOptimiser(options.rate),
        batch_size=16,
        epochs=options.epochs,
        evaluate_every=options.evaluate_every,
        best_by="loss",
        dropout=False,
    )
    file = options.out / "level.jsonl"
    done = {tuple(json.loads(line)["cell"]) for line in file.read_text().splitlines()} if file.exists() else set()
    for seed in map(int, options.seeds.split(",")):
        for task in options.tasks.split(","):
            if (task, seed, options.n) in done:
                continue
            study = ValidationStudy(
                lm=lm,
                tasks=(task,),
                sample=Sampled(options.n),
                seeds=(seed,),
                test=options.test,
                rank=options.rank,
                grid=(run,),
                root=options.out / options.model,
                data=options.data,
                candidates=tuple(options.candidates.split(",")),
                output={"head": PROBED_HEAD, "prompt": PROMPT}[options.output],
                memory=options.memory,
            )
            (real,) = measured_candidates(study)
            cell = study.cell(task, seed)
            known = {item.label: item for item in candidates_of(cell, options.rank)}
            chosen = [known[label] for label in real.names]
            start = time.perf_counter()
            third = after_a_third(cell, options.rank, run)
            seconds = time.perf_counter() - start
            rows = {
                "start": row(cell, real, chosen, run, 0.0),
                "warm-up": row(cell.warmed(WARM_UP), real, chosen, run, cell.warm_up_seconds(WARM_UP)),
                "third": row(third, real, chosen, run, seconds),
            }
            with file.open("a") as opened:
                opened.write(json.dumps({"cell": (task, seed, options.n), "k": len(chosen), **rows}) + "\n")
            for name, values in rows.items():
                print(task, seed, name, {key: round(value, 3) for key, value in values.items()}, flush=True)


if __name__ == "__main__":
    main()
